"""A `study.Study` as one self-contained HTML file, as JSON with every number, and as a model card.

The model card follows Mitchell et al. ("Model cards for model reporting", FAT* 2019). All three are made of the same
value, so they cannot disagree. The page asks for nothing from outside: no font, script, picture or style.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from training.evaluation import plots
from training.evaluation.fairness import MEAN, POOLED, Disparity, Fairness, Spread, band_names
from training.evaluation.intervals import Estimate, Interval
from training.evaluation.metrics import OVERALL
from training.evaluation.severity import CLASSES
from training.evaluation.study import Grouping, Output, Study

ADVISORY = "Not a medical device, and never the primary alarm: every output is an opinion to be checked at the bedside."
REPORT, NUMBERS, CARD = "report.html", "evaluation.json", "model-card.md"
SCHEMA = "deepecg-evaluation/1"


@dataclass(frozen=True, slots=True)
class Facts:
    """What predictions do not tell of their model; empty where nobody said it."""

    details: str = ""
    """Architecture, version, licence."""
    training: str = ""
    """What it was trained on."""
    data: str = ""
    """What the test cases are, beyond their sources' names."""
    made: str = ""
    """When the evaluation was made."""


def number(value: float | None, digits: int = 3) -> str:
    """As ".953"; "1.000"; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    sign, rest = ("−", text[1:]) if text.startswith("-") else ("", text)
    return sign + (rest[1:] if rest.startswith("0.") else rest)


def percent(value: float | None) -> str:
    """As "4.2 %"; small ones with as many digits as they need."""
    if value is None:
        return "–"
    share = 100 * value
    if 0 < share < 0.001:
        return "<0.001 %"
    return f"{share:.1f} %" if share >= 1 or share == 0 else f"{share:.2g} %"


def whole(value: float) -> str:
    """As "12,345"."""
    return f"{value:,.0f}"


def interval(estimate: Estimate | None, unit: str = "patients", digits: int = 3) -> str:
    """As ".941–.964"; a dash where there is none."""
    found = None if estimate is None else getattr(estimate, unit)
    if found is None:
        return "–"
    between = " to " if found.lower < 0 else "–"
    return f"{number(found.lower, digits)}{between}{number(found.upper, digits)}"


def between(found: Interval | None) -> str:
    """As ".941–.964"."""
    return "–" if found is None else f"{number(found.lower)}–{number(found.upper)}"


def figure(estimate: Estimate | None, digits: int = 3) -> str:
    """As ".953 (.941–.964)"."""
    if estimate is None:
        return "–"
    if estimate.patients is None:
        return f"{number(estimate.value, digits)} (no interval)"
    exact = ", exact" if estimate.patients.exact else ""
    return f"{number(estimate.value, digits)} ({interval(estimate, digits=digits)}{exact})"


def spread(found: Spread) -> str:
    """As ".012 (at most .032)"."""
    bound = "no bound" if found.at_most is None else f"at most {number(found.at_most)}"
    return f"{number(found.value)} ({bound})"


@dataclass(frozen=True, slots=True)
class Axis:
    """Of the small interval bars in a table: from ``low`` to ``high`` over 200 units."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Units from the left, within the bar."""
        share = (value - self.low) / (self.high - self.low)
        return round(14 + 172 * min(max(share, 0.0), 1.0), 1)


def axis_of(estimates: Iterable[Estimate | None], *, top: float | None = None) -> Axis:
    """Round ends around all values and intervals; ``top`` fixes the upper one."""
    values = [
        v
        for e in estimates
        if e is not None
        for v in (e.value, *((e.patients.lower, e.patients.upper) if e.patients else ()))
    ]
    if not values:
        return Axis(0.0, 1.0, (0.0, 0.5, 1.0))
    low, high = min(values), max(values) if top is None else top
    step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if (high - low) / s <= 4 or s == 1.0)
    low = math.floor(low / step + 1e-9) * step
    high = high if top is not None else math.ceil(high / step - 1e-9) * step
    if high - low < step:
        high, low = (high, high - step) if top is not None else (low + step, low)
    count = round((high - low) / step)
    return Axis(low, high, tuple(round(low + k * step, 6) for k in range(count + 1)))


def plain(study: Study, facts: Facts) -> dict[str, Any]:
    """Every number for JSON; a figure that cannot be estimated is null."""
    content: dict[str, Any] = asdict(study)
    content["settings"]["rule"] = str(study.settings.rule)
    content["settings"]["bands"] = band_names(study.settings.bands)
    for output, written in zip(study.outputs, content["outputs"], strict=True):
        written["prevalence"] = output.counts.prevalence
    return {"schema": SCHEMA, "advisory": ADVISORY, "facts": asdict(facts), **content}


def _overall(study: Study) -> Grouping:
    return next(group for group in study.groupings if group.name == OVERALL)


def _pooled(study: Study) -> dict[str, Fairness]:
    return {f.attribute: f for f in study.fairness if f.output == POOLED}


def _by_output(study: Study) -> list[tuple[str, dict[str, dict[str, Disparity]]]]:
    """Output, attribute (sex, age), figure → disparity, for the outputs that have any."""
    found: dict[str, dict[str, dict[str, Disparity]]] = {}
    for f in study.fairness:
        if f.output not in (POOLED, MEAN) and f.attribute in ("sex", "age") and f.disparities:
            found.setdefault(f.output, {})[f.attribute] = {d.figure: d for d in f.disparities}
    order = {output.name: i for i, output in enumerate(study.outputs)}
    return sorted(found.items(), key=lambda item: order[item[0]])


def sentences(study: Study) -> list[str]:
    """What a reader should know first."""
    people, overall = study.population, _overall(study)
    where = f"{len(people.sources)} sources" if len(people.sources) > 1 else people.sources[0].name
    said = [
        f"{whole(people.cases)} ECGs of {whole(people.patients)} patients from {where}. {overall.outputs} of "
        f"{overall.of} outputs have at least {study.settings.minimum} patients with and without the finding and are "
        "evaluated; the others are listed with the reason."
    ]
    if overall.macro_auroc is not None:
        said.append(
            f"AUROC {figure(overall.macro_auroc)} as the mean over outputs (macro), {figure(overall.micro_auroc)} with "
            f"all outputs pooled (micro). AUPRC {figure(overall.macro_auprc)} and {figure(overall.micro_auprc)}."
        )
    if study.severity is not None and study.severity.weighted_kappa is not None:
        said.append(
            f"Severity of the worst finding: {figure(study.severity.accuracy, 2)} of {whole(study.severity.records)} "
            f"ECGs in the right class, quadratic-weighted kappa {figure(study.severity.weighted_kappa, 2)}."
        )
    for attribute, found in _pooled(study).items():
        rates = [d for d in found.disparities if d.figure in ("tpr", "fpr")]
        if rates:
            names = {"tpr": "sensitivity", "fpr": "false positive rate"}
            told = "; ".join(f"{names[d.figure]} by {spread(d.spread)}: {d.verdict}" for d in rates)
            said.append(f"By {attribute}, the groups differ in {told}.")
    return said


@dataclass(frozen=True, slots=True)
class Key:
    """One figure in large type."""

    what: str
    value: str
    beside: str


def keys(study: Study) -> list[Key]:
    """The figures that are looked for first; those that exist."""
    overall, shown = _overall(study), []
    level = f"{100 * study.settings.level:g} %"
    for what, found in (("AUROC, mean over outputs", overall.macro_auroc), ("AUROC, pooled", overall.micro_auroc)):
        if found is not None:
            shown.append(Key(what, number(found.value), f"{level} interval {interval(found)}"))
    if shown:
        beside = f"of {overall.of}, with enough patients of each kind"
        shown.append(Key("outputs evaluated", str(overall.outputs), beside))
    by_sex = _pooled(study).get("sex")
    for d in by_sex.disparities if by_sex else ():
        if d.figure == "tpr":
            bound = "" if d.spread.at_most is None else f"at most {number(d.spread.at_most)}; "
            what = f"sensitivity, {d.highest} over {d.lowest}"
            shown.append(Key(what, number(d.spread.value), f"{bound}{d.verdict}"))
    return shown


def context(study: Study, facts: Facts) -> dict[str, Any]:
    """What the templates are given."""
    evaluated = study.evaluated
    by_category: dict[str, list[Output]] = {}
    for output in evaluated:
        by_category.setdefault(output.category, []).append(output)
    pooled = _pooled(study)
    groups = [group for f in pooled.values() for group in f.groups]
    return {
        "study": study,
        "facts": facts,
        "advisory": ADVISORY,
        "level": f"{100 * study.settings.level:g} %",
        "sentences": sentences(study),
        "keys": keys(study),
        "overall": _overall(study),
        "by_category": by_category,
        "lacking": [output for output in study.outputs if output.lacking],
        "with_threshold": [output for output in evaluated if output.threshold is not None],
        "calibrated": [output for output in evaluated if output.calibration is not None],
        "with_prior": [output for output in evaluated if output.prior is not None],
        "pooled": pooled,
        "mean": {f.attribute: f for f in study.fairness if f.output == MEAN},
        "fair": _by_output(study),
        "classes": [c.value for c in CLASSES],
        "strata_kinds": [
            kind for kind in ("source", "leads", "site") if any(s.kind == kind and s.outputs for s in study.strata)
        ],
        "auroc_axis": axis_of(
            [
                *(output.auroc for output in evaluated),
                *(Estimate(o.auroc_score.lower) for o in evaluated if o.auroc_score is not None),
            ],
            top=1.0,
        ),
        "group_axis": axis_of(
            (e for g in study.groupings for e in (g.macro_auroc, g.micro_auroc) if g.outputs), top=1.0
        ),
        "fair_axes": {name: axis_of(getattr(group, name) for group in groups) for name in ("tpr", "fpr", "auroc")},
        "both_units": study.settings.paper and not study.one_record_each,
    }


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("training.evaluation"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "whole": whole,
        "interval": interval,
        "between": between,
        "figure": figure,
        "spread": spread,
        "cell": lambda text: text.replace("|", "\\|"),
    }
    return environment


def html(study: Study, facts: Facts | None = None) -> str:
    """The report."""
    facts = facts or Facts()
    drawn = {"roc": plots.roc(study), "pr": plots.pr(study)} if study.evaluated else {}
    if plots.drawn_reliably(study):
        drawn["reliability"] = plots.reliability(study)
    page: str = (
        _environment()
        .get_template("report.html.j2")
        .render(context(study, facts) | {"plots": {name: Markup(svg) for name, svg in drawn.items()}})  # noqa: S704  (our own SVG)
    )
    return page


def card(study: Study, facts: Facts | None = None) -> str:
    """The model card, Markdown."""
    text: str = _environment().get_template("model-card.md.j2").render(context(study, facts or Facts()))
    return text


def write(study: Study, folder: Path, facts: Facts | None = None) -> Mapping[str, Path]:
    """Write ``report.html``, ``evaluation.json`` and ``model-card.md`` into a folder."""
    facts = facts or Facts()
    folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(plain(study, facts), indent=1, ensure_ascii=False, allow_nan=False)
    contents = {REPORT: html(study, facts), NUMBERS: numbers + "\n", CARD: card(study, facts)}
    for name, text in contents.items():
        (folder / name).write_text(text, "utf-8")
    return {name: folder / name for name in contents}
