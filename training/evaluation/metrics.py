"""Figures of each output, and of outputs together: per category, per severity class, over all.

*Macro* is the mean over outputs; *micro* pools every pair of case and output into one ranking. An output without a
positive takes part in neither, as in the published code (DeepECG_Docker, ``compute_metrics``). Each case counts one,
or, weighed by patient, each patient counts one among the positives and one among the negatives, however many windows
there are of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.core.labels import Category, Severity, index_of, label
from training.evaluation.cases import Cases
from training.evaluation.ranking import Array, Numbers, Ranking, patient_weights, rank

Weigh = Literal["case", "patient"]

OVERALL = "All outputs"
CELLS = ("true positive", "positive", "false positive", "negative", "squared error", "known")
"""What `cells` counts, in its last axis; the first four at a threshold."""
RATES = ("sensitivity", "specificity", "ppv", "npv", "f1")


@dataclass(frozen=True, slots=True)
class Counts:
    """What an output's figures rest on: known and scored cases, and their patients."""

    positive: int
    negative: int
    unknown: int
    """Cases without a truth or without a score."""
    positive_patients: int
    negative_patients: int
    """With a negative case and no positive one."""

    @property
    def prevalence(self) -> float | None:
        """Share of positives among the known cases."""
        known = self.positive + self.negative
        return self.positive / known if known else None

    def lacking(self, minimum: int) -> str:
        """Why there is no figure, for at least ``minimum`` patients of each kind; empty where there is one."""
        if self.positive + self.negative == 0:
            return "never labelled or never scored"
        short = []
        for kind, count in (("positive", self.positive_patients), ("negative", self.negative_patients)):
            if count < minimum:
                short.append(f"{count} {kind} patient{'' if count == 1 else 's'}")
        return f"{' and '.join(short)}, {minimum} needed" if short else ""


def counts(cases: Cases) -> tuple[Counts, ...]:
    """`Counts` of every output."""
    names, who = np.unique(cases.patient, return_inverse=True)
    found = []
    for i in range(len(cases.names)):
        known = cases.known(i)
        positive = known & (cases.truth[:, i] == 1)
        with_positive = np.bincount(who[positive], minlength=len(names)) > 0
        with_any = np.bincount(who[known], minlength=len(names)) > 0
        found.append(
            Counts(
                positive=int(positive.sum()),
                negative=int(known.sum() - positive.sum()),
                unknown=int(len(cases) - known.sum()),
                positive_patients=int(with_positive.sum()),
                negative_patients=int((with_any & ~with_positive).sum()),
            )
        )
    return tuple(found)


def groupings(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Outputs by the six published categories and the three severity classes, as far as they are among the 77 labels.

    A label with two categories counts in both. All outputs together come last.
    """
    found: dict[str, list[str]] = {category.value: [] for category in Category}
    found |= {f"Severity: {severity.value}": [] for severity in Severity}
    for name in names:
        try:
            info = label(name)
        except KeyError:
            continue
        for category in info.categories:
            found[category.value].append(name)
        found[f"Severity: {info.severity.value}"].append(name)
    return {group: tuple(of) for group, of in found.items() if of} | {OVERALL: tuple(names)}


def ordered(names: Sequence[str]) -> list[str]:
    """Names by category in the published order, those of no category last; within one as they come."""
    rank_of = {category: i for i, category in enumerate(Category)}

    def key(name: str) -> int:
        try:
            return rank_of[label(name).categories[0]]
        except KeyError:
            return len(rank_of)

    return sorted(names, key=key)


def category_of(name: str) -> str:
    """The first published category of an output; "Other outputs" where it is none of the 77 labels."""
    try:
        index_of(name)
    except KeyError:
        return "Other outputs"
    return label(name).categories[0].value


def weights(cases: Cases, columns: Sequence[int], weigh: Weigh = "case") -> Array:
    """(n, k) weight of each case in the figures of k outputs; zero where it is unknown or not scored."""
    known = np.stack([cases.known(i) for i in columns], axis=1)
    if weigh == "case":
        return known.astype(np.float64)
    names, who = np.unique(cases.patient, return_inverse=True)
    found = np.empty(known.shape)
    for k, i in enumerate(columns):
        positive = cases.truth[:, i] == 1
        found[:, k] = patient_weights(known[:, k] & positive, who, len(names))
        found[:, k] += patient_weights(known[:, k] & ~positive, who, len(names))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Known pairs of case and output, one after the other."""

    probability: Numbers
    positive: NDArray[np.bool_]
    case: NDArray[np.int64]
    """Index of the case."""
    weight: Array | None
    """None where each counts one."""


def pairs(cases: Cases, columns: Sequence[int], weigh: Weigh = "case") -> Pairs:
    """Those of one output, or of several pooled."""
    known = [np.flatnonzero(cases.known(i)) for i in columns]
    weight = None
    if weigh == "patient":
        every = weights(cases, columns, weigh)
        weight = np.concatenate([every[at, k] for k, at in enumerate(known)])
    return Pairs(
        probability=np.concatenate([cases.probability[at, i] for at, i in zip(known, columns, strict=True)]),
        positive=np.concatenate([cases.truth[at, i] == 1 for at, i in zip(known, columns, strict=True)]),
        case=np.concatenate(known),
        weight=weight,
    )


def ranking(
    cases: Cases, columns: Sequence[int], unit: NDArray[np.int64], units: int, weigh: Weigh = "case"
) -> Ranking:
    """The ranking of one output, or of several pooled; ``unit`` (n,): with which of the ``units`` a case is drawn."""
    found = pairs(cases, columns, weigh)
    return rank(found.probability, found.positive, unit[found.case], units, found.weight)


def cells(cases: Cases, thresholds: Array, weigh: Weigh = "case", rows: int = 4096) -> Iterator[tuple[slice, Array]]:
    """What each case adds to `CELLS`: slices of rows and (rows, L, 6) for thresholds (L,), NaN = none.

    A case is found positive at or above the threshold, as the agent compares.
    """
    every = weights(cases, range(len(cases.names)), weigh) if weigh != "case" else None
    for first in range(0, len(cases), rows):
        here = slice(first, first + rows)
        p, yes = cases.probability[here], cases.truth[here] == 1
        w = ((cases.truth[here] >= 0) & ~np.isnan(p)).astype(np.float64) if every is None else every[here]
        at = w * ~np.isnan(thresholds)
        with np.errstate(invalid="ignore"):
            found = p >= thresholds
        error = w * np.nan_to_num(p.astype(np.float64) - yes) ** 2
        yield here, np.stack([at * (found & yes), at * yes, at * (found & ~yes), at * ~yes, error, w], axis=-1)


def confusion(cases: Cases, thresholds: Array, weigh: Weigh = "case") -> Array:
    """(L, 6): `CELLS` summed over all cases."""
    total = np.zeros((len(cases.names), len(CELLS)))
    for _, part in cells(cases, thresholds, weigh):
        total += part.sum(axis=0)
    return total


def rates(sums: Array) -> dict[str, Array]:
    """`RATES`, Brier score and the share that is found positive (…,) of `CELLS` (…, 6); NaN where there is nothing.

    Weighed by patient, ppv, npv and f1 are those of a population of patients, each with one window of each kind it has.
    """
    tp, positive, fp, negative, error, known = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    fn, tn = positive - tp, negative - fp
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / positive,
            "specificity": tn / negative,
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": np.where(positive > 0, 2 * tp / (2 * tp + fp + fn), np.nan),
            "flagged": (tp + fp) / (positive + negative),
            "brier": error / known,
        }


@dataclass(frozen=True, slots=True)
class Score:
    """Point figures of one output."""

    auroc: float
    auprc: float


def scores(cases: Cases, weigh: Weigh = "case") -> dict[str, Score]:
    """AUROC and AUPRC of every output that has a positive and a negative case, by name, without intervals."""
    unit = np.zeros(len(cases), np.int64)
    found = {}
    for i, name in enumerate(cases.names):
        auroc, auprc = ranking(cases, [i], unit, 1, weigh).point()
        if np.isfinite(auroc):
            found[name] = Score(auroc, auprc)
    return found


def macro(scored: Mapping[str, Score]) -> Score | None:
    """The mean over outputs; None of nothing."""
    if not scored:
        return None
    return Score(
        float(np.mean([score.auroc for score in scored.values()])),
        float(np.mean([score.auprc for score in scored.values()])),
    )


def micro(cases: Cases, weigh: Weigh = "case") -> Score | None:
    """Every pair of case and output in one ranking, of the outputs that have a positive and a negative case."""
    columns = [cases.names.index(name) for name in scores(cases, weigh)]
    if not columns:
        return None
    return Score(*ranking(cases, columns, np.zeros(len(cases), np.int64), 1, weigh).point())
