"""What the demo's beds play: real recordings of patients that the weights never saw, or what stands in for them.

With the open collections at hand every bed is real. Without, a 12-lead ECG that pydicom ships plays on one bed of each
half, and the others come from the project's own generator, which the titles, the page and the logs call synthetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, ChannelKind, FloatArray, Lead
from agent.core.errors import DeepECGError
from agent.simulator.demonstration import DEMONSTRATION, DemonstrationRecord
from agent.simulator.ecg import Rhythm, synthesize
from agent.sources.replay import ReplayError, read_record

_SECONDS = 300.0
"""As much of a long recording as a bed keeps in memory; then it begins again."""
_SYNTHETIC_SECONDS = 120.0
_RATE = 250.0
"""Of the synthetic beds."""
_FADE = 0.2
"""Seconds over which a short recording's end is faded into its beginning."""

Feed = Literal["mqtt", "hl7"]


class RecordingsError(DeepECGError):
    """The demo's recordings cannot be had; one sentence with the remedy."""


@dataclass(frozen=True, slots=True, eq=False)
class DemoBed:
    """One bed of the demo."""

    bed: str
    """``site/unit/bed``."""
    feed: Feed
    """Which way its signal goes to the agent."""
    title: str
    """For the page and the log: what plays here; says so where it is synthetic."""
    origin: str
    """``mitdb/221``, ``pydicom/waveform_ecg.dcm``, ``synthetic/afib``."""
    synthetic: bool
    leads: tuple[Lead, ...]
    rate: float
    """Samples per second."""
    signal: FloatArray
    """(leads, n) in mV; NaN = invalid."""
    expected: str
    """The label that the recording is annotated with (``Afib``, ``Sinusal``, ``Bradycardia``); empty where its
    annotators name no rhythm."""
    loops: bool
    """True where the recording is too short for a demo and its end was faded into its beginning at a like phase of the
    beat: one interval per turn is not the patient's."""

    @property
    def seconds(self) -> float:
        """Length until it begins again."""
        return int(self.signal.shape[1]) / self.rate


def demo_beds(data: Path | None) -> list[DemoBed]:
    """Eight beds or more; of each feed the first four have atrial fibrillation, sinus rhythm and twelve leads.

    Args:
        data: The folder with ``mitdb``, ``cpsc2021_af`` and ``ptbxl500``; None, or one without these, for the beds
            that need no data.

    Raises:
        RecordingsError: a recording that is there cannot be read, or wfdb or pydicom is not installed.
    """
    if data is not None and all(_path(data, record).with_suffix(".hea").is_file() for record in DEMONSTRATION):
        return [_real(data, record, feed, bed) for record, feed, bed in _places()]
    return _without_data()


def _places() -> Iterator[tuple[DemonstrationRecord, Feed, str]]:
    """The demonstration's records dealt to the two feeds, kind by kind, so that each half gets its share."""
    feeds: tuple[Feed, Feed] = ("mqtt", "hl7")
    # The sort is stable: AF first, then sinus rhythm, of that the twelve leads last; at the end what nobody names.
    order = sorted(DEMONSTRATION, key=lambda r: (r.expected != "Afib", not r.expected, r.source == "ptbxl500"))
    for k, record in enumerate(order):
        feed = feeds[k % 2]
        yield record, feed, _bed(feed, 1 + k // 2)


def _bed(feed: Feed, number: int) -> str:
    return f"demo/{feed}/bed-{number}"


def _path(data: Path, record: DemonstrationRecord) -> Path:
    folder = "records500" if record.source == "ptbxl500" else ""
    return data / record.source / folder / record.record


def _real(data: Path, record: DemonstrationRecord, feed: Feed, bed: str) -> DemoBed:
    try:
        read = read_record(_path(data, record))
    except ReplayError as error:
        raise RecordingsError(str(error)) from error
    kept = [i for i, c in enumerate(read.channels) if c.kind is ChannelKind.ECG and c.lead is not None]
    leads = tuple(lead for i in kept if (lead := read.channels[i].lead) is not None)
    first = round(record.begin * read.rate)
    signal = np.stack([read.values[i][first : first + round(_SECONDS * read.rate)] for i in kept])
    loops = signal.shape[1] < round(60 * read.rate)
    rhythm = {"Afib": "atrial fibrillation", "Sinusal": "sinus rhythm"}.get(record.expected, "not atrial fibrillation")
    return DemoBed(
        bed=bed,
        feed=feed,
        title=f"{record.id}: {rhythm}, {len(leads)} leads",
        origin=record.id,
        synthetic=False,
        leads=leads,
        rate=read.rate,
        signal=looped(signal, read.rate) if loops else signal,
        expected=record.expected,
        loops=loops,
    )


def _without_data() -> list[DemoBed]:
    beds: list[DemoBed] = []
    kinds: dict[Feed, tuple[Rhythm, ...]] = {
        "mqtt": (Rhythm.AFIB, Rhythm.SINUS, Rhythm.BRADYCARDIA),
        "hl7": (Rhythm.AFIB, Rhythm.SINUS, Rhythm.TACHYCARDIA),
    }
    rate, twelve = pydicom_ecg()
    for half, (feed, rhythms) in enumerate(kinds.items()):
        for k, rhythm in enumerate(rhythms):
            beds.append(_synthetic(rhythm, feed, _bed(feed, k + 1), seed=_SEEDS[half] + k))
        beds.append(
            DemoBed(
                bed=_bed(feed, len(rhythms) + 1),
                feed=feed,
                title="pydicom's 12-lead ECG: sinus rhythm, 12 leads",
                origin="pydicom/waveform_ecg.dcm",
                synthetic=False,
                leads=LEADS,
                rate=rate,
                signal=looped(twelve, rate),
                expected="Sinusal",
                loops=True,
            )
        )
    return beds


_SEEDS = (3, 12)
"""Of the two halves. Of ten seeds tried, six made an atrial fibrillation that the shipped network alerts of within five
minutes; these are two of the six, so that the demonstration shows an alert. It is no measure of the network."""

_SYNTHETIC = {
    Rhythm.AFIB: ("atrial fibrillation", "Afib"),
    Rhythm.SINUS: ("sinus rhythm", "Sinusal"),
    Rhythm.BRADYCARDIA: ("sinus bradycardia", "Bradycardia"),
    Rhythm.TACHYCARDIA: ("sinus tachycardia", "Sinusal"),
}
"""Title and expected label of what the generator is asked for."""


def _synthetic(rhythm: Rhythm, feed: Feed, bed: str, seed: int) -> DemoBed:
    name, expected = _SYNTHETIC[rhythm]
    return DemoBed(
        bed=bed,
        feed=feed,
        title=f"synthetic: {name}, 12 leads",
        origin=f"synthetic/{rhythm.value}",
        synthetic=True,
        leads=LEADS,
        rate=_RATE,
        signal=synthesize(rhythm, seconds=_SYNTHETIC_SECONDS, rate=_RATE, seed=seed),
        expected=expected,
        loops=False,
    )


_DICOM_LEADS = {
    **{lead.value: lead for lead in LEADS},
    "I (Einthoven)": Lead.I,
}
_MICROVOLTS = {"uV": 1e-3, "mV": 1.0, "V": 1e3}


def pydicom_ecg() -> tuple[float, FloatArray]:
    """Rate and (12, n) in mV of the 12-lead ECG that pydicom carries: ten seconds, reported as a normal sinus rhythm.

    Raises:
        RecordingsError: pydicom is not installed, or its file is not as it was.
    """
    try:
        from pydicom import dcmread
        from pydicom.data import get_testdata_file
    except ImportError as error:
        raise RecordingsError(
            "The demo without recordings needs pydicom: pip install 'deepecg-bedside[recordings]'."
        ) from error
    path = get_testdata_file("waveform_ecg.dcm", download=False)
    if not isinstance(path, str):
        raise RecordingsError("pydicom does not carry waveform_ecg.dcm; install pydicom 3 again.")
    dataset = dcmread(path)
    group = dataset.WaveformSequence[0]
    values: NDArray[np.float64] = dataset.waveform_array(0)  # (n, channels), in the channel's own unit
    rows: dict[Lead, FloatArray] = {}
    for i, channel in enumerate(group.ChannelDefinitionSequence):
        name = str(channel.ChannelSourceSequence[0].CodeMeaning).removeprefix("Lead ")
        factor = _MICROVOLTS[str(channel.ChannelSensitivityUnitsSequence[0].CodeValue)]
        if name in _DICOM_LEADS:
            rows[_DICOM_LEADS[name]] = (values[:, i] * factor).astype(np.float32)
    if set(rows) != set(LEADS):
        raise RecordingsError("pydicom's ECG does not have the twelve leads; install pydicom 3 again.")
    return float(group.SamplingFrequency), np.stack([rows[lead] for lead in LEADS])


def looped(signal: FloatArray, rate: float) -> FloatArray:
    """(leads, m), m < n, that can be repeated: it ends where the signal is most like its beginning, and fades over.

    The end is sought in the last 40 % so that it falls at the same phase of a heart beat as the start; the seam's
    interval is that of the recording's own neighbouring beats, not an invented one.
    """
    n, fade, probe = signal.shape[1], round(_FADE * rate), round(rate)
    slope = np.diff(signal, axis=1)
    start = slope[:, :probe]
    ends = np.arange(round(0.6 * n), n - probe - 1, max(1, round(rate / 125)))
    likeness = [
        float(np.sum(start * slope[:, end : end + probe])) / (float(np.linalg.norm(slope[:, end : end + probe])) + 1e-9)
        for end in ends
    ]
    end = int(ends[int(np.argmax(likeness))])
    out = signal[:, :end].copy()
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    out[:, :fade] = signal[:, end : end + fade] * (1 - ramp) + out[:, :fade] * ramp
    return out
