"""Another ward has other priors: how they are found, and what becomes of PPV and NPV.

All of it assumes *label shift*: the findings are commoner or rarer, but look the same (p(ECG | finding) is unchanged).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.evaluation.ranking import Array, Numbers

PREVALENCES = (0.001, 0.01, 0.05, 0.1, 0.2)
"""At which predictive values are told."""


@dataclass(frozen=True, slots=True)
class PriorEstimate:
    """What unlabelled cases say of their own prior."""

    prior: float
    iterations: int
    converged: bool


def estimate_prior(
    probability: Numbers, old: float, *, tolerance: float = 1e-8, iterations: int = 10_000
) -> PriorEstimate:
    """The prior of unlabelled cases (n,) by expectation maximisation (Saerens et al. 2002, equation 2.9).

    It is as good as the probabilities are calibrated on the prior ``old``; a miscalibrated model gives a wrong prior
    with great confidence, so scale first (`calibration.fit_platt`).

    Raises:
        ValueError: there is no case, or the prior is not between 0 and 1.
    """
    p = np.asarray(probability, np.float64)
    p = p[~np.isnan(p)]
    if len(p) == 0:
        raise ValueError("no case is scored, so no prior can be estimated")
    if not 0 < old < 1:
        raise ValueError(f"a prior lies between 0 and 1 and is neither; got {old:g}")
    prior = old
    for step in range(1, iterations + 1):
        yes, no = p * prior / old, (1 - p) * (1 - prior) / (1 - old)
        total = yes + no
        # 0/0: a certainty of one class once the prior has reached the other; it keeps its certainty
        new = float(np.mean(np.where(total > 0, yes / np.where(total > 0, total, 1.0), p)))
        if abs(new - prior) < tolerance:
            return PriorEstimate(new, step, True)
        prior = new
    return PriorEstimate(prior, iterations, False)


def ppv_at(sensitivity: float | Array, specificity: float | Array, prevalence: float) -> Array:
    """Positive predictive value at a prevalence (Bayes); NaN where nothing is found positive."""
    hit = np.asarray(sensitivity) * prevalence
    false = (1 - np.asarray(specificity)) * (1 - prevalence)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(hit / (hit + false), np.float64)


def npv_at(sensitivity: float | Array, specificity: float | Array, prevalence: float) -> Array:
    """Negative predictive value at a prevalence (Bayes); NaN where nothing is found negative."""
    right = np.asarray(specificity) * (1 - prevalence)
    missed = (1 - np.asarray(sensitivity)) * prevalence
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(right / (right + missed), np.float64)
