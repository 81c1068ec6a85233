"""AUROC and average precision of one output under any weights of its units, thousands of weightings at a time.

A bootstrap weighs each unit (a record, a patient) by the number of times it was drawn. Sorting once is enough for all
draws: the positives' distinct probabilities cut the axis into bins, and both figures follow from how much weight of
positives and of negatives each bin holds. Those weights are a sparse matrix (bins × units) times the draws (units × r),
so that a thousand draws of a hundred thousand records take a fraction of a second.

    AUROC = Σᵥ p(v)·(n(<v) + ½·n(=v)) / (P·N)        Mann-Whitney; equal probabilities count one half
    AP    = Σᵥ p(v)/P · p(≥v)/(p(≥v) + n(≥v))        the step-wise area under precision and recall, no interpolation
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.floating[Any]]

_ROWS = 256
"""Rows at a time: what fits in a core's second cache."""
_CELLS = 2**26
"""Numbers in the largest array that is made: memory stays below a gigabyte."""
_TINY = np.finfo(np.float64).tiny
_EXACT = 2**24
"""Whole numbers up to it are exact in float32."""


def patient_weights(there: NDArray[np.bool_], who: NDArray[np.int64], patients: int) -> Array:
    """(n,) weights that sum to one for each patient who has any window in ``there``."""
    count = np.bincount(who[there], minlength=patients)
    return np.where(there, 1.0 / np.maximum(count, 1)[who], 0.0)


def weighted_auroc(probability: Numbers, positive: Array, negative: Array) -> Array:
    """AUROC (…,) for weights (…, n) of the positive and the negative windows; equal probabilities count one half.

    NaN where a row has no positive or no negative weight.
    """
    order = np.argsort(probability, kind="stable")
    _, group = np.unique(probability[order], return_inverse=True)
    first = np.flatnonzero(np.diff(group, prepend=-1))
    p = np.add.reduceat(positive[..., order], first, axis=-1)
    n = np.add.reduceat(negative[..., order], first, axis=-1)
    below = np.cumsum(n, axis=-1) - 0.5 * n
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = np.sum(p * below, axis=-1) / (p.sum(axis=-1) * n.sum(axis=-1))
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """How positives and negatives of one output lie among each other; k distinct probabilities of positives."""

    positive: Any
    """(k, u) CSR: weight of each unit's positives, by rising probability."""
    negative: Any
    """(bins, u) CSR: weight of each unit's negatives, by rising bin; bins without any are left out."""
    below: NDArray[np.int64]
    """(k,): bins whose probabilities are below that of the positive."""
    up_to: NDArray[np.int64]
    """(k,): bins whose probabilities are not above it."""
    units: NDArray[np.int64] | None
    """(u,): the units that have a case here, among all; None where all have."""
    whole: bool
    """All weights are one, and their sum is exact in single precision."""

    def figures(self, times: NDArray[np.uint8]) -> tuple[Array, Array]:
        """AUROC and average precision (r,) of draws (units, r); NaN where a draw has no positive or no negative.

        Some hundred draws at a time are fastest.
        """
        drawn = times if self.units is None else times[self.units]
        kind = np.float32 if self.whole else np.float64
        step = max(1, _CELLS // max(len(self.below), 1))
        parts = [self._weighted(drawn[:, k : k + step].astype(kind)) for k in range(0, drawn.shape[1], step)]
        return np.concatenate([auroc for auroc, _ in parts]), np.concatenate([precision for _, precision in parts])

    def point(self) -> tuple[float, float]:
        """AUROC and average precision of the data as they are, in double precision; NaN where a class is missing."""
        auroc, precision = self._weighted(np.ones((self.positive.shape[1], 1)))
        return float(auroc[0]), float(precision[0])

    def _weighted(self, times: NDArray[Any]) -> tuple[Array, Array]:
        r = times.shape[1]
        p = self.positive @ times
        upward = _running_sum(p.copy())
        n = np.concatenate([np.zeros((1, r), times.dtype), self.negative @ times])
        _running_sum(n)
        all_p, all_n = upward[-1:].sum(axis=0, dtype=np.float64), n[-1].astype(np.float64)
        pairs, steps = np.zeros(r), np.zeros(r)
        for first in range(0, len(p), _ROWS):
            rows = slice(first, first + _ROWS)
            here, below = p[rows], n[self.below[rows]]
            pairs += np.einsum("kr,kr->r", here, below + n[self.up_to[rows]], dtype=np.float64, casting="same_kind")
            found = all_p - upward[rows] + here  # positives at or above this probability
            steps += np.sum(here * (found / np.maximum(found + (all_n - below), _TINY)), axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return pairs / (2 * all_p * all_n), np.where(all_n > 0, steps / all_p, np.nan)


def rank(
    probability: Numbers,
    positive: NDArray[np.bool_],
    unit: NDArray[np.int64],
    units: int,
    weight: Array | None = None,
) -> Ranking:
    """The ranking of n known cases: probabilities (n,), which of them are positive (n,), each one's unit (n,) of units.

    ``weight`` (n,) counts a case for more or less than one.
    """
    from scipy.sparse import csr_array

    weights = np.ones(len(probability)) if weight is None else weight
    whole = weight is None and len(probability) < _EXACT
    there, column = _present(unit, units)
    values, row = np.unique(probability[positive], return_inverse=True)
    k = len(values)
    outside = probability[~positive]
    at = np.searchsorted(values, outside)
    equal = at < k
    equal[equal] = values[at[equal]] == outside[equal]
    bins, place = _present(2 * at + equal, 2 * k + 1)  # even: between two values, odd: equal to one

    def matrix(rows: NDArray[np.int64], of: NDArray[np.bool_], count: int) -> Any:
        entries = (weights[of].astype(np.float32 if whole else np.float64), (rows, column[of]))
        return csr_array(entries, shape=(count, len(there)))

    return Ranking(
        positive=matrix(row.reshape(-1), positive, k),
        negative=matrix(place, ~positive, len(bins)),
        below=np.searchsorted(bins, 2 * np.arange(k) + 1),
        up_to=np.searchsorted(bins, 2 * np.arange(k) + 2),
        units=None if len(there) == units else there,
        whole=whole,
    )


def _present(values: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct values below ``count``, and the place of each value among them: `np.unique` without the sort."""
    there = np.zeros(count, bool)
    there[values] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[values]


def _running_sum(x: NDArray[Any]) -> NDArray[Any]:
    """Cumulative sum over the rows, in place. In two levels, because numpy's runs down one column after the other."""
    rows, columns = x.shape
    height = int(rows**0.5)
    full = rows // max(height, 1) * height
    blocks = x[:full].reshape(-1, max(height, 1), columns)
    for i in range(1, height):
        blocks[:, i] += blocks[:, i - 1]
    for i in range(1, len(blocks)):
        blocks[i] += blocks[i - 1, -1]
    for i in range(max(full, 1), rows):
        x[i] += x[i - 1]
    return x
