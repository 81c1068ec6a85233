"""The same figures for women and men, for the young and the old: differences with intervals.

The published claim is that true and false positive rates differ by less than .010 over age and sex. A difference is
told with its interval from drawing patients, the same draws in every group. Three things keep it honest: a group with
fewer than ``minimum`` patients of a kind has no figure; the largest minus the smallest of several groups is positive by
chance alone, so that it may *confirm* the claim (its upper bound is below .010) but not refute it; refuting takes one
group whose difference from the reference lies wholly beyond .010 with Bonferroni's correction for the groups. Over many
outputs a few are still beyond it by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.evaluation.cases import Cases
from training.evaluation.intervals import Estimate, Resamples, estimate, interval, rate
from training.evaluation.metrics import CELLS, Counts, Weigh, cells, counts, ranking
from training.evaluation.ranking import Array

CLAIM = 0.010
MINIMUM = 10
"""Positive patients for a true positive rate, negative ones for a false positive rate, both for AUROC."""
BANDS = (0.0, 18.0, 40.0, 65.0, 80.0, math.inf)
"""Years: from each up to the next."""
POOLED, MEAN = "All outputs, pooled", "Mean over outputs"
FIGURES = ("tpr", "fpr", "auroc", "auprc")
SpreadVerdict = Literal["below .010", "above .010", "undecided"]


@dataclass(frozen=True, slots=True)
class Group:
    """One group's figures; None where it has too few patients."""

    name: str
    records: int
    patients: int
    positive_patients: int
    negative_patients: int
    prevalence: float | None
    """Which AUPRC depends on: never compare AUPRC without it."""
    tpr: Estimate | None
    fpr: Estimate | None
    auroc: Estimate | None
    auprc: Estimate | None
    lacking: str
    """Why there is no AUROC; empty where there is one."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The largest minus the smallest of several figures."""

    value: float
    at_most: float | None
    """Upper bound of the two-sided interval. There is no lower one: a spread is positive by chance alone, and drawing
    again adds to it."""


@dataclass(frozen=True, slots=True)
class Disparity:
    """How far one figure differs over the groups that have it."""

    figure: str
    spread: Spread
    highest: str
    lowest: str
    from_reference: Mapping[str, Estimate]
    """Each other group's figure minus the reference group's."""
    verdict: SpreadVerdict
    """Whether the groups differ by less than .010."""


@dataclass(frozen=True, slots=True)
class Fairness:
    """One output by one attribute."""

    output: str
    attribute: str
    reference: str
    """The largest group, unless one was chosen."""
    groups: tuple[Group, ...]
    disparities: tuple[Disparity, ...]
    """Of tpr, fpr and auroc, where two groups have it."""
    equalised_odds: Spread | None
    """The larger of the spreads of tpr and fpr."""


def band_names(bands: Sequence[float] = BANDS) -> list[str]:
    """As "18–39" or "80+"."""
    return [
        f"{low:g}+" if math.isinf(high) else f"under {high:g}" if low == 0 else f"{low:g}–{high - 1:g}"
        for low, high in pairwise(bands)
    ]


def attributes(cases: Cases, bands: Sequence[float] = BANDS) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Masks (n,) of the groups by sex, by age band, and by both; who is unknown is in none."""
    sexes = {"women": cases.sex == "F", "men": cases.sex == "M"}
    with np.errstate(invalid="ignore"):
        ages = {
            name: (cases.age >= low) & (cases.age < high)
            for name, (low, high) in zip(band_names(bands), pairwise(bands), strict=True)
        }
    both = {f"{sex}, {age}": sexes[sex] & ages[age] for sex in sexes for age in ages}
    found = {"sex": sexes, "age": ages, "sex and age": both}
    there = {name: {group: mask for group, mask in of.items() if mask.any()} for name, of in found.items()}
    return {name: of for name, of in there.items() if of}


@dataclass(frozen=True, slots=True, eq=False)
class _Attribute:
    """Everything of one attribute: G groups, L outputs, R draws; last axes (G, L)."""

    names: tuple[str, ...]
    counts: tuple[tuple[Counts, ...], ...]
    records: tuple[int, ...]
    patients: tuple[int, ...]
    enough: dict[str, NDArray[np.bool_]]
    value: dict[str, Array]
    draws: dict[str, Array]


def _rates(sums: Array) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1], sums[..., 2] / sums[..., 3]


def _measure(
    cases: Cases,
    groups: Mapping[str, NDArray[np.bool_]],
    resamples: Resamples,
    thresholds: Array,
    columns: Sequence[int],
    minimum: int,
    weigh: Weigh,
) -> _Attribute:
    """Figures and draws of the outputs ``columns``; then, as last column, of all of them pooled."""
    g, r, names = len(groups), resamples.resamples, [cases.names[i] for i in columns]
    of_groups, records, patients, counted = [], [], [], []
    sums, drawn = np.zeros((g, len(names), len(CELLS))), np.zeros((r, g, len(names), len(CELLS)))
    ranks, ranks_drawn = np.full((2, g, len(names) + 1), np.nan), np.full((2, r, g, len(names) + 1), np.nan)
    for k, (group, mask) in enumerate(groups.items()):
        of_groups.append(group)
        part, draws = cases.select(mask).outputs(names), resamples.select(mask)
        counted.append(counts(part))
        records.append(len(part))
        patients.append(len(set(part.patient.tolist())))
        for rows, cell in cells(part, thresholds[list(columns)], weigh):
            sums[k] += cell.sum(axis=0)
            drawn[:, k] += draws.sums([(rows, cell)])
        pooled = [j for j, c in enumerate(counted[k]) if c.positive and c.negative]
        for j in [*range(len(names)), len(names)]:
            of = pooled if j == len(names) else [j]
            if not of or (j < len(names) and counted[k][j].lacking(minimum)):
                continue
            ranked = ranking(part, of, draws.unit, draws.units, weigh)
            ranks[:, k, j] = ranked.point()
            ranks_drawn[:, :, k, j] = draws.ranked(ranked)
    tpr, fpr = _rates(np.concatenate([sums, sums.sum(axis=1, keepdims=True)], axis=1))
    tpr_drawn, fpr_drawn = _rates(np.concatenate([drawn, drawn.sum(axis=2, keepdims=True)], axis=2))
    positive = np.array([[c.positive_patients >= minimum for c in row] for row in counted])
    negative = np.array([[c.negative_patients >= minimum for c in row] for row in counted])

    def with_pool(there: NDArray[np.bool_], pooled: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.concatenate([there, pooled[:, None]], axis=1)

    yes, no = (
        np.asarray(positive.any(axis=1)),
        np.asarray(negative.any(axis=1)),
    )  # some output has enough: the pool has more
    either = {
        "tpr": with_pool(positive, yes),
        "fpr": with_pool(negative, no),
        "auroc": with_pool(positive & negative, yes & no),
    }
    return _Attribute(
        names=tuple(of_groups),
        counts=tuple(counted),
        records=tuple(records),
        patients=tuple(patients),
        enough=either | {"auprc": either["auroc"]},
        value={"tpr": tpr, "fpr": fpr, "auroc": ranks[0], "auprc": ranks[1]},
        draws={"tpr": tpr_drawn, "fpr": fpr_drawn, "auroc": ranks_drawn[0], "auprc": ranks_drawn[1]},
    )


def _mean(found: _Attribute) -> tuple[dict[str, Array], dict[str, Array]]:
    """Mean over outputs (G,) and its draws (R, G): of the outputs that every group with most of them has.

    NaN for a group that has fewer than half of the outputs; so every mean is over the same outputs.
    """
    value, draws = {}, {}
    for figure in FIGURES:
        there = (found.enough[figure] & np.isfinite(found.value[figure]))[:, :-1]
        outputs = there.any(axis=0)
        groups = there[:, outputs].mean(axis=1) >= 0.5 if outputs.any() else np.zeros(len(there), bool)
        shared = there[groups].all(axis=0) if groups.any() else np.zeros(there.shape[1], bool)
        value[figure] = np.full(len(there), np.nan)
        draws[figure] = np.full((len(found.draws[figure]), len(there)), np.nan)
        if shared.any():
            value[figure][groups] = found.value[figure][groups][:, :-1][:, shared].mean(axis=1)
            draws[figure][:, groups] = found.draws[figure][:, groups][:, :, :-1][:, :, shared].mean(axis=2)
    return value, draws


def _disparity(
    figure: str, names: Sequence[str], value: Array, draws: Array, reference: str, level: float
) -> Disparity | None:
    """Of the groups (G,) that have the figure; None where fewer than two have it."""
    there = np.flatnonzero(np.isfinite(value)).tolist()
    if len(there) < 2:
        return None
    spread = _spread(float(value[there].max() - value[there].min()), _range(draws[:, there]), level)
    at = names.index(reference)
    others = [k for k in there if k != at] if at in there else []
    from_reference: dict[str, Estimate] = {}
    beyond = False
    for k in others:
        away = draws[:, k] - draws[:, at]
        found = estimate(float(value[k] - value[at]), {"patients": away}, level)
        if found is not None:
            from_reference[names[k]] = found
        strict = interval(away, 1 - (1 - level) / len(others))
        beyond |= strict is not None and (strict.lower > CLAIM or strict.upper < -CLAIM)
    small = spread.at_most is not None and spread.at_most < CLAIM
    return Disparity(
        figure=figure,
        spread=spread,
        highest=names[there[np.argmax(value[there])]],
        lowest=names[there[np.argmin(value[there])]],
        from_reference=from_reference,
        verdict="below .010" if small else "above .010" if beyond else "undecided",
    )


def _range(draws: Array) -> Array:
    """(R,) the largest minus the smallest of each draw (R, groups); NaN where one is void."""
    return np.asarray(draws.max(axis=1) - draws.min(axis=1))


def _spread(value: float, draws: Array, level: float) -> Spread:
    found = interval(draws, level)
    return Spread(value, None if found is None else found.upper)


def _equalised_odds(
    found: Sequence[Disparity], value: Mapping[str, Array], draws: Mapping[str, Array], level: float
) -> Spread | None:
    spreads = {d.figure: d.spread.value for d in found}
    if not {"tpr", "fpr"} <= set(spreads):
        return None
    ranges = [_range(draws[figure][:, np.isfinite(value[figure])]) for figure in ("tpr", "fpr")]
    return _spread(max(spreads["tpr"], spreads["fpr"]), np.maximum(*ranges), level)


def fairness(
    cases: Cases,
    resamples: Resamples,
    thresholds: Array | None = None,
    *,
    minimum: int = MINIMUM,
    bands: Sequence[float] = BANDS,
    reference: Mapping[str, str] | None = None,
    weigh: Weigh = "case",
) -> tuple[Fairness, ...]:
    """By each attribute: all outputs pooled, their mean, then each output that any group has figures of.

    ``resamples`` are of patients; without ``thresholds`` (L,) there are no rates, only AUROC and AUPRC. ``reference``
    names a group for an attribute ("sex": "men"); otherwise it is the largest.

    Raises:
        ValueError: a reference group is not there.
    """
    at = np.full(len(cases.names), np.nan) if thresholds is None else thresholds
    columns = [i for i, count in enumerate(counts(cases)) if not count.lacking(minimum)]
    result: list[Fairness] = []
    if not columns:
        return ()
    for attribute, groups in attributes(cases, bands).items():
        chosen = (reference or {}).get(attribute)
        if chosen is not None and chosen not in groups:
            raise ValueError(f"there is no group {chosen!r} by {attribute}; take one of {', '.join(groups)}")
        found = _measure(cases, groups, resamples, at, columns, minimum, weigh)
        mean_value, mean_draws = _mean(found)
        for j, output in enumerate([*(cases.names[i] for i in columns), POOLED, MEAN]):
            if output == MEAN:
                value, draws = mean_value, mean_draws
            else:
                value = {f: np.where(found.enough[f][:, j], found.value[f][:, j], np.nan) for f in FIGURES}
                draws = {f: found.draws[f][:, :, j] for f in FIGURES}
            result.append(_one(output, attribute, found, j, value, draws, chosen, minimum, resamples.level))
    order = {POOLED: 0, MEAN: 1}
    kept = [f for f in result if any(g.tpr or g.fpr or g.auroc for g in f.groups)]
    return tuple(sorted(kept, key=lambda f: order.get(f.output, 2)))


def _one(
    output: str,
    attribute: str,
    found: _Attribute,
    j: int,
    value: Mapping[str, Array],
    draws: Mapping[str, Array],
    chosen: str | None,
    minimum: int,
    level: float,
) -> Fairness:
    single = output not in (POOLED, MEAN)

    def figure(f: str, k: int) -> Estimate | None:
        of = draws[f][:, k]
        if single and f in ("tpr", "fpr"):
            counted = found.counts[k][j]
            patients = counted.positive_patients if f == "tpr" else counted.negative_patients
            return rate(float(value[f][k]), {"patients": of}, patients, level)
        return estimate(float(value[f][k]), {"patients": of}, level)

    groups = []
    for k, name in enumerate(found.names):
        of = [found.counts[k][j]] if single else list(found.counts[k])
        known = sum(c.positive + c.negative for c in of)
        groups.append(
            Group(
                name=name,
                records=found.records[k],
                patients=found.patients[k],
                positive_patients=sum(c.positive_patients for c in of),
                negative_patients=sum(c.negative_patients for c in of),
                prevalence=sum(c.positive for c in of) / known if known and output != MEAN else None,
                tpr=figure("tpr", k),
                fpr=figure("fpr", k),
                auroc=figure("auroc", k),
                auprc=figure("auprc", k),
                lacking=of[0].lacking(minimum)
                if single
                else ""
                if np.isfinite(value["auroc"][k])
                else "too few outputs",
            )
        )
    reference = chosen or max(groups, key=lambda g: g.records).name
    disparities = [_disparity(f, found.names, value[f], draws[f], reference, level) for f in ("tpr", "fpr", "auroc")]
    kept = tuple(d for d in disparities if d is not None)
    return Fairness(
        output=output,
        attribute=attribute,
        reference=reference,
        groups=tuple(groups),
        disparities=kept,
        equalised_odds=_equalised_odds(kept, value, draws, level),
    )
