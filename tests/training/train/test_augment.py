"""Bedside leads and noise."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.ecg import LEADS, Lead
from training.train.augment import CHEST, LIMB, POLICIES, disturb, kept_leads, reduce_leads
from training.train.recipes import LeadPolicy

II = LEADS.index(Lead.II)


def kinds_of(policy: LeadPolicy, there: tuple[int, ...] = tuple(range(12)), n: int = 800) -> set[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    x = np.zeros((n, 12, 8), np.float32)
    x[:, list(there)] = rng.normal(size=(n, len(there), 8))
    before = x.copy()
    reduce_leads(x, policy, rng)
    kept = np.any(x != 0, axis=2)
    assert np.array_equal(x[kept], before[kept])
    return {tuple(np.flatnonzero(row)) for row in kept}


def test_reduced_leads_are_those_of_real_beds() -> None:
    two = {(II, v) for v in CHEST}
    assert kinds_of("all") == {tuple(range(12))}
    assert kinds_of("limb") == {LIMB}
    assert kinds_of("two") == {(II,)} | two
    assert kinds_of("bedside") == {tuple(range(12)), LIMB, (II,)} | {(*LIMB, v) for v in CHEST} | two


def test_a_two_lead_recording_stays_itself_or_keeps_lead_ii() -> None:
    for policy in ("bedside", "limb", "two"):
        assert kinds_of(policy, (1, 6)) == {(1, 6), (1,)}  # type: ignore[arg-type]
        assert kinds_of(policy, (6, 7)) == {(6, 7)}  # type: ignore[arg-type]
    assert kinds_of("all", (1, 6)) == {(1, 6)}


def test_random_masking_drops_each_lead_by_itself_with_a_chance_of_one_half() -> None:
    rng = np.random.default_rng(0)
    keep = kept_leads(np.ones((4000, 12), bool), "random", rng)
    assert np.allclose(keep.mean(axis=0), 0.5, atol=0.03)
    assert np.allclose(np.corrcoef(keep.T)[~np.eye(12, dtype=bool)], 0, atol=0.08)
    assert not kept_leads(np.zeros((9, 12), bool), "random", rng).any()
    two = np.isin(np.arange(12), (1, 6)) & np.ones((400, 1), bool)
    kept = kept_leads(two, "random", rng)
    assert not (kept & ~two).any()
    assert set(kept.sum(axis=1)) == {1, 2}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_generator_keeps_the_same_leads(policy: LeadPolicy) -> None:
    there = np.ones((50, 12), bool)
    a, b = (kept_leads(there, policy, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(a, b)


def test_noise_leaves_missing_leads_at_exact_zero() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.5, (50, 12, 500)).astype(np.float32)
    x[:, 3:] = 0
    before = x.copy()
    disturb(x, rng, 250.0)
    assert np.all(x[:, 3:] == 0)
    assert not np.array_equal(x[:, :3], before[:, :3])
    assert np.isfinite(x).all()
