"""Small tables of windows, archives and recordings, the signals of the project's own generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.labels import LABELS, index_of
from agent.core.synthetic import Rhythm, synthesize
from training.data import Recording, WindowTable

WriteRecord = Callable[..., FloatArray]
MakeRecording = Callable[..., Recording]


@pytest.fixture(scope="session")
def small_table() -> WindowTable:
    """60 windows of 2 s of 20 patients: half twelve leads, half II and V1; "Afib" is a faster oscillation."""
    rng = np.random.default_rng(0)
    n, t = 60, 500
    patient = np.array([f"p{i // 3:02d}" for i in range(n)])
    continuous = np.arange(n) >= n // 2
    mask = np.ones((n, 12), bool)
    mask[continuous] = np.isin(np.arange(12), (1, 6))
    af = (np.arange(n) // 3) % 4 == 0
    time = np.arange(t) / 250
    signals = np.zeros((n, 12, t), np.float32)
    for i in range(n):
        for lead in np.flatnonzero(mask[i]):
            wave = np.sin(2 * np.pi * (5 if af[i] else 1) * time + rng.uniform(0, 6))
            signals[i, lead] = 0.96 * wave + rng.normal(0, 0.048, t)
    labels = np.full((n, len(LABELS)), -1, np.int8)
    labels[:, index_of("Afib")] = af
    labels[:, index_of("Sinusal")] = ~af
    labels[:, index_of("Premature ventricular complex")] = rng.integers(-1, 2, n)
    return WindowTable.in_memory(
        signals,
        mask,
        labels,
        patient,
        sources=("ptbxl500", "mitdb"),
        source=continuous.astype(np.int16),
        continuous=continuous,
        held_out=patient == "p19",
        age=np.where(np.arange(n) % 10 == 0, np.nan, 30.0 + np.arange(n)).astype(np.float32),
        sex=np.array(["M", "F", ""])[np.arange(n) // 3 % 3],
    )


@pytest.fixture(scope="session")
def write_record() -> WriteRecord:
    """Writes a WFDB record (format 16, 1 µV) of the generator, and gives its signal (leads, n) in mV."""

    def write(
        path: Path,
        seed: int = 0,
        *,
        rate: int = 500,
        seconds: float = 10.0,
        leads: Sequence[Lead] = LEADS,
        names: Sequence[str] | None = None,
        comments: Sequence[str] = (),
        unit: str = "mV",
        rhythm: Rhythm = Rhythm.SINUS,
    ) -> FloatArray:
        signal = synthesize(rhythm, seconds, rate, leads, seed)
        counts = np.rint(signal * 1000).astype("<i2")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".dat").write_bytes(counts.T.tobytes())
        lines = [f"{path.name} {len(leads)} {rate} {counts.shape[1]}"]
        for lead, row in zip(names or leads, counts, strict=True):
            checksum = int(np.sum(row, dtype=np.int64)) & 0xFFFF
            lines.append(f"{path.name}.dat 16 1000(0)/{unit} 16 0 {row[0]} {checksum} 0 {lead}")
        path.with_suffix(".hea").write_text("\n".join([*lines, *(f"#{text}" for text in comments)]) + "\n")
        return (counts / np.float32(1000)).astype(np.float32)

    return write


@pytest.fixture(scope="session")
def make_recording() -> MakeRecording:
    """A recording of a signal, or of the generator."""

    def make(signal: FloatArray | None = None, **fields: object) -> Recording:
        seed = int(str(fields.pop("seed", 0)))
        leads = fields.pop("leads", LEADS)
        rate = float(str(fields.pop("rate", 500.0)))
        if signal is None:
            signal = synthesize(Rhythm.SINUS, 10.0, rate, leads, seed)  # type: ignore[arg-type]
        name = str(fields.pop("record", "x"))
        known = {"source": "made", "patient": name, "age": None, "sex": ""}
        return Recording(record=name, rate=rate, leads=leads, signal=signal, **known | fields)  # type: ignore[arg-type]

    return make
