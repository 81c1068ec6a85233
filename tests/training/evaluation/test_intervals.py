"""Resamples: determinism, agreement with resampling row by row, coverage, and draws without a positive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from training.evaluation.cases import Cases
from training.evaluation.intervals import (
    BLOCK,
    MAX_VOID,
    Estimate,
    Interval,
    estimate,
    interval,
    rate,
    resample,
    score_interval,
    units_of,
)
from training.evaluation.metrics import cells, confusion, ranking
from training.evaluation.ranking import rank


def times_of(resamples: object) -> np.ndarray:
    return np.concatenate(resamples.blocks, axis=1)  # type: ignore[attr-defined]


def test_every_resample_has_as_many_units_as_there_are(cases: Cases) -> None:
    drawn = resample(cases.patient, 2 * BLOCK + 5, 0)
    times = times_of(drawn)
    assert times.shape == (len(set(cases.patient.tolist())), 2 * BLOCK + 5) == (drawn.units, drawn.resamples)
    assert (times.sum(axis=0) == drawn.units).all()
    assert times.mean() == pytest.approx(1)
    assert times.var() == pytest.approx(1 - 1 / drawn.units, rel=0.02), "multinomial"


def test_draws_follow_the_seed_and_begin_alike(cases: Cases) -> None:
    a, b, c = (times_of(resample(cases.patient, n, seed)) for n, seed in ((200, 3), (300, 3), (200, 4)))
    np.testing.assert_array_equal(a, b[:, :200])
    assert (a != c).any()


def test_strata_keep_their_number(cases: Cases) -> None:
    positive = cases.truth[:, 3] == 1  # rare
    drawn = resample(cases.patient, 100, 0, positive)
    with_it = np.bincount(drawn.unit[positive], minlength=drawn.units) > 0
    assert (times_of(drawn)[with_it].sum(axis=0) == with_it.sum()).all()
    assert 0 < with_it.sum() < 30


def test_a_draw_is_that_of_the_rows_repeated(cases: Cases) -> None:
    drawn = resample(cases.patient, 20, 1)
    auroc, _ = drawn.ranked(ranking(cases, [0], drawn.unit, drawn.units))
    at = np.full(6, 0.3)
    sums = drawn.sums(cells(cases, at, rows=50))
    for k in range(3):
        rows = np.repeat(np.arange(len(cases)), times_of(drawn)[drawn.unit, k])
        again = cases.select(rows)
        known = again.known(0)
        assert auroc[k] == pytest.approx(roc_auc_score(again.truth[known, 0], again.probability[known, 0]))
        np.testing.assert_allclose(sums[k], confusion(again, at))
    with pytest.raises(ValueError, match="no cases"):
        drawn.sums([])


def test_threads_change_nothing(cases: Cases) -> None:
    drawn = resample(cases.patient, 300, 1)
    ranked = ranking(cases, [0, 1], drawn.unit, drawn.units)
    np.testing.assert_array_equal(drawn.ranked(ranked), replace(drawn, threads=3).ranked(ranked))


def test_groups_share_their_draws(cases: Cases) -> None:
    drawn = resample(cases.patient, 20, 1)
    women = cases.sex == "F"
    part = drawn.select(women)
    assert part.blocks is drawn.blocks
    one, _ = part.ranked(ranking(cases.select(women), [0], part.unit, part.units))
    all_rows, _ = drawn.ranked(
        ranking(replace(cases, truth=np.where(women[:, None], cases.truth, -1)), [0], drawn.unit, drawn.units)
    )
    np.testing.assert_allclose(one, all_rows)


def test_records_of_two_sources_are_two_units(cases: Cases) -> None:
    same = replace(cases, record=np.full(len(cases), "1"))
    assert len(set(units_of(same, "records").tolist())) == 2
    assert units_of(cases, "patients") is cases.patient


def test_void_draws_are_left_out_and_too_many_are_no_interval() -> None:
    draws = np.linspace(0, 1, 1000)
    draws[:20] = np.nan
    found = interval(draws)
    assert found is not None
    assert found.void == 20
    assert (found.lower, found.upper) == pytest.approx(tuple(np.percentile(draws[20:], [2.5, 97.5])))
    draws[: int(MAX_VOID * 1000) + 1] = np.nan
    assert interval(draws) is None
    assert interval(np.array([])) is None
    assert estimate(float("nan"), {"patients": np.linspace(0, 1, 9)}) is None
    assert estimate(0.5, {"patients": draws}) == Estimate(0.5, None)
    assert isinstance(estimate(0.5, {"records": np.linspace(0, 1, 9)}).records, Interval)  # type: ignore[union-attr]


def test_one_positive_patient_has_no_interval_unless_stratified() -> None:
    """A resample misses the only positive 37 times in a hundred: without strata there is nothing to tell."""
    rng = np.random.default_rng(0)
    p, y, unit = rng.random(200).astype(np.float32), np.arange(200) == 7, np.arange(200)
    drawn = resample(unit, 400, 0)
    draws, _ = drawn.ranked(rank(p, y, drawn.unit, drawn.units))
    assert np.isnan(draws).mean() == pytest.approx(np.exp(-1), abs=0.08)
    assert interval(draws) is None
    apart = resample(unit, 400, 0, y)
    draws, _ = apart.ranked(rank(p, y, apart.unit, apart.units))
    assert np.isfinite(draws).all()


def coverage(per_patient: int, by_patient: bool, trials: int = 200) -> float:
    """How often a 95 % interval holds the true AUROC of two normals whose patients differ much."""
    truth = float(norm.cdf(1.2 / np.sqrt(2)))
    hits = 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        patients = 120
        y = np.repeat(np.arange(patients) < 40, per_patient)
        own = np.repeat(rng.normal(0, np.sqrt(0.8), patients), per_patient)
        p = own + rng.normal(0, np.sqrt(0.2), y.size) + 1.2 * y
        who = np.repeat(np.arange(patients), per_patient) if by_patient else np.arange(y.size)
        drawn = resample(who, 200, seed)
        draws, _ = drawn.ranked(rank(p, y, drawn.unit, drawn.units))
        found = interval(draws)
        assert found is not None
        hits += found.lower <= truth <= found.upper
    return hits / trials


def test_intervals_cover_the_truth() -> None:
    """Over 200 trials the standard error of .95 is .015; the percentile interval is known to fall a little short."""
    assert 0.89 <= coverage(1, by_patient=True) <= 0.99
    assert 0.89 <= coverage(6, by_patient=True) <= 0.99


def test_drawing_records_is_too_sure_where_patients_have_several() -> None:
    assert coverage(6, by_patient=False) < 0.75


def test_a_rate_of_one_is_not_certain() -> None:
    """Twenty of twenty found: every resample says 1, the exact interval begins at .83."""
    same = {"patients": np.ones(100)}
    assert interval(np.ones(100)) is None
    found = rate(1.0, same, 20)
    assert found is not None
    assert found.patients is not None
    assert found.patients.exact
    assert (found.patients.lower, found.patients.upper) == pytest.approx(proportion_confint(20, 20, method="beta"))
    none = rate(0.0, same, 20)
    assert none is not None
    assert none.patients is not None
    assert (none.patients.lower, none.patients.upper) == pytest.approx(proportion_confint(0, 20, method="beta"))
    between = rate(0.5, {"patients": np.linspace(0, 1, 100)}, 20)
    assert between is not None
    assert between.patients is not None
    assert not between.patients.exact
    assert rate(float("nan"), same, 20) is None
    bare = rate(1.0, same, 0)
    assert bare is not None
    assert bare.patients is None


@given(st.floats(0, 1), st.integers(1, 300), st.integers(1, 3000))
def test_the_score_interval_solves_its_equation(auroc: float, positives: int, negatives: int) -> None:
    found = score_interval(auroc, positives, negatives)
    assert 0 <= found.lower <= auroc <= found.upper <= 1
    more = (positives + negatives) / 2 - 1
    for limit in (found.lower, found.upper):
        if 1e-9 < limit < 1 - 1e-9:  # Newcombe 2006, equation 5
            q1, q2 = limit / (2 - limit), 2 * limit**2 / (1 + limit)  # Hanley and McNeil 1982
            plain = limit * (1 - limit) + more * (q1 - limit**2) + more * (q2 - limit**2)
            assert (limit - auroc) ** 2 == pytest.approx(1.959964**2 * plain / (positives * negatives), rel=1e-3)
    with pytest.raises(ValueError, match="a positive and a negative patient"):
        score_interval(auroc, 0, negatives)


def test_with_few_positives_the_score_interval_covers_and_percentiles_do_not() -> None:
    """Ten positives, AUROC .95: over 300 trials the standard error of .95 is .013."""
    truth, trials, by_score, by_percentiles = 0.95, 300, 0, 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        y = np.arange(200) < 10
        p = rng.normal(0, 1, 200) + np.sqrt(2) * norm.ppf(truth) * y
        drawn = resample(np.arange(200), 150, seed)
        ranked = rank(p, y, drawn.unit, drawn.units)
        score = score_interval(ranked.point()[0], 10, 190)
        found = interval(drawn.ranked(ranked)[0])
        assert found is not None
        by_score += score.lower <= truth <= score.upper
        by_percentiles += found.lower <= truth <= found.upper
    assert by_score / trials > 0.92
    assert by_percentiles / trials < 0.90
