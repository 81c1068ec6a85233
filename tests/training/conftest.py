"""A table of windows small enough for a test, with twelve-lead and two-lead windows and unknown labels."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.labels import LABELS, index_of
from training.data import WindowTable


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
