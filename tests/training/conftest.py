"""A table of windows small enough for a test, with twelve-lead and two-lead windows and unknown labels."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.filters import Preprocessing
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
    rows = [
        200 * np.sin(2 * np.pi * (5 if af[i] else 1) * time + rng.uniform(0, 6)) + rng.normal(0, 10, t)
        for i in range(n)
        for _ in range(mask[i].sum())
    ]
    labels = np.full((n, len(LABELS)), -1, np.int8)
    labels[:, index_of("Afib")] = af
    labels[:, index_of("Sinusal")] = ~af
    labels[:, index_of("Premature ventricular complex")] = rng.integers(-1, 2, n)
    return WindowTable(
        sources=("ptbxl500", "mitdb"),
        preprocessing=Preprocessing(seconds=2.0),
        rows=np.array(rows, np.float16),
        first_row=np.concatenate([[0], np.cumsum(mask.sum(axis=1))[:-1]]).astype(np.int64),
        lead_mask=mask,
        source=continuous.astype(np.int8),
        record=patient,
        patient=patient,
        start=np.tile(np.arange(3, dtype=np.float32) * 5, n // 3),
        labels=labels,
        continuous=continuous,
        held_out=patient == "p19",
    )
