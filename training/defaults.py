"""Defaults that a command's help shows, where the help must not wait for the code that uses them.

Modules of training take theirs from here. The formats and the constants of the preprocessing have homes of their own,
which need half a second to import; a test holds the copies to them.
"""

from __future__ import annotations

FORMATS = (
    "ptbxl", "cinc2021", "cpsc2021", "mitdb", "cinc2015", "brugada", "mimic", "code15", "sph", "muse", "aecg", "dicom",
    "wfdb",
)  # fmt: skip
"""Formats of archives; their home is `training.data.readers.FORMATS`."""
RATE, SECONDS, HIGHPASS, NOTCHES = 250.0, 10.0, 0.5, (50.0, 60.0, 100.0, 120.0)
"""Hz, s, Hz and Hz of prepared windows; their home is `agent.core.preprocessing.Preprocessing`."""
STEP_SECONDS = 5.0
"""From one window of a long recording to the next, as on the ward."""

LANGUAGES = ("de", "en", "fr", "sv")
"""Of reports: the dictionary has a file for each."""

RESAMPLES = 1000
"""Draws behind an interval."""
BATCHES = (1, 8, 32)
"""Batch sizes whose cost is measured."""

WINDOWS, HOURS = 1000, 4.0
"""Windows and hours of whole recordings on which engines are compared with fp32 torch."""
