"""Reliability, ECE, Brier's parts and scaling, against plain definitions and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from training.evaluation.calibration import (
    bins_of,
    calibration,
    fit_all,
    fit_common_temperature,
    fit_platt,
    fit_temperature,
    logits,
    wilson,
)
from training.evaluation.cases import Cases


def draw(n: int, seed: int, sharpness: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose logits are ``sharpness`` times the true ones plus ``shift``, and truths."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1, 2, n)
    return expit(sharpness * true + shift).astype(np.float32), rng.random(n) < expit(true)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 400), st.integers(1, 15), st.sampled_from(["width", "mass"]))
def test_reliability_by_definition(seed: int, n: int, count: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    p = (rng.integers(0, 21, n) / 20).astype(np.float32)  # ties, 0 and 1
    y = rng.random(n) < p
    found = calibration(p, y, count, kind)  # type: ignore[arg-type]
    of = bins_of(p, count, kind)  # type: ignore[arg-type]
    gaps = [(abs(y[of == b].mean() - p[of == b].mean(dtype=np.float64)), (of == b).mean()) for b in np.unique(of)]
    assert found.ece == pytest.approx(sum(gap * share for gap, share in gaps), abs=1e-9)
    assert found.mce == pytest.approx(max(gap for gap, _ in gaps), abs=1e-9)
    assert sum(b.count for b in found.bins) == n
    brier = found.brier
    assert brier.score == pytest.approx(np.mean((p.astype(float) - y) ** 2))
    within = sum(  # Stephenson et al. 2008
        np.sum((p[of == b] - p[of == b].mean(dtype=np.float64)) ** 2)
        - 2 * np.sum((p[of == b] - p[of == b].mean(dtype=np.float64)) * (y[of == b] - y[of == b].mean()))
        for b in np.unique(of)
    )
    assert brier.within == pytest.approx(within / n, abs=1e-6)
    assert brier.score == pytest.approx(brier.reliability - brier.resolution + brier.uncertainty + brier.within)
    for value in np.unique(p):
        assert len(set(of[p == value].tolist())) == 1, "equal probabilities share a bin"


def test_bins_are_those_of_scikit_learn() -> None:
    p, y = draw(5000, 0)
    found = calibration(p, y)
    observed, predicted = calibration_curve(y, p, n_bins=10)
    np.testing.assert_allclose([b.observed for b in found.bins], observed)
    np.testing.assert_allclose([b.predicted for b in found.bins], predicted, rtol=1e-6)
    assert found.brier.score == pytest.approx(brier_score_loss(y, p))
    mass = np.bincount(bins_of(p, 10, "mass"))
    assert mass.min() > 490
    assert mass.max() < 510


def test_wilson_is_that_of_statsmodels() -> None:
    k, n = np.array([0.0, 1.0, 7.0, 20.0]), np.array([3.0, 20.0, 50.0, 20.0])
    np.testing.assert_allclose(wilson(k, n), proportion_confint(k, n, method="wilson"), atol=1e-12)


def test_calibrated_probabilities_have_a_small_error_and_sharp_ones_a_large() -> None:
    assert calibration(*draw(20_000, 0)).ece < 0.015
    assert calibration(*draw(20_000, 0, sharpness=3)).ece > 0.08


def test_one_class_and_nothing() -> None:
    found = calibration(np.array([0.2, 0.3], np.float32), np.zeros(2, bool))
    assert found.brier.skill is None
    assert found.prevalence == 0
    with pytest.raises(ValueError, match="no case is known"):
        calibration(np.zeros(0, np.float32), np.zeros(0, bool))


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
def test_temperature_finds_the_sharpness_and_lowers_the_loss(sharpness: float) -> None:
    p, y = draw(20_000, 1, sharpness)
    found = fit_temperature(p, y)
    assert found.temperature == pytest.approx(sharpness, rel=0.05)
    test_p, test_y = draw(20_000, 2, sharpness)
    after = found.apply(test_p)
    assert log_loss(test_y, after) <= log_loss(test_y, test_p) + 1e-4
    assert calibration(after, test_y).ece < 0.015
    assert roc_auc_score(test_y, after) == pytest.approx(roc_auc_score(test_y, test_p), abs=1e-4)


def test_platt_finds_slope_and_intercept_as_logistic_regression_does() -> None:
    p, y = draw(20_000, 3, 2.0, -1.0)
    found = fit_platt(p, y)
    assert found is not None
    plain = LogisticRegression(C=1e10, tol=1e-8).fit(logits(p)[:, None], y)
    assert found.slope == pytest.approx(plain.coef_[0, 0], rel=2e-3)
    assert found.intercept == pytest.approx(plain.intercept_[0], abs=2e-3)
    assert found.slope == pytest.approx(0.5, rel=0.05)


def test_separated_and_turned_cases_do_not_run_away() -> None:
    p = np.array([0.1] * 20 + [0.9] * 20, np.float32)
    y = np.arange(40) >= 20
    assert 0.05 <= fit_temperature(p, y).temperature < 0.06
    found = fit_platt(p, y)
    assert found is not None
    assert 0 < found.slope < 10
    assert fit_platt(p, ~y) is None, "a negative slope would turn the ranking round"
    extreme = found.apply(np.array([0.0, 1.0, np.nan], np.float32))
    assert 0 <= extreme[0] < extreme[1] <= 1
    assert np.isnan(extreme[2])


def test_scalings_are_fitted_where_there_is_enough(simulate: Callable[..., Cases]) -> None:
    validation = simulate(1500, 4, sharpness=2.0)
    temperatures, platts = fit_all(validation, "temperature"), fit_all(validation, "platt")
    assert set(temperatures) == set(validation.names) == set(platts)
    assert temperatures["Sinusal"].temperature == pytest.approx(2.0, rel=0.25)
    assert fit_common_temperature(validation).temperature == pytest.approx(2.0, rel=0.1)
    assert "Acute pericarditis" not in fit_all(simulate(100, 4), "platt")
    with pytest.raises(ValueError, match="no validation case is known"):
        fit_common_temperature(validation.select(np.zeros(1500, bool)))


def test_a_patients_windows_do_not_make_it_surer() -> None:
    p, y = draw(400, 0)
    once = calibration(p, y)
    again = calibration(np.repeat(p, 9), np.repeat(y, 9), patient=np.repeat(np.arange(400), 9))
    for a, b in zip(once.bins, again.bins, strict=True):
        assert (b.count, b.patients) == (9 * a.count, a.patients)
        assert (b.lower, b.upper) == pytest.approx((a.lower, a.upper))
    assert again.ece == pytest.approx(once.ece)
