"""The worst finding of a record: normal, borderline or pathological.

The severities of the 77 labels are those of `agent.core.labels` (41, 24, 12). A record's true severity is that of its
worst label, the predicted one that of its worst label at or above the threshold. Open data leave many labels unknown,
so a record is judged by the labels that are known *and* have a threshold, truth and prediction by the same ones; it
takes part if these hold a pathological and a borderline label, or if its truth is pathological, which nothing exceeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.core.labels import Severity, label
from training.evaluation.intervals import Estimate, Resamples, Unit, estimate
from training.evaluation.ranking import Array

CLASSES = (Severity.NORMAL, Severity.BORDERLINE, Severity.PATHOLOGICAL)
"""By rising severity; a record without a finding is normal."""


@dataclass(frozen=True, slots=True)
class SeverityFigures:
    """Predicted against true severity."""

    matrix: tuple[tuple[int, ...], ...]
    """Rows: truth, columns: prediction, both as ``CLASSES``."""
    records: int
    left_out: int
    """Records whose known labels are too few."""
    labels_known: float
    """Median number of labels by which a record is judged."""
    accuracy: Estimate | None
    kappa: Estimate | None
    """Cohen's, unweighted; None where both sides are one class only."""
    weighted_kappa: Estimate | None
    """Quadratic weights: normal against pathological counts four times a neighbour."""
    recall: tuple[Estimate | None, ...]
    """Share of each true class that is found as such."""
    precision: tuple[Estimate | None, ...]


def severities(names: tuple[str, ...]) -> NDArray[np.int8]:
    """(L,) index into ``CLASSES``; -1 for an output that is none of the 77 labels."""
    found = []
    for name in names:
        try:
            found.append(CLASSES.index(label(name).severity))
        except KeyError:
            found.append(-1)
    return np.array(found, np.int8)


def worst(
    names: tuple[str, ...], truth: NDArray[np.int8], found: NDArray[np.int8]
) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.int64]]:
    """True and predicted class (n,), -1 where a record takes no part, and the labels it is judged by (n,).

    ``truth`` and ``found`` (n, L) are 1, 0, -1 = unknown or no threshold.
    """
    level = severities(names)
    judged = (truth >= 0) & (found >= 0) & (level >= 0)
    true = np.where(judged & (truth == 1), level, 0).max(axis=1, initial=0)
    predicted = np.where(judged & (found == 1), level, 0).max(axis=1, initial=0)
    has_pathological = (judged & (level == 2)).any(axis=1)
    has_borderline = (judged & (level == 1)).any(axis=1)
    takes_part = (has_pathological & has_borderline) | (true == 2)
    return (
        np.where(takes_part, true, -1).astype(np.int8),
        np.where(takes_part, predicted, -1).astype(np.int8),
        judged.sum(axis=1),
    )


def kappa(matrix: Array, quadratic: bool = False) -> Array:
    """Cohen's kappa (…,) of confusion matrices (…, c, c); NaN where chance alone explains all."""
    c = matrix.shape[-1]
    i, j = np.indices((c, c))
    off = ((i - j) ** 2 if quadratic else (i != j)).astype(np.float64)
    total = matrix.sum(axis=(-2, -1))
    chance = matrix.sum(axis=-1)[..., :, None] * matrix.sum(axis=-2)[..., None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = (off * chance).sum(axis=(-2, -1)) / total
        agreement: Array = 1 - (off * matrix).sum(axis=(-2, -1)) / expected
    return np.where(expected > 0, agreement, np.nan)


def severity_figures(
    names: tuple[str, ...], truth: NDArray[np.int8], found: NDArray[np.int8], draws: dict[Unit, Resamples]
) -> SeverityFigures | None:
    """Figures with intervals from decisions (n, L) of `thresholds.apply`; None where no record takes part."""
    true, predicted, known = worst(names, truth, found)
    use = true >= 0
    if not use.any():
        return None
    c = len(CLASSES)
    each = np.zeros((len(true), c * c))
    each[use, (true[use] * c + predicted[use]).astype(np.int64)] = 1

    def drawn(resamples: Resamples) -> Array:
        return resamples.sums([(slice(0, len(each)), each)]).reshape(-1, c, c)

    matrix = each.sum(axis=0).reshape(c, c)
    matrices = {unit: drawn(resamples) for unit, resamples in draws.items()}
    level = next((resamples.level for resamples in draws.values()), 0.95)

    def figure(of: Callable[[Array], Array]) -> Estimate | None:
        return estimate(float(of(matrix)), {unit: of(m) for unit, m in matrices.items()}, level)

    def share(k: int, axis: int) -> Callable[[Array], Array]:
        def of(m: Array) -> Array:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(m[..., k, k] / m.sum(axis=axis)[..., k])

        return of

    return SeverityFigures(
        matrix=tuple(tuple(int(v) for v in row) for row in matrix),
        records=int(use.sum()),
        left_out=int((~use).sum()),
        labels_known=float(np.median(known[use])),
        accuracy=figure(lambda m: np.trace(m, axis1=-2, axis2=-1) / m.sum(axis=(-2, -1))),
        kappa=figure(kappa),
        weighted_kappa=figure(lambda m: kappa(m, quadratic=True)),
        recall=tuple(figure(share(k, -1)) for k in range(c)),
        precision=tuple(figure(share(k, -2)) for k in range(c)),
    )
