"""From predictions to a `study.Study`: every figure of every output, together, apart, by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agent.core.labels import label
from training.evaluation.calibration import calibration, fit_all, fit_common_temperature
from training.evaluation.cases import Cases, shared_patients
from training.evaluation.fairness import fairness
from training.evaluation.intervals import Estimate, Resamples, Unit, estimate, rate, resample, score_interval, units_of
from training.evaluation.metrics import (
    RATES,
    Counts,
    Weigh,
    category_of,
    cells,
    confusion,
    counts,
    groupings,
    ordered,
    pairs,
    ranking,
    rates,
)
from training.evaluation.prevalence import PREVALENCES, estimate_prior, npv_at, ppv_at
from training.evaluation.ranking import Array
from training.evaluation.resources import Resources
from training.evaluation.severity import severity_figures
from training.evaluation.study import (
    CURVE_POINTS,
    Curve,
    Grouping,
    Output,
    Share,
    Stratum,
    Study,
    StudySettings,
    population,
)
from training.evaluation.thresholds import Thresholds, apply, candidates, check_apart, choose

T = TypeVar("T")


def assess(
    test: Cases,
    settings: StudySettings | None = None,
    *,
    validation: Cases | None = None,
    thresholds: Thresholds | None = None,
    resources: Resources | None = None,
    progress: bool = False,
) -> Study:
    """Evaluate test cases; thresholds and scalings come from validation cases of other patients, or are given.

    Raises:
        ValueError: validation and test share a patient, or there is no test case.
    """
    settings = settings or StudySettings()
    thresholds = _agreed(test, settings, validation, thresholds)
    at = np.full(len(test.names), np.nan) if thresholds is None else thresholds.of(test.names)
    draws = _draws(test, settings)
    counted = counts(test)
    outputs, ranked = [], {}
    for i, name in enumerate(_watched(test.names, "outputs", progress)):
        output, ranks = _output(test, i, name, counted[i], draws, settings)
        outputs.append(output)
        if ranks is not None:
            ranked[name] = ranks
    sums = _Sums(confusion(test, at, settings.weigh), _each(draws, lambda r: r.sums(cells(test, at, settings.weigh))))
    outputs = _rated(outputs, at, sums, settings.level)
    if validation is not None:
        outputs = _calibrated(test, validation, outputs)
    severity = severity_figures(test.names, test.truth, apply(thresholds, test), draws) if thresholds else None
    place = {name: i for i, name in enumerate(ordered(test.names))}
    groups = groupings(test.names)
    return Study(
        settings=settings,
        population=population(test),
        validation=population(validation) if validation is not None else None,
        one_record_each=len({id(resamples) for resamples in draws.values()}) < len(draws),
        doubts=(*test.doubts(), *(f"Validation: {d}" for d in (validation.doubts() if validation else ()))),
        outputs=tuple(sorted(outputs, key=lambda output: place[output.name])),
        groupings=tuple(
            _grouping(test, name, of, ranked, sums, draws, settings)
            for name, of in _watched(groups.items(), "groupings", progress)
        ),
        strata=tuple(_strata(test, draws["patients"], settings, progress)),
        thresholds=thresholds.origin if thresholds else "",
        warnings=thresholds.warnings if thresholds else (),
        common_temperature=_common_temperature(validation),
        severity=severity,
        fairness=fairness(
            test,
            draws["patients"],
            at if thresholds else None,
            minimum=settings.group_minimum,
            bands=settings.bands,
            reference=settings.reference,
            weigh=settings.weigh,
        ),
        resources=resources,
    )


def _agreed(
    test: Cases, settings: StudySettings, validation: Cases | None, thresholds: Thresholds | None
) -> Thresholds | None:
    """The thresholds: those given, or chosen on the validation cases; None without either.

    Raises:
        ValueError: there is no test case, or something would be chosen on patients on whom it is reported.
    """
    if len(test) == 0:
        raise ValueError("there are no test cases")
    if validation is not None:
        if thresholds is None:
            thresholds = choose(validation, settings.rule, weigh=settings.weigh)
        if shared := shared_patients(validation, test):
            raise ValueError(
                f"{len(shared)} patient{' is' if len(shared) == 1 else 's are'} in both the validation and the test "
                "cases: nothing may be chosen on patients on whom it is reported; split by patient"
            )
        if not set(validation.names) & set(test.names):
            raise ValueError("the validation and the test cases have no output in common; take both from one model")
    if thresholds is not None:
        check_apart(thresholds, test)
    return thresholds


def _common_temperature(validation: Cases | None) -> float | None:
    """One temperature for all outputs, or None where no validation case has both a probability and the truth."""
    if validation is None or not ((validation.truth >= 0) & ~np.isnan(validation.probability)).any():
        return None
    return fit_common_temperature(validation).temperature


def _watched(items: Iterable[T], what: str, progress: bool) -> Iterable[T]:
    return tqdm(items, desc=what, disable=not progress, mininterval=5)


def _only(patients: Resamples) -> dict[Unit, Resamples]:
    return {"patients": patients}


def _draws(cases: Cases, settings: StudySettings) -> dict[Unit, Resamples]:
    """By patients, and by records where the paper's intervals are asked for; one object where the two are the same."""
    patients = _resampled(cases.patient, settings)
    draws: dict[Unit, Resamples] = {"patients": patients}
    if settings.paper:
        records = np.unique(units_of(cases, "records"), return_inverse=True)[1].reshape(-1)
        both = np.unique(np.stack([records, patients.unit]), axis=1).shape[1]
        same = both == patients.units == records.max() + 1
        draws["records"] = patients if same else _resampled(records, settings)
    return draws


def _resampled(unit: NDArray[Any], settings: StudySettings, stratum: NDArray[np.bool_] | None = None) -> Resamples:
    return resample(unit, settings.resamples, settings.seed, stratum, level=settings.level, threads=settings.threads)


def _each(draws: Mapping[Unit, Resamples], of: Callable[[Resamples], T]) -> dict[Unit, T]:
    """``of`` each kind of draws, once where the two are the same."""
    done: dict[int, T] = {}
    for resamples in draws.values():
        if id(resamples) not in done:
            done[id(resamples)] = of(resamples)
    return {unit: done[id(resamples)] for unit, resamples in draws.items()}


_Ranks: TypeAlias = tuple[tuple[float, float], dict[Unit, tuple[Array, Array]]]
"""AUROC and AUPRC, and their draws."""


def _ranks(cases: Cases, columns: Sequence[int], draws: Mapping[Unit, Resamples], weigh: Weigh) -> _Ranks:
    drawn = _each(draws, lambda r: r.ranked(ranking(cases, columns, r.unit, r.units, weigh)))
    some = next(iter(draws.values()))
    return ranking(cases, columns, some.unit, some.units, weigh).point(), drawn


def _estimates(ranks: _Ranks, level: float) -> tuple[Estimate | None, Estimate | None]:
    (auroc, auprc), drawn = ranks
    return (
        estimate(auroc, {unit: pair[0] for unit, pair in drawn.items()}, level),
        estimate(auprc, {unit: pair[1] for unit, pair in drawn.items()}, level),
    )


def curves(cases: Cases, columns: Sequence[int], weigh: Weigh = "case") -> tuple[Curve, Curve]:
    """ROC and PR curve of known cases that hold both classes, of several outputs pooled."""
    found = pairs(cases, columns, weigh)
    weight = np.ones(len(found.case)) if found.weight is None else found.weight
    _, tp, fp = candidates(found.probability, found.positive, weight)
    sensitivity, false = np.append(0.0, tp / tp[-1]), np.append(0.0, fp / fp[-1])
    precision = np.append(1.0, tp / (tp + fp))

    def thinned(x: Array, y: Array) -> Curve:
        way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        at = np.unique(np.searchsorted(way, np.linspace(0, way[-1], CURVE_POINTS)).clip(max=len(x) - 1))
        return Curve(tuple(np.round(x[at], 5).tolist()), tuple(np.round(y[at], 5).tolist()))

    return thinned(false, sensitivity), thinned(sensitivity[1:], precision[1:])


def _output(
    cases: Cases, i: int, name: str, counted: Counts, draws: Mapping[Unit, Resamples], settings: StudySettings
) -> tuple[Output, _Ranks | None]:
    try:
        severity = label(name).severity.value
    except KeyError:
        severity = ""
    output = Output(name, category_of(name), severity, counted, counted.lacking(settings.minimum))
    if output.lacking:
        return output, None
    ranks = _ranks(cases, [i], draws, settings.weigh)
    shown = ranks
    if settings.stratified:
        positive = cases.truth[:, i] == 1
        apart = _each(draws, lambda r: _resampled(r.unit, settings, positive))
        shown = _ranks(cases, [i], apart, settings.weigh)
    auroc, auprc = _estimates(shown, settings.level)
    score = score_interval(ranks[0][0], counted.positive_patients, counted.negative_patients, settings.level)
    roc, pr = curves(cases, [i], settings.weigh)
    known = cases.known(i)
    p, yes = cases.probability[known, i], cases.truth[known, i] == 1
    return replace(
        output,
        auroc=auroc,
        auroc_score=score,
        auprc=auprc,
        roc=roc,
        pr=pr,
        calibration=calibration(p, yes, patient=cases.patient[known]),
        calibration_by_mass=calibration(p, yes, kind="mass", patient=cases.patient[known]),
    ), ranks


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """`CELLS` of the data (L, 6) and of each kind of draws (R, L, 6)."""

    value: Array
    draws: dict[Unit, Array]

    def macro(self, columns: Sequence[int], level: float) -> dict[str, Estimate | None]:
        """Rates and Brier score as mean over outputs; none of no output."""
        return self._together(lambda sums: rates(sums[..., columns, :]), _mean, level) if columns else {}

    def micro(self, columns: Sequence[int], level: float) -> dict[str, Estimate | None]:
        """The same of all outputs' cases together."""
        return (
            self._together(lambda sums: rates(sums[..., columns, :].sum(axis=-2)), np.asarray, level) if columns else {}
        )

    def _together(
        self, of: Callable[[Array], dict[str, Array]], join: Callable[[Array], Array], level: float
    ) -> dict[str, Estimate | None]:
        value, drawn = of(self.value), {unit: of(sums) for unit, sums in self.draws.items()}
        return {
            name: estimate(float(join(value[name])), {unit: join(d[name]) for unit, d in drawn.items()}, level)
            for name in (*RATES, "brier")
        }


def _rated(outputs: list[Output], at: Array, sums: _Sums, level: float) -> list[Output]:
    """Brier scores, and where there is a threshold rates, with intervals for the outputs that have figures."""
    value, drawn = rates(sums.value), {unit: rates(of) for unit, of in sums.draws.items()}
    found = []
    for i, output in enumerate(outputs):
        if output.lacking:
            found.append(output)
            continue

        def of(name: str, i: int = i, counted: Counts = output.counts) -> Estimate | None:
            figures = {u: d[name][:, i] for u, d in drawn.items()}
            if name in ("sensitivity", "specificity"):
                patients = counted.positive_patients if name == "sensitivity" else counted.negative_patients
                return rate(value[name][i], figures, patients, level)
            return estimate(value[name][i], figures, level)

        def at_prevalence(figure: Callable[..., Array], prevalence: float, i: int = i) -> Estimate | None:
            return estimate(
                float(figure(value["sensitivity"][i], value["specificity"][i], prevalence)),
                {u: figure(d["sensitivity"][:, i], d["specificity"][:, i], prevalence) for u, d in drawn.items()},
                level,
            )

        rated = replace(output, brier=of("brier"))
        if not np.isnan(at[i]):
            rated = replace(
                rated,
                threshold=float(at[i]),
                rates={name: of(name) for name in RATES},
                ppv_at={f"{p:g}": at_prevalence(ppv_at, p) for p in PREVALENCES},
                npv_at={f"{p:g}": at_prevalence(npv_at, p) for p in PREVALENCES},
            )
        found.append(rated)
    return found


def _calibrated(test: Cases, validation: Cases, outputs: list[Output]) -> list[Output]:
    """Calibration of the test cases after scalings that were fitted on the validation cases."""
    temperatures, platts = fit_all(validation, "temperature"), fit_all(validation, "platt")
    before = {name: count.prevalence for name, count in zip(validation.names, counts(validation), strict=True)}
    found = []
    for i, output in enumerate(outputs):
        known = test.known(i)
        p, positive, who = test.probability[known, i], test.truth[known, i] == 1, test.patient[known]
        temperature, platt = temperatures.get(output.name), platts.get(output.name)
        old = before.get(output.name)
        if output.lacking:
            found.append(replace(output, validation_prevalence=old))
            continue
        prior = None
        if platt is not None and old:
            scored = test.probability[~np.isnan(test.probability[:, i]), i]
            prior = estimate_prior(platt.apply(scored), old)
        found.append(
            replace(
                output,
                temperature=temperature,
                after_temperature=calibration(temperature.apply(p), positive, patient=who) if temperature else None,
                platt=platt,
                after_platt=calibration(platt.apply(p), positive, patient=who) if platt else None,
                validation_prevalence=old,
                prior=prior,
            )
        )
    return found


def _mean(values: Array) -> Array:
    """Mean over the last axis of those that exist; NaN of none."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, values, 0.0).sum(axis=-1) / there.sum(axis=-1))


def _macro(ranked: Sequence[_Ranks], draws: Mapping[Unit, Resamples], figure: int, level: float) -> Estimate | None:
    """Mean over outputs; in a draw over those that exist in it."""
    if not ranked:
        return None
    value = float(np.mean([point[figure] for point, _ in ranked]))
    return estimate(
        value, {unit: _mean(np.stack([of[unit][figure] for _, of in ranked], axis=-1)) for unit in draws}, level
    )


def _grouping(
    cases: Cases,
    name: str,
    of: Sequence[str],
    ranked: Mapping[str, _Ranks],
    sums: _Sums,
    draws: Mapping[Unit, Resamples],
    settings: StudySettings,
) -> Grouping:
    there = [output for output in of if output in ranked]
    columns = [cases.names.index(output) for output in there]
    some = [ranked[output] for output in there]
    auroc = auprc = roc = pr = None
    if columns:
        # One output pooled with itself is that output: spare the draws.
        pooled = some[0] if len(some) == 1 else _ranks(cases, columns, draws, settings.weigh)
        auroc, auprc = _estimates(pooled, settings.level)
        roc, pr = curves(cases, columns, settings.weigh)
    return Grouping(
        name=name,
        outputs=len(there),
        of=len(of),
        macro_auroc=_macro(some, draws, 0, settings.level),
        macro_auprc=_macro(some, draws, 1, settings.level),
        micro_auroc=auroc,
        micro_auprc=auprc,
        macro=sums.macro(columns, settings.level),
        micro=sums.micro(columns, settings.level),
        roc=roc,
        pr=pr,
    )


def _strata(cases: Cases, resamples: Resamples, settings: StudySettings, progress: bool) -> Iterable[Stratum]:
    """By source, lead set and site, where there are several of them; intervals by patients."""
    for kind, values in (("source", cases.source), ("leads", cases.lead_sets()), ("site", cases.site)):
        names = np.unique(values).tolist()
        if len(names) < 2:
            continue
        for name in _watched(names, f"by {kind}", progress):
            mask = values == name
            part, draws = cases.select(mask), _only(resamples.select(mask))
            columns = [i for i, c in enumerate(counts(part)) if not c.lacking(settings.minimum)]
            ranked = [_ranks(part, [i], draws, settings.weigh) for i in columns]
            pooled = _estimates(_ranks(part, columns, draws, settings.weigh), settings.level)[0] if columns else None
            figures = {
                part.names[i]: _estimates(ranks, settings.level)[0] for i, ranks in zip(columns, ranked, strict=True)
            }
            yield Stratum(
                kind=kind,
                share=Share(name, len(part), len(set(part.patient.tolist()))),
                outputs=len(columns),
                macro_auroc=_macro(ranked, draws, 0, settings.level),
                micro_auroc=pooled,
                auroc={name: figure for name, figure in figures.items() if figure is not None},
            )
