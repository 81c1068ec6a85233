"""Prior correction, estimation of a new prior, and predictive values at other prevalences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from training.evaluation.prevalence import estimate_prior, npv_at, ppv_at

OLD = 0.3


def ward(prevalence: float, n: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are calibrated at the prior .3, of cases of another prevalence."""
    rng = np.random.default_rng(seed)
    y = rng.random(n) < prevalence
    score = rng.normal(0, 1, n) + 2 * y
    return expit(np.log(OLD / (1 - OLD)) + 2 * (score - 1)).astype(np.float32), y


@pytest.mark.parametrize("prevalence", [0.02, 0.1, 0.3, 0.7])
def test_the_new_prior_is_found(prevalence: float) -> None:
    p, y = ward(prevalence)
    found = estimate_prior(p, OLD)
    assert found.converged
    assert found.prior == pytest.approx(y.mean(), abs=0.01)


def test_certainties_do_not_break_it() -> None:
    p = np.array([0.0] * 90 + [1.0] * 10 + [np.nan], np.float32)
    assert estimate_prior(p, 0.5).prior == pytest.approx(0.1)
    none = estimate_prior(np.zeros(50, np.float32), 0.5)
    assert none.prior == pytest.approx(0, abs=1e-6)
    assert estimate_prior(np.full(10, 0.4), 0.3, iterations=2).converged is False


def test_priors_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        estimate_prior(np.array([0.5]), 0.0)
    with pytest.raises(ValueError, match="no case is scored"):
        estimate_prior(np.array([np.nan]), 0.5)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_predictive_values_at_the_own_prevalence_are_those_of_the_table(tp: int, fn: int, fp: int, tn: int) -> None:
    prevalence = (tp + fn) / (tp + fn + fp + tn)
    sensitivity, specificity = tp / (tp + fn), tn / (fp + tn)
    assert float(ppv_at(sensitivity, specificity, prevalence)) == pytest.approx(tp / (tp + fp))
    assert float(npv_at(sensitivity, specificity, prevalence)) == pytest.approx(tn / (tn + fn))


def test_nothing_found_has_no_predictive_value() -> None:
    assert np.isnan(ppv_at(0.0, 1.0, 0.1))
    assert np.isnan(npv_at(1.0, 0.0, 0.1))
