#!/usr/bin/env bash
# What: pyEDFlib 0.1.42 writes a missing sample (NaN) as the lowest value of the range, clips what is beyond the range,
#   and fills the last data record up with 0 mV; without a word.
# Bedside: a gap becomes a downward spike of 2 mV that looks like an extrasystole or a pacing spike; a strip of
#   10.5 s ends in half a second of a flat line.
# One would guess: NaN is refused (EDF cannot hold it), the range is checked, the length is kept.
# What happens: all three are written silently; edfio, for one, refuses the first two.
# Source: EDF specification 1992 (integers between digital minimum and maximum, whole data records only).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pyedflib==0.1.42 numpy==2.4.6
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import warnings

import numpy as np
import pyedflib


def round_trip(signal, low, high):
    with pyedflib.EdfWriter("strip.edf", 1, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        file.setSignalHeader(
            0,
            {
                "label": "ECG II", "dimension": "mV", "sample_frequency": 250, "physical_min": low, "physical_max": high,
                "digital_min": -32768, "digital_max": 32767, "transducer": "", "prefilter": "",
            },
        )
        file.writeSamples([signal])
    with pyedflib.EdfReader("strip.edf") as file:
        return file.readSignal(0)


print("pyedflib", pyedflib.__version__)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    signal = np.full(2625, 0.2)  # 10.5 s
    signal[100], signal[200] = np.nan, 9.0
    seen = round_trip(signal, -2, 8)
print("guess: an error or a warning for NaN, for 9 mV in a range to 8 mV, and for half a data record")
print(f"NaN -> {seen[100]:.3f} mV; 9 mV -> {seen[200]:.3f} mV; {len(signal)} samples -> {len(seen)}, "
      f"the last 125 all {seen[-1]:.3f} mV; warnings: {[str(w.message) for w in said]}")
assert seen[100] == -2 and seen[200] == 8 and not said
assert len(seen) == 2750 and abs(seen[2625:]).max() < 0.001
PY
