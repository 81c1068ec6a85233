"""DeLong by mid-ranks, against the definition, a cluster bootstrap, permutations, and Holm against statsmodels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from training.evaluation.cases import Cases
from training.evaluation.delong import compare, compare_all, delong, holm, macro_difference, means, placements
from training.evaluation.intervals import resample
from training.evaluation.ranking import rank


def by_definition(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """O(m·n): every positive against every negative."""
    above = (p[:, y, None] > p[:, None, ~y]) + 0.5 * (p[:, y, None] == p[:, None, ~y])
    v10, v01 = above.mean(axis=2), above.mean(axis=1)
    covariance = np.cov(v10).reshape(len(p), -1) / y.sum() + np.cov(v01).reshape(len(p), -1) / (~y).sum()
    return above.mean(axis=(1, 2)), covariance


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(6, 90), st.sampled_from([2, 4, 10**6]), st.integers(1, 3))
def test_mid_ranks_give_the_definition(seed: int, n: int, levels: int, models: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) < max(2, n // 3))
    p = rng.integers(0, levels, (models, n)) / levels
    auroc, covariance = delong(p, y)
    expected, expected_covariance = by_definition(p, y)
    np.testing.assert_allclose(auroc, expected, atol=1e-12)
    np.testing.assert_allclose(covariance, expected_covariance, atol=1e-12)
    for k in range(models):
        assert auroc[k] == pytest.approx(roc_auc_score(y, p[k]))
    found, up, down = placements(p, y)
    np.testing.assert_allclose(up.mean(axis=1), found)
    np.testing.assert_allclose(down.mean(axis=1), found)


def two_models(seed: int, patients: int, records: int, gain: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), records)
    ill = rng.random(patients) < 0.5
    y = ill[who] & (rng.random(who.size) < 0.8)  # some patients have records of both kinds
    common = rng.normal(0, 0.8, patients)[who]
    first = y + common + rng.normal(0, 0.6, who.size)
    second = (1 + gain) * y + common + rng.normal(0, 0.6, who.size)
    return np.stack([first, second]), y, who


@pytest.mark.parametrize("records", [1, 5])
def test_the_covariance_is_that_of_drawing_patients(records: int) -> None:
    p, y, who = two_models(0, 300, records, 0.3)
    _, covariance = delong(p, y, who)
    drawn = resample(who, 2000, 0)
    draws = np.stack([drawn.ranked(rank(model, y, drawn.unit, drawn.units))[0] for model in p])
    ratio = np.sqrt(np.diag(covariance)) / draws.std(axis=1)
    assert ratio == pytest.approx([1, 1], abs=0.1)
    difference = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert difference == pytest.approx((draws[1] - draws[0]).std(), rel=0.1)
    if records > 1:
        blind = delong(p, y)[1]
        assert math.sqrt(blind[0, 0]) < 0.8 * draws[0].std(), "taking records as independent is too sure"


def test_p_values_are_those_of_permutations() -> None:
    """Under the null the two models may be exchanged case by case, after ranking (Venkatraman and Begg 1996)."""
    from scipy.stats import rankdata

    rng = np.random.default_rng(5)
    p, y, who = two_models(5, 160, 1, 0.18)
    found = compare(p[0], p[1], y, who)
    assert found is not None
    ranks = rankdata(p, axis=1)

    def gain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(…,) of AUROC, by the sum of ranks."""
        sums = rankdata(b, axis=-1)[..., y].sum(axis=-1) - rankdata(a, axis=-1)[..., y].sum(axis=-1)
        return np.asarray(sums / (y.sum() * (~y).sum()))

    observed = abs(float(gain(p[0], p[1])))
    assert observed == pytest.approx(abs(roc_auc_score(y, p[1]) - roc_auc_score(y, p[0])))
    swap = rng.random((1500, y.size)) < 0.5
    a, b = np.where(swap, ranks[1], ranks[0]), np.where(swap, ranks[0], ranks[1])
    beyond = np.sum(np.abs(gain(a, b)) >= observed)
    assert 0.001 < found.p < 0.5
    assert found.p == pytest.approx(beyond / len(swap), abs=0.05)


def test_p_values_are_uniform_where_nothing_differs() -> None:
    values = []
    for seed in range(300):
        p, y, who = two_models(seed, 60, 2, 0.0)
        found = compare(p[0], p[1], y, who)
        if found is not None:
            values.append(found.p)
    assert len(values) > 280
    assert 0.02 < np.mean(np.array(values) < 0.05) < 0.10
    assert 0.4 < np.mean(values) < 0.6


def test_equal_rankings_have_nothing_to_test() -> None:
    p, y, who = two_models(0, 100, 1, 0.0)
    found = compare(p[0], 2 * p[0] + 1, y, who)
    assert found is not None
    assert (found.difference, found.error, found.z, found.p) == (0.0, 0.0, None, 1.0)
    constant = compare(np.zeros(y.size), np.zeros(y.size), y, who)
    assert constant is not None
    assert (constant.first, constant.second, constant.p) == (0.5, 0.5, 1.0)


def test_too_few_patients_are_no_test() -> None:
    p, y, who = two_models(0, 100, 1, 0.0)
    few = np.zeros_like(y)
    few[np.flatnonzero(y)[:4]] = True
    assert compare(p[0], p[1], few, who) is None
    assert compare(p[0], p[1], few, who, minimum=4) is not None
    one = np.zeros_like(y)
    one[3] = True
    assert compare(p[0], p[1], one, who, minimum=1) is None, "no variance of one"
    with pytest.raises(ValueError, match="at least two patients"):
        delong(p, one, who)


@pytest.mark.parametrize("levels", [5, 1000])
def test_holm_is_that_of_statsmodels(levels: int) -> None:
    p = np.random.default_rng(levels).integers(0, levels + 1, 77) / levels  # with ties, zeros and ones
    np.testing.assert_allclose(holm(p.tolist()), multipletests(p, method="holm")[1], atol=1e-12)


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]) == []


def test_all_outputs_of_two_models(cases: Cases, simulate: Callable[..., Cases]) -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(cases.probability + rng.normal(0, 0.4, cases.probability.shape), 0, 1).astype(np.float32)
    found, left = compare_all(cases, replace(cases, probability=noisy))
    assert set(found) | set(left) == set(cases.names)
    assert left == []
    afib = found["Afib"]
    assert afib.difference < 0
    assert afib.upper < 0
    assert afib.p < 1e-4
    assert afib.p_holm is not None
    assert afib.p <= afib.p_holm <= 1
    assert afib.second - afib.first == pytest.approx(afib.difference)
    first, second = means(found)
    assert first > second
    few = simulate(60)
    _, left = compare_all(few, few)
    assert "Acute pericarditis" in left


def test_the_macro_difference_is_that_of_the_same_draws(cases: Cases) -> None:
    rng = np.random.default_rng(1)
    second = replace(cases, probability=np.clip(cases.probability + rng.normal(0, 0.1, cases.probability.shape), 0, 1))
    drawn = resample(cases.patient, 80, 0)
    names = ["Afib", "Sinusal"]
    found = macro_difference(cases, second, names, drawn)
    single = [macro_difference(cases, second, [name], drawn) for name in names]
    assert found is not None
    assert found.value == pytest.approx(np.mean([one.value for one in single if one]))
    assert found.patients is not None
    assert found.patients.lower < found.value < found.patients.upper
    same = macro_difference(cases, cases, names, drawn)
    assert same is not None
    assert same.value == 0
    assert same.patients is None, "every draw gives zero: nothing to tell"
    assert macro_difference(cases, second, [], drawn) is None
