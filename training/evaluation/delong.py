"""Correlated AUROCs: DeLong's covariance in n·log n, the test between two models, Holm's correction over outputs.

Each positive has a placement among the negatives and each negative one among the positives; their means are the AUROC,
their covariances over the models its covariance (DeLong et al., Biometrics 1988), and mid-ranks give them all by one
sort (Sun and Xu, IEEE Signal Process. Lett. 2014). Where a patient has several records, their placements are summed
before the covariance is taken (Obuchowski, Biometrics 1997); with one record each that is DeLong's own estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from training.evaluation.cases import Cases, same_cases
from training.evaluation.intervals import LEVEL, Estimate, Resamples, estimate
from training.evaluation.metrics import ranking
from training.evaluation.ranking import Array, Numbers

MINIMUM = 5
"""Positive and negative patients below which the normal approximation is not offered."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on one output; differences are the second minus the first."""

    first: float
    second: float
    """AUROC."""
    difference: float
    lower: float
    upper: float
    error: float
    """Standard error of the difference; zero where the two rank every pair alike."""
    z: float | None
    """None where the standard error is zero: then there is nothing to test."""
    p: float
    """Two-sided; one where the two rank every pair alike."""
    positive_patients: int
    negative_patients: int
    """With no positive record."""
    p_holm: float | None = None
    """Corrected for the number of outputs compared."""


def placements(probabilities: Numbers, positive: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """AUROC (k,), placements of the positives (k, m) and of the negatives (k, n) of k models; ties count one half."""
    p = np.atleast_2d(np.asarray(probabilities, np.float64))
    m, n = int(positive.sum()), int((~positive).sum())
    everyone = rankdata(p, axis=1)
    of_positives = (everyone[:, positive] - rankdata(p[:, positive], axis=1)) / n
    of_negatives = 1 - (everyone[:, ~positive] - rankdata(p[:, ~positive], axis=1)) / m
    return of_positives.mean(axis=1), of_positives, of_negatives


def delong(
    probabilities: Numbers, positive: NDArray[np.bool_], cluster: NDArray[np.generic] | None = None
) -> tuple[Array, Array]:
    """AUROC (k,) of k models (k, n) on the same cases, and its covariance (k, k).

    ``cluster`` (n,), as the patients, are independent of each other, the cases of one are not.

    Raises:
        ValueError: fewer than two clusters hold a positive, or a negative.
    """
    auroc, of_positives, of_negatives = placements(probabilities, positive)
    _, who = np.unique(np.arange(positive.size) if cluster is None else cluster, return_inverse=True)
    clusters = int(who.max()) + 1

    def summed(placement: Array, at: NDArray[np.int64]) -> tuple[Array, int]:
        """Each cluster's sum of distances from the mean (k, clusters), and how many clusters have any."""
        rows = [np.bincount(at, row - mean, clusters) for row, mean in zip(placement, auroc, strict=True)]
        return np.stack(rows).astype(np.float64), len(np.unique(at))

    up, with_positive = summed(of_positives, who[positive])
    down, with_negative = summed(of_negatives, who[~positive])
    if min(with_positive, with_negative) < 2:
        raise ValueError("a covariance needs at least two patients with a positive and two with a negative")
    m, n = of_positives.shape[1], of_negatives.shape[1]
    across = up @ down.T * clusters / (clusters - 1)
    covariance: Array = (
        up @ up.T * with_positive / (with_positive - 1) / m**2
        + down @ down.T * with_negative / (with_negative - 1) / n**2
        + (across + across.T) / (m * n)
    )
    return auroc, covariance


def compare(
    first: Numbers,
    second: Numbers,
    positive: NDArray[np.bool_],
    patient: NDArray[np.generic],
    level: float = LEVEL,
    minimum: int = MINIMUM,
) -> Comparison | None:
    """The paired test of two models' probabilities (n,); None with fewer than ``minimum`` patients of a kind."""
    names, who = np.unique(patient, return_inverse=True)
    with_positive = np.bincount(who[positive], minlength=len(names)) > 0
    with_negative = np.bincount(who[~positive], minlength=len(names)) > 0
    pure = int((with_negative & ~with_positive).sum())
    if int(with_positive.sum()) < max(minimum, 2) or pure < max(minimum, 2):
        return None
    auroc, covariance = delong(np.stack([first, second]), positive, patient)
    difference = float(auroc[1] - auroc[0])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(max(variance, 0.0))
    if error < 1e-12:  # rounding alone: two rankings that agree on every pair
        error = 0.0
    z = difference / error if error else None
    half = float(norm.ppf((1 + level) / 2)) * error
    return Comparison(
        first=float(auroc[0]),
        second=float(auroc[1]),
        difference=difference,
        lower=difference - half,
        upper=difference + half,
        error=error,
        z=z,
        p=1.0 if z is None else float(2 * norm.sf(abs(z))),
        positive_patients=int(with_positive.sum()),
        negative_patients=pure,
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p-values in the given order (Scand. J. Stat. 1979); valid for dependent tests."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(steps, 1.0)
    return corrected.tolist()


def compare_all(
    first: Cases, second: Cases, level: float = LEVEL, minimum: int = MINIMUM
) -> tuple[dict[str, Comparison], list[str]]:
    """Every output of two models on the same cases, with Holm's correction; then the outputs with too few patients.

    Raises:
        ValueError: the cases are not the same.
    """
    second = same_cases(first, second)
    found: dict[str, Comparison] = {}
    left: list[str] = []
    for j, name in enumerate(second.names):
        i = first.names.index(name)
        both = first.known(i) & second.known(j)
        result = (
            compare(
                first.probability[both, i],
                second.probability[both, j],
                first.truth[both, i] == 1,
                first.patient[both],
                level,
                minimum,
            )
            if both.any()
            else None
        )
        if result is None:
            left.append(name)
        else:
            found[name] = result
    corrected = holm([result.p for result in found.values()])
    return {name: replace(result, p_holm=p) for (name, result), p in zip(found.items(), corrected, strict=True)}, left


def macro_difference(first: Cases, second: Cases, names: Sequence[str], resamples: Resamples) -> Estimate | None:
    """The second's macro AUROC minus the first's over these outputs, with an interval from the same draws of both.

    ``second`` holds the cases of ``first`` in their order (`cases.same_cases`); a case that either has not scored
    counts for neither. In a draw the mean is over the outputs that exist in it.
    """
    value, draws = [], []
    for name in names:
        i, j = first.names.index(name), second.names.index(name)
        both = first.known(i) & second.known(j)
        sides = []
        for cases, column in ((first, i), (second, j)):
            ranked = ranking(cases.select(both), [column], resamples.unit[both], resamples.units)
            sides.append((ranked.point()[0], resamples.ranked(ranked)[0]))
        value.append(sides[1][0] - sides[0][0])
        draws.append(sides[1][1] - sides[0][1])
    if not value:
        return None
    drawn = np.stack(draws)
    there = np.isfinite(drawn)
    with np.errstate(invalid="ignore"):
        mean = np.where(there, drawn, 0.0).sum(axis=0) / there.sum(axis=0)
    return estimate(float(np.mean(value)), {"patients": mean}, resamples.level)


def means(found: Mapping[str, Comparison]) -> tuple[float, float]:
    """Macro AUROC of the first and the second model over the outputs compared."""
    return (
        float(np.mean([result.first for result in found.values()])),
        float(np.mean([result.second for result in found.values()])),
    )
