"""Intervals by resampling: of records, as the paper, and of patients, the ordinary (cluster) bootstrap.

**What is known of the paper's resampling**: a thousand resamples, percentile intervals. **Assumed**, because it is not
told: the unit is the record, drawn with replacement as often as there are records, without strata; the 95 % interval is
from the 2.5 to the 97.5 percentile; the figure beside it is that of the data, not the mean of the draws. (The group's
public library of statistics, HeartWise_StatPlots, draws records so, but reports the draws' mean; whether the paper used
it is not told.) **Not known**: what it did with a resample without a positive.

Records of one patient resemble each other, so drawing records makes intervals too narrow where patients have several.
Drawing patients (each with all of its records) does not; it is what this project reports first.

With few positives either is too narrow: with ten positive patients and an AUROC of .95 a percentile interval holds the
truth about eight times in ten. `score_interval` does better there, and exists where no resample differs.

A resample in which a figure does not exist (no positive was drawn) is left out of the percentiles and counted as void.
Beyond `MAX_VOID` of them there is no interval at all. Nor is there one where every draw gives the same (no finding was
missed, so none is missed in any resample): that is not certainty. A rate then has the exact binomial interval over its
patients. ``stratified`` draws units with and without a positive apart, so
that none is void: the interval is then one given the number of positive units.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from training.evaluation.cases import Cases
from training.evaluation.ranking import Array, Ranking

Unit = Literal["patients", "records"]

LEVEL = 0.95
BLOCK = 128
"""Resamples that are handled together."""
MAX_VOID = 0.05
"""Share of void resamples up to which an interval is given: as many as the level leaves outside it."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Percentiles of the draws."""

    lower: float
    upper: float
    void: int = 0
    """Resamples in which the figure did not exist."""
    exact: bool = False
    """Clopper and Pearson's over patients, because every resample gave the same."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of the data, with its intervals; None where there is none to give."""

    value: float
    patients: Interval | None = None
    """Patients drawn."""
    records: Interval | None = None
    """Records drawn, the paper's way."""


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """How often each unit was drawn in each of R resamples."""

    unit: NDArray[np.int64]
    """(n,): the unit of each case."""
    blocks: tuple[NDArray[np.uint8], ...]
    """(units, r) each, which side by side are (units, R): a wide array is slow to cut."""
    level: float = LEVEL
    threads: int = 1
    """That work on the blocks; the figures do not depend on it."""

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.blocks[0])

    @property
    def resamples(self) -> int:
        """R."""
        return sum(block.shape[1] for block in self.blocks)

    def select(self, mask: NDArray[np.bool_]) -> Self:
        """The same draws for some of the cases: what makes figures of groups comparable, draw by draw."""
        return replace(self, unit=self.unit[mask])

    def ranked(self, ranking: Ranking) -> tuple[Array, Array]:
        """AUROC and average precision (R,) of the draws."""
        with ThreadPoolExecutor(self.threads) as pool:  # numpy and scipy let go of the interpreter for most of it
            parts = list(pool.map(ranking.figures, self.blocks))
        return np.concatenate([auroc for auroc, _ in parts]), np.concatenate([auprc for _, auprc in parts])

    def sums(self, parts: Iterable[tuple[slice, Array]]) -> Array:
        """(R, …) weighted sums of what each case adds: slices of cases with (rows, …) values."""
        total: Array | None = None
        shape: tuple[int, ...] = ()
        for rows, part in parts:
            shape = part.shape[1:]
            flat = np.ascontiguousarray(part.reshape(len(part), -1), np.float32)
            if total is None:
                total = np.zeros((self.resamples, flat.shape[1]))
            drawn = [block[self.unit[rows]].astype(np.float32).T @ flat for block in self.blocks]
            total += np.concatenate(drawn)
        if total is None:
            raise ValueError("there are no cases to sum over")
        return total.reshape(len(total), *shape)


def resample(
    unit: NDArray[np.generic],
    resamples: int,
    seed: int,
    stratum: NDArray[np.bool_] | None = None,
    *,
    level: float = LEVEL,
    threads: int = 1,
) -> Resamples:
    """Draws of the distinct values of ``unit`` (n,), with replacement, as many as there are.

    ``stratum`` (n,): units with any True case and the other units are drawn apart, each as many as there are.
    """
    names, who = np.unique(unit, return_inverse=True)
    rng = np.random.default_rng(seed)
    pools = [np.arange(len(names))]
    if stratum is not None:
        marked = np.bincount(who[stratum], minlength=len(names)) > 0
        pools = [np.flatnonzero(marked), np.flatnonzero(~marked)]
    blocks = []
    for first in range(0, resamples, BLOCK):
        rows = np.zeros((min(BLOCK, resamples - first), len(names)), np.uint8)
        for row in rows:
            drawn = np.concatenate([pool[rng.integers(0, len(pool), len(pool))] for pool in pools if len(pool)])
            row[:] = np.minimum(np.bincount(drawn, minlength=len(names)), 255)  # 255 of one unit never happens
        blocks.append(np.ascontiguousarray(rows.T))
    return Resamples(who.reshape(-1), tuple(blocks), level, threads)


def units_of(cases: Cases, unit: Unit) -> NDArray[np.str_]:
    """(n,) name of each case's unit."""
    if unit == "patients":
        return cases.patient
    return np.char.add(np.char.add(cases.source, "\x1f"), cases.record)


def interval(draws: Array, level: float = LEVEL) -> Interval | None:
    """The percentile interval of draws (R,), NaN = void; None where too many are void, or all are the same."""
    there = draws[np.isfinite(draws)]
    void = len(draws) - len(there)
    if len(there) == 0 or void > MAX_VOID * len(draws) or there.min() == there.max():
        return None
    tail = 50 * (1 - level)
    lower, upper = np.percentile(there, [tail, 100 - tail])
    return Interval(float(lower), float(upper), void)


def estimate(value: float, draws: dict[Unit, Array], level: float = LEVEL) -> Estimate | None:
    """A figure with an interval by each kind of draws; None where the figure itself does not exist."""
    if not np.isfinite(value):
        return None
    return Estimate(float(value), **{unit: interval(of, level) for unit, of in draws.items()})


def rate(value: float, draws: dict[Unit, Array], patients: int, level: float = LEVEL) -> Estimate | None:
    """A rate that rests on so many patients: as `estimate`, but exact where none, or all, of them are found.

    With m patients and not one error, the share of patients with an error is below 1 − (tail)^(1/m) (Clopper, Pearson
    1934); resampling would say that it is zero.
    """
    found = estimate(value, draws, level)
    if found is None or value not in (0.0, 1.0) or patients == 0:
        return found
    tail = ((1 - level) / 2) ** (1 / patients)
    exact = Interval(tail, 1.0, exact=True) if value == 1.0 else Interval(0.0, 1 - tail, exact=True)
    return Estimate(value, **dict.fromkeys(draws, exact))


def score_interval(auroc: float, positives: int, negatives: int, level: float = LEVEL) -> Interval:
    """An AUROC's interval from Hanley and McNeil's variance at the limit itself, as Wilson's for a share.

    Newcombe's method 5 (Stat. Med. 2006; 25: 559-573). It counts patients as if each had one record, which is cautious
    where one has several; its variance is that of two exponentials, so that it is near, not exact.

    Raises:
        ValueError: a class is empty.
    """
    if min(positives, negatives) < 1:
        raise ValueError("an interval needs a positive and a negative patient")
    z, more = float(norm.ppf((1 + level) / 2)), (positives + negatives) / 2 - 1

    def beyond(limit: float) -> float:
        spread = limit * (1 - limit) * (1 + more * (1 - limit) / (2 - limit) + more * limit / (1 + limit))
        return (limit - auroc) ** 2 - z**2 * spread / (positives * negatives)

    edge = 1e-12
    inside = min(max(auroc, edge), 1 - edge)
    lower = 0.0 if beyond(edge) <= 0 else float(brentq(beyond, edge, inside))
    upper = 1.0 if beyond(1 - edge) <= 0 else float(brentq(beyond, inside, 1 - edge))
    return Interval(lower, upper)
