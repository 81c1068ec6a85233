"""AUROC and average precision under weights, against scikit-learn and a plain count of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from training.evaluation.ranking import patient_weights, rank, weighted_auroc


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


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 600),
    levels=st.sampled_from([1, 2, 5, 50, 10**6]),
    prevalence=st.floats(0.01, 0.99),
    weighed=st.booleans(),
)
def test_figures_are_those_of_scikit_learn_draw_by_draw(
    seed: int, n: int, levels: int, prevalence: float, weighed: bool
) -> None:
    rng = np.random.default_rng(seed)
    p = (rng.integers(0, levels, n) / max(levels - 1, 1)).astype(np.float32)  # constant, ties, no ties
    y = rng.random(n) < prevalence
    units = int(rng.integers(1, n + 1))
    unit = rng.integers(0, units, n)  # some units have no case
    weight = rng.random(n) + 0.1 if weighed else None
    ranking = rank(p, y, unit, units, weight)
    times = rng.poisson(1.0, (units, 7)).astype(np.uint8)
    times[:, 0] = 1
    auroc, precision = ranking.figures(times)
    base = np.ones(n) if weight is None else weight
    for k in range(times.shape[1]):
        w = base * times[unit, k]
        if w[y].sum() > 0 and w[~y].sum() > 0:
            assert auroc[k] == pytest.approx(roc_auc_score(y, p, sample_weight=w), abs=1e-6)
            assert precision[k] == pytest.approx(average_precision_score(y, p, sample_weight=w), abs=1e-5)
        else:
            assert np.isnan(auroc[k])
            assert np.isnan(precision[k])
    if y.any() and not y.all():
        expected = roc_auc_score(y, p, sample_weight=weight), average_precision_score(y, p, sample_weight=weight)
        assert ranking.point() == pytest.approx(expected, abs=1e-12)


def test_a_wide_block_is_cut_where_memory_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    p, y, unit = rng.random(500).astype(np.float32), rng.random(500) < 0.4, np.arange(500)
    ranking, times = rank(p, y, unit, 500), rng.poisson(1, (500, 40)).astype(np.uint8)
    whole = ranking.figures(times)
    monkeypatch.setattr("training.evaluation.ranking._CELLS", 3 * int(y.sum()))
    np.testing.assert_allclose(ranking.figures(times), whole, rtol=1e-12)


def test_no_positive_and_no_negative_is_no_figure() -> None:
    p, unit, times = np.array([0.1, 0.2], np.float32), np.array([0, 1]), np.ones((2, 3), np.uint8)
    for y in (np.zeros(2, bool), np.ones(2, bool)):
        ranking = rank(p, y, unit, 2)
        assert np.isnan(ranking.figures(times)).all()
        assert np.isnan(ranking.point()).all()
