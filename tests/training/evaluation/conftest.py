"""Simulated predictions: what is true of them is known, and they have every edge that real ones have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit

from training.evaluation.cases import Cases

Simulate = Callable[..., Cases]
NAMES = ("Afib", "Sinusal", "Left axis deviation", "Acute pericarditis", "Right bundle branch block", "Own output")
PREVALENCE = (0.12, 0.7, 0.2, 0.02, 0.1, 0.3)


def simulate_cases(
    n: int = 600, seed: int = 0, *, prefix: str = "p", per_patient: int = 2, sharpness: float = 1.0
) -> Cases:
    """n records; calibrated log-odds times ``sharpness``, a few unknown truths, a few that are not scored."""
    rng = np.random.default_rng(seed)
    prevalence = np.array(PREVALENCE)
    truth = (rng.random((n, len(NAMES))) < prevalence).astype(np.int8)
    score = rng.normal(0, 1, truth.shape) + 2.0 * truth
    odds = np.log(prevalence / (1 - prevalence)) + 2.0 * (score - 1.0)
    probability = expit(sharpness * odds).astype(np.float32)
    truth[rng.random(truth.shape) < 0.05] = -1
    probability[rng.random(truth.shape) < 0.01] = np.nan
    who = np.arange(n) // per_patient
    leads = np.ones((n, 12), bool)
    leads[who % 3 == 0] = np.arange(12) < 2
    return Cases(
        names=NAMES,
        probability=probability,
        truth=truth,
        patient=np.char.add(prefix, who.astype(np.str_)),
        source=np.where(who % 3 == 0, "ward", "archive"),
        site=np.full(n, "", np.str_),
        sex=np.array(["M", "F", "F", "M", ""])[who % 5],
        age=np.where(who % 11 == 0, np.nan, 20.0 + who % 70).astype(np.float32),
        leads=leads,
        record=np.char.add("r", np.arange(n).astype(np.str_)),
    )


@pytest.fixture(scope="session")
def simulate() -> Simulate:
    return simulate_cases


@pytest.fixture(scope="session")
def cases() -> Cases:
    return simulate_cases()
