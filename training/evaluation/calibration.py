"""Do the probabilities mean what they say: reliability, ECE, Brier's parts, and scaling fitted on validation data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, logit
from scipy.stats import norm

from training.evaluation.cases import Cases
from training.evaluation.ranking import Array, Numbers

BINS = 10
Kind = Literal["width", "mass"]
EDGE = 1e-6
"""Probabilities are kept so far from 0 and 1 before a logit is taken; a float32 sigmoid saturates near 1 − 6e-8."""
MINIMUM = 10
"""Positive and negative cases below which no scaling is fitted."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Cases of like probability."""

    predicted: float
    """Mean probability."""
    observed: float
    """Share of positives."""
    lower: float
    upper: float
    """Wilson's 95 % interval of ``observed``, as if each patient in the bin counted once: a patient's windows resemble
    each other."""
    count: int
    patients: int


@dataclass(frozen=True, slots=True)
class Brier:
    """The mean squared error and its parts; score = reliability − resolution + uncertainty + within.

    Murphy's three parts (J. Appl. Meteorol. 1973) add up only if all probabilities of a bin are equal; ``within`` is
    what they miss otherwise (Stephenson et al., Weather Forecast. 2008: variance less twice the covariance in bins).
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float
    skill: float | None
    """1 − score/uncertainty: against always saying the prevalence; None where there is but one class."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """One output's."""

    bins: tuple[Bin, ...]
    ece: float
    """Expected calibration error: mean over cases of |observed − predicted| of their bin."""
    mce: float
    """The largest of these."""
    brier: Brier
    mean_predicted: float
    prevalence: float


def bins_of(probability: Numbers, count: int = BINS, kind: Kind = "width") -> NDArray[np.int64]:
    """(n,) bin of each case: of equal width on [0, 1], or of equal mass. Equal probabilities share a bin."""
    p = np.asarray(probability, np.float64)
    if kind == "width":
        return np.minimum((p * count).astype(np.int64), count - 1)
    edges = np.unique(np.quantile(p, np.arange(1, count) / count))
    return np.searchsorted(edges, p, side="left").astype(np.int64)


def wilson(positive: Array, count: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Wilson's interval of a share (J. Am. Stat. Assoc. 1927)."""
    z = float(norm.ppf((1 + level) / 2))
    share = positive / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def calibration(
    probability: Numbers,
    positive: NDArray[np.bool_],
    count: int = BINS,
    kind: Kind = "width",
    patient: NDArray[Any] | None = None,
) -> Calibration:
    """Reliability of known cases (n,), each of them counting one; without ``patient`` each is of a patient of its own.

    Raises:
        ValueError: there is none.
    """
    if len(probability) == 0:
        raise ValueError("no case is known, so nothing can be said of calibration")
    p, y = np.asarray(probability, np.float64), positive.astype(np.float64)
    _, of = np.unique(bins_of(p, count, kind), return_inverse=True)
    n = np.bincount(of).astype(np.float64)
    predicted, observed = np.bincount(of, p) / n, np.bincount(of, y) / n
    patients = n
    if patient is not None:
        _, who = np.unique(patient, return_inverse=True)
        patients = np.bincount(np.unique(np.stack([of, who.reshape(-1)]), axis=1)[0], minlength=len(n)).astype(float)
    lower, upper = wilson(observed * patients, patients)
    gap, share, base = np.abs(observed - predicted), n / len(p), float(y.mean())
    score = float(np.mean((p - y) ** 2))
    reliability = float(share @ (observed - predicted) ** 2)
    resolution = float(share @ (observed - base) ** 2)
    uncertainty = base * (1 - base)
    return Calibration(
        bins=tuple(
            Bin(float(a), float(b), float(c), float(d), int(e), int(f))
            for a, b, c, d, e, f in zip(predicted, observed, lower, upper, n, patients, strict=True)
        ),
        ece=float(share @ gap),
        mce=float(gap.max()),
        brier=Brier(
            score=score,
            reliability=reliability,
            resolution=resolution,
            uncertainty=uncertainty,
            within=score - (reliability - resolution + uncertainty),
            skill=1 - score / uncertainty if uncertainty > 0 else None,
        ),
        mean_predicted=float(p.mean()),
        prevalence=base,
    )


def logits(probability: Numbers) -> Array:
    """Logits of probabilities, kept finite by ``EDGE``."""
    found: Array = logit(np.clip(np.asarray(probability, np.float64), EDGE, 1 - EDGE))
    return found


@dataclass(frozen=True, slots=True)
class Scaling:
    """Calibrated logit = slope · logit + intercept. Ranks, and so AUROC, stay as they are (the slope is positive)."""

    slope: float
    intercept: float = 0.0

    @property
    def temperature(self) -> float:
        """1 / slope."""
        return 1 / self.slope

    def apply(self, probability: Numbers) -> Numbers:
        """Calibrated probabilities; NaN stays NaN."""
        return expit(self.slope * logits(probability) + self.intercept).astype(np.float32)


def log_loss(logit_: Array, target: Array) -> float:
    """Mean cross-entropy of logits (n,) and targets (n,) between 0 and 1."""
    return float(-np.mean(target * log_expit(logit_) + (1 - target) * log_expit(-logit_)))


def fit_temperature(probability: Numbers, positive: NDArray[np.bool_]) -> Scaling:
    """Temperature scaling (Guo et al., ICML 2017) of known validation cases; the temperature stays within .05 and 20.

    Within these limits, because perfectly separated cases would take it to zero.
    """
    x, y = logits(probability), positive.astype(np.float64)
    best = minimize_scalar(
        lambda log_slope: log_loss(np.exp(log_slope) * x, y), bounds=(-np.log(20), np.log(20)), method="bounded"
    )
    return Scaling(float(np.exp(best.x)))


def fit_platt(probability: Numbers, positive: NDArray[np.bool_]) -> Scaling | None:
    """Platt scaling of known validation cases, with his smoothed targets (Platt 1999).

    None where the slope is not positive: that would turn the ranking round, and then scaling mends nothing.
    """
    x, up = logits(probability), float(positive.sum())
    down = len(positive) - up
    target = np.where(positive, (up + 1) / (up + 2), 1 / (down + 2))

    def loss(theta: Array) -> tuple[float, Array]:
        z = theta[0] * x + theta[1]
        off = expit(z) - target
        return log_loss(z, target), np.array([np.mean(off * x), np.mean(off)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS")
    slope, intercept = (float(v) for v in found.x)
    return Scaling(slope, intercept) if slope > 0 else None


def fit_all(validation: Cases, method: Literal["temperature", "platt"], minimum: int = MINIMUM) -> dict[str, Scaling]:
    """A scaling for each output with at least ``minimum`` positive and negative validation cases."""
    found = {}
    for i, name in enumerate(validation.names):
        known = validation.known(i)
        positive = validation.truth[known, i] == 1
        if min(positive.sum(), (~positive).sum()) < minimum:
            continue
        fit = fit_temperature if method == "temperature" else fit_platt
        scaling = fit(validation.probability[known, i], positive)
        if scaling is not None:
            found[name] = scaling
    return found


def fit_common_temperature(validation: Cases) -> Scaling:
    """One temperature for all outputs, on every known pair of validation case and output.

    Raises:
        ValueError: nothing is known.
    """
    known = (validation.truth >= 0) & ~np.isnan(validation.probability)
    if not known.any():
        raise ValueError("no validation case is known and scored, so no temperature can be fitted")
    return fit_temperature(validation.probability[known], validation.truth[known] == 1)
