"""Bedside leads and noise."""

from __future__ import annotations

import numpy as np

from agent.core.ecg import LEADS, Lead
from training.augment import CHEST, LIMB, disturb, reduce_leads


def test_reduced_leads_are_those_of_real_beds() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 12, 8)).astype(np.float32)
    before = x.copy()
    reduce_leads(x, rng)
    there = np.any(x != 0, axis=2)
    assert np.array_equal(x[there], before[there])
    kinds = {tuple(np.flatnonzero(row)) for row in there}
    ii = LEADS.index(Lead.II)
    assert kinds == ({tuple(range(12)), LIMB, (ii,)} | {(*LIMB, v) for v in CHEST} | {(ii, v) for v in CHEST})
    assert 0.3 < np.mean(there.all(axis=1)) < 0.5


def test_a_two_lead_recording_stays_itself_or_keeps_lead_ii() -> None:
    rng = np.random.default_rng(0)
    x = np.zeros((300, 12, 8), np.float32)
    x[:, [1, 6]] = 1
    reduce_leads(x, rng)
    kinds = {tuple(np.flatnonzero(row)) for row in np.any(x != 0, axis=2)}
    assert kinds == {(1, 6), (1,)}


def test_noise_leaves_missing_leads_at_exact_zero() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.5, (50, 12, 500)).astype(np.float32)
    x[:, 3:] = 0
    before = x.copy()
    disturb(x, rng, 250.0)
    assert np.all(x[:, 3:] == 0)
    assert not np.array_equal(x[:, :3], before[:, :3])
    assert np.isfinite(x).all()
