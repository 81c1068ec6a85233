"""An evaluation as one plain value: every number of the report, with its interval or the reason why it is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.defaults import RESAMPLES
from training.evaluation.calibration import Calibration, Scaling
from training.evaluation.cases import Cases
from training.evaluation.fairness import BANDS, Fairness
from training.evaluation.fairness import MINIMUM as GROUP_MINIMUM
from training.evaluation.intervals import LEVEL, Estimate, Interval, units_of
from training.evaluation.metrics import Counts, Weigh
from training.evaluation.prevalence import PriorEstimate
from training.evaluation.resources import Resources
from training.evaluation.severity import SeverityFigures
from training.evaluation.thresholds import Rule

CURVE_POINTS = 100


@dataclass(frozen=True, slots=True)
class StudySettings:
    """How an evaluation is made."""

    model: str = "unnamed model"
    rule: Rule = field(default_factory=Rule)
    resamples: int = RESAMPLES
    seed: int = 0
    level: float = LEVEL
    threads: int = 1
    minimum: int = 5
    """Positive and negative patients below which an output has no figure."""
    group_minimum: int = GROUP_MINIMUM
    """The same for a group of the fairness figures."""
    weigh: Weigh = "case"
    paper: bool = True
    """Intervals by records too, as the paper."""
    stratified: bool = False
    """Draw units with and without the finding apart, in the intervals of single outputs."""
    bands: tuple[float, ...] = BANDS
    reference: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the cases."""

    name: str
    cases: int
    patients: int


@dataclass(frozen=True, slots=True)
class Population:
    """Who was evaluated."""

    cases: int
    records: int
    patients: int
    sources: tuple[Share, ...]
    sites: tuple[Share, ...]
    leads: tuple[Share, ...]
    sexes: tuple[Share, ...]
    """Women, men, unknown."""
    ages: tuple[float, float, float] | None
    """Quartiles in years over patients whose age is known."""
    age_unknown: int
    """Patients."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Thinned to ``CURVE_POINTS``; of the ROC 1 − specificity and sensitivity, of the PR curve sensitivity and PPV."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of the model; figures are None where there are too few patients, which ``lacking`` tells."""

    name: str
    category: str
    severity: str
    counts: Counts
    lacking: str
    auroc: Estimate | None = None
    auroc_score: Interval | None = None
    """`score_interval` over patients: the better one where positives are few."""
    auprc: Estimate | None = None
    roc: Curve | None = None
    pr: Curve | None = None
    brier: Estimate | None = None
    threshold: float | None = None
    rates: Mapping[str, Estimate | None] = field(default_factory=dict)
    """At the threshold: `RATES`."""
    calibration: Calibration | None = None
    calibration_by_mass: Calibration | None = None
    """In bins of equal mass."""
    temperature: Scaling | None = None
    after_temperature: Calibration | None = None
    platt: Scaling | None = None
    after_platt: Calibration | None = None
    validation_prevalence: float | None = None
    prior: PriorEstimate | None = None
    """What the test cases' probabilities (Platt-scaled) say of the prevalence, without their truth."""
    ppv_at: Mapping[str, Estimate | None] = field(default_factory=dict)
    npv_at: Mapping[str, Estimate | None] = field(default_factory=dict)
    """By prevalence, as "0.01"."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Outputs together: a category, a severity class, all."""

    name: str
    outputs: int
    """Of which there are figures."""
    of: int
    macro_auroc: Estimate | None
    macro_auprc: Estimate | None
    micro_auroc: Estimate | None
    micro_auprc: Estimate | None
    macro: Mapping[str, Estimate | None]
    """Mean over outputs of "brier" and, of those with a threshold, of `RATES`."""
    micro: Mapping[str, Estimate | None]
    """The same of all their cases together."""
    roc: Curve | None
    pr: Curve | None


@dataclass(frozen=True, slots=True)
class Stratum:
    """A part of the cases by itself: a source, a lead set, a site."""

    kind: str
    share: Share
    outputs: int
    macro_auroc: Estimate | None
    micro_auroc: Estimate | None
    auroc: Mapping[str, Estimate]
    """By output, of those with enough patients here."""


@dataclass(frozen=True, slots=True)
class Study:
    """The whole evaluation."""

    settings: StudySettings
    population: Population
    validation: Population | None
    one_record_each: bool
    """Every patient has one record: both kinds of intervals are the same."""
    doubts: tuple[str, ...]
    outputs: tuple[Output, ...]
    groupings: tuple[Grouping, ...]
    strata: tuple[Stratum, ...]
    thresholds: str
    """Where they come from; empty where there are none."""
    warnings: tuple[str, ...]
    common_temperature: float | None
    severity: SeverityFigures | None
    fairness: tuple[Fairness, ...]
    resources: Resources | None

    @property
    def evaluated(self) -> list[Output]:
        """Outputs with figures."""
        return [output for output in self.outputs if not output.lacking]


def population(cases: Cases) -> Population:
    """Who they are."""

    def shares(values: NDArray[np.str_]) -> tuple[Share, ...]:
        found = [
            Share(str(name), int((values == name).sum()), len(set(cases.patient[values == name].tolist())))
            for name in np.unique(values)
        ]
        return tuple(sorted(found, key=lambda share: -share.cases))

    _, first = np.unique(cases.patient, return_index=True)
    ages = cases.age[first]
    known = ages[~np.isnan(ages)]
    low, middle, high = np.percentile(known, [25, 50, 75]).tolist() if len(known) else (0.0, 0.0, 0.0)
    sex = np.where(cases.sex == "F", "women", np.where(cases.sex == "M", "men", "sex unknown"))
    return Population(
        cases=len(cases),
        records=len(set(units_of(cases, "records").tolist())),
        patients=len(first),
        sources=shares(cases.source),
        sites=shares(cases.site),
        leads=shares(cases.lead_sets()),
        sexes=shares(sex),
        ages=(low, middle, high) if len(known) else None,
        age_unknown=len(ages) - len(known),
    )
