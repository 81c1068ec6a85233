"""AUROC over patients, against a plain count of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluate import Score, patient_weights, score, weighted_auroc


def auroc_by_pairs(p: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    above = (p[:, None] > p[None, :]) + 0.5 * (p[:, None] == p[None, :])
    return float(np.einsum("i,ij,j->", positive, above, negative) / (positive.sum() * negative.sum()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40))
def test_weighted_auroc_is_the_share_of_pairs(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 6, n) / 5  # many ties
    truth = rng.permutation(np.arange(n) % 2)
    positive, negative = rng.random(n) * truth, rng.random(n) * (1 - truth)
    expected = auroc_by_pairs(p, positive, negative)
    assert float(weighted_auroc(p.astype(np.float32), positive, negative)) == pytest.approx(expected)
    both = weighted_auroc(p.astype(np.float32), np.stack([positive, 2 * positive]), np.stack([negative, negative]))
    assert both == pytest.approx([expected, expected])


def test_a_patient_weighs_one_however_many_windows() -> None:
    there = np.array([True, True, True, False, True])
    assert patient_weights(there, np.array([0, 0, 0, 0, 1]), 2).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 1])


def test_score_counts_patients_and_ignores_the_unknown() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i:02d}" for i in range(60)], 5)
    truth = np.where(np.repeat(np.arange(60) < 25, 5), 1, 0).astype(np.int8)
    p = (truth + rng.normal(0, 0.7, truth.size)).astype(np.float32)
    truth[::5] = -1
    p[::5] = 99.0  # whatever an unknown window says must not matter
    found = score("Afib", p, truth, patients, resamples=200)
    assert found is not None
    assert (found.positive_patients, found.negative_patients) == (25, 35)
    assert (found.positive_windows, found.negative_windows) == (100, 140)
    assert found.lower < found.auroc < found.upper
    assert 0.75 < found.auroc < 0.95
    assert score("Afib", p, np.abs(truth), patients) is not None
    assert score("Afib", p, np.minimum(truth, 0), patients) is None


@pytest.mark.parametrize(("patients", "lower", "evidence"), [(20, 0.85, True), (19, 0.99, False), (50, 0.849, False)])
def test_what_counts_as_evidence(patients: int, lower: float, evidence: bool) -> None:
    assert Score("Afib", 0.995, lower, 1.0, patients, 100, 100, 100).is_evidence is evidence
