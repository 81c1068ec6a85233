"""``deepecg-train evaluate``, ``compare``, ``fairness`` and ``resources``: any model's predictions into figures."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from training.commands.options import Device, Threads
from training.defaults import BATCHES, RESAMPLES

if TYPE_CHECKING:
    from torch import nn

    from training.evaluation.cases import Cases
    from training.evaluation.delong import Comparison
    from training.evaluation.fairness import Fairness
    from training.evaluation.resources import Resources
    from training.evaluation.study import Study
    from training.evaluation.thresholds import Thresholds

PUBLISHED = ("sl", "ssl")
"""Names that stand for the thresholds published for DeepECG-SL and DeepECG-SSL."""

Predictions = Annotated[Path, typer.Argument(help="Predictions with the truth: .npz of `predict`, or .csv.")]
GroupMinimum = Annotated[int, typer.Option(min=2, help="Patients of each kind that a group needs for a figure.")]
JsonOut = Annotated[Path | None, typer.Option("--out", help="JSON with every number.")]


@dataclass(frozen=True, slots=True)
class Operation:
    """Where a probability becomes a finding, and what then counts once."""

    validation: Annotated[
        Path | None, typer.Option(help="Predictions for other patients, on which thresholds and scalings are chosen.")
    ] = None
    thresholds: Annotated[str, typer.Option(help="JSON of thresholds, or 'sl' or 'ssl' for the published ones.")] = ""
    rule: Annotated[
        str, typer.Option(help="How thresholds are chosen: youden, sensitivity=S, specificity=S or ppv=S.")
    ] = "youden"
    by_patient: Annotated[
        bool, typer.Option("--by-patient", help="Each patient counts once, however many windows there are of it.")
    ] = False


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are drawn."""

    resamples: Annotated[int, typer.Option(min=20, help="Of each interval.")] = RESAMPLES
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0
    threads: Threads = 2


@dataclass(frozen=True, slots=True)
class Wording:
    """What the report and the model card say beside the figures."""

    name: Annotated[str, typer.Option(help="Of the model, for the report's title.")] = ""
    details: Annotated[str, typer.Option(help="Architecture, version, licence, for the model card.")] = ""
    training: Annotated[str, typer.Option(help="What it was trained on, for the model card.")] = ""
    about: Annotated[str, typer.Option(help="What the cases are, for the report and the card.")] = ""
    date: Annotated[str, typer.Option(help="Of the report; default: today.")] = ""


def evaluate(
    predictions: Predictions,
    *,
    operation: Operation,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default: evaluation, beside them.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder: for its name, and to measure its cost.")] = None,
    wording: Wording,
    resampling: Resampling,
    minimum: Annotated[int, typer.Option(min=2, help="Patients of each kind that an output needs for a figure.")] = 5,
    group_minimum: GroupMinimum = 10,
    stratified: Annotated[
        bool, typer.Option("--stratified", help="Draw patients with and without a finding apart, output by output.")
    ] = False,
    paper: Annotated[bool, typer.Option(help="Intervals by drawing records too, as the paper.")] = True,
    device: Device = "cpu",
) -> None:
    """Evaluate predictions: report.html, evaluation.json and model-card.md.

    Without --validation (or --thresholds) nothing is chosen, so there are no sensitivities and no severities.
    """
    from training.evaluation.assess import assess
    from training.evaluation.cases import Cases
    from training.evaluation.study import StudySettings
    from training.evaluation.thresholds import Rule

    cases = Cases.load(predictions)
    other = Cases.load(operation.validation) if operation.validation else None
    resources = _measured(model, "", BATCHES, device, resampling.threads, 20) if model else None
    settings = StudySettings(
        model=wording.name or (resources.name if resources else predictions.stem),
        rule=Rule.parse(operation.rule),
        resamples=resampling.resamples,
        seed=resampling.seed,
        threads=resampling.threads,
        minimum=minimum,
        group_minimum=group_minimum,
        weigh="patient" if operation.by_patient else "case",
        paper=paper,
        stratified=stratified,
    )
    given = _thresholds(operation, None)
    study = assess(cases, settings, validation=other, thresholds=given, resources=resources, progress=True)
    _write(study, out or predictions.parent / "evaluation", wording)


def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of the first model.")],
    second: Annotated[Path, typer.Argument(help="Predictions of the second, for the same cases.")],
    *,
    resampling: Resampling,
    out: JsonOut = None,
) -> None:
    """Compare two models on the same cases: DeLong's test for each output, and the difference of macro AUROC."""
    from training.evaluation.cases import Cases, same_cases
    from training.evaluation.delong import compare_all, macro_difference, means
    from training.evaluation.intervals import resample
    from training.evaluation.report import figure, number

    a = Cases.load(first)
    b = same_cases(a, Cases.load(second))
    found, left = compare_all(a, b)
    if not found:
        raise ValueError("no output has five patients with and five without the finding, so nothing can be tested")
    drawn = resample(a.patient, resampling.resamples, resampling.seed, threads=resampling.threads)
    macro = macro_difference(a, b, list(found), drawn)
    for line in _comparison_table(found):
        typer.echo(line)
    one, two = means(found)
    better = sum(1 for c in found.values() if c.p_holm is not None and c.p_holm < 0.05)
    typer.echo(
        f"macro AUROC over {len(found)} outputs: {number(one)} and {number(two)}; difference {figure(macro)} by "
        f"drawing patients. {better} outputs differ after Holm's correction. The variances are clustered by patient."
    )
    if left:
        typer.echo(f"too few patients for a test: {', '.join(left)}")
    content = {
        "outputs": {name: asdict(c) for name, c in found.items()},
        "macro_difference": None if macro is None else asdict(macro),
        "too_few": left,
    }
    _keep(content, out)


def fairness(
    predictions: Predictions,
    *,
    operation: Operation,
    outputs: Annotated[str, typer.Option(help="Comma-separated; default: all together and their mean.")] = "",
    resampling: Resampling,
    group_minimum: GroupMinimum = 10,
    out: JsonOut = None,
) -> None:
    """Tell how far a model's figures differ by sex, age band and both; rates need --validation or --thresholds."""
    from training.evaluation.cases import Cases, shared_patients
    from training.evaluation.fairness import MEAN, POOLED
    from training.evaluation.fairness import fairness as measure
    from training.evaluation.intervals import resample
    from training.evaluation.thresholds import check_apart

    cases = Cases.load(predictions)
    other = Cases.load(operation.validation) if operation.validation else None
    chosen = _thresholds(operation, other)
    if other is not None and (shared := shared_patients(other, cases)):
        raise ValueError(f"{len(shared)} patients are in both the validation and the test cases; split by patient")
    if chosen is not None:
        check_apart(chosen, cases)
    names = [name.strip() for name in outputs.split(",") if name.strip()]
    if unknown := [name for name in names if name not in cases.names]:
        raise ValueError(f"there is no output {unknown[0]!r} in {predictions}; it has {', '.join(cases.names[:5])}, …")
    found = measure(
        cases,
        resample(cases.patient, resampling.resamples, resampling.seed, threads=resampling.threads),
        None if chosen is None else chosen.of(cases.names),
        minimum=group_minimum,
        weigh="patient" if operation.by_patient else "case",
    )
    if not found:
        raise ValueError(f"no group by sex or age has {group_minimum} patients with and without any finding")
    for one in found:
        if one.output in (names or (POOLED, MEAN)):
            typer.echo("\n".join(_fairness_table(one)))
    _keep([asdict(one) for one in found], out)


def resources(
    model: Annotated[Path | None, typer.Argument(help="Model folder.")] = None,
    architecture: Annotated[str, typer.Option(help="sl or ssl in their published sizes, without a folder.")] = "",
    batches: Annotated[str, typer.Option(help="Comma-separated batch sizes.")] = ",".join(map(str, BATCHES)),
    device: Device = "cpu",
    threads: Threads = 1,
    repeats: Annotated[int, typer.Option(min=2, help="Runs of each batch size, after three to warm up.")] = 20,
) -> None:
    """Print a network's parameters, multiply-accumulates, latency, memory and energy, as JSON."""
    try:
        sizes = [int(size) for size in batches.split(",")]
    except ValueError:
        raise ValueError(f"{batches!r} are no batch sizes; write them as 1,8,32") from None
    found = _measured(model, architecture, sizes, device, threads, repeats)
    typer.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False))


def _thresholds(operation: Operation, validation: Cases | None) -> Thresholds | None:
    """Those given, or chosen on the validation cases; None without either."""
    from training.evaluation.thresholds import Rule, Thresholds, choose

    given = operation.thresholds
    if given in PUBLISHED:
        import numpy as np

        from agent.core.labels import LABEL_NAMES
        from training.models.published import thresholds_sl, thresholds_ssl

        value = np.array(thresholds_sl() if given == "sl" else thresholds_ssl(), np.float64)
        return Thresholds(LABEL_NAMES, value, f"published for DeepECG-{given.upper()}'s weights (Youden's index)")
    if given:
        return Thresholds.load(Path(given))
    if validation is None:
        return None
    return choose(validation, Rule.parse(operation.rule), weigh="patient" if operation.by_patient else "case")


def _network(folder: Path | None, architecture: str) -> tuple[nn.Module, str]:
    """A model folder's network or one of the published sizes, and its name."""
    if folder is not None:
        from training.models.kinds import NAMES
        from training.models.weights import load_network, read_config

        config = read_config(folder)
        return load_network(folder), f"{NAMES[config.family]}, {config.task}"
    if architecture == "sl":
        from training.models.kinds import released
        from training.models.sl import DeepECGSL

        return DeepECGSL(released()), "DeepECG-SL in its released sizes, untrained"
    if architecture == "ssl":
        from training.models.kinds import SSLConfig
        from training.models.ssl import DeepECGSSL

        return DeepECGSSL(SSLConfig()), "DeepECG-SSL in its published sizes, untrained"
    raise ValueError("name a model folder, or --architecture sl or ssl")


def _measured(
    folder: Path | None, architecture: str, batches: Sequence[int], device: str, threads: int, repeats: int
) -> Resources:
    net, name = _network(folder, architecture)
    from training.evaluation.resources import measure

    with TemporaryDirectory() as scratch:
        return measure(net, name, Path(scratch), batches=batches, device=device, threads=threads, repeats=repeats)


def _write(study: Study, folder: Path, wording: Wording) -> None:
    """Write the report and the model card, and print what the study doubts and finds."""
    from training.evaluation.report import Facts, sentences, write

    facts = Facts(
        details=wording.details,
        training=wording.training,
        data=wording.about,
        made=wording.date or datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    )
    written = write(study, folder, facts)
    for doubt in (*study.doubts, *study.warnings):
        typer.secho(doubt, err=True, fg="yellow")
    for sentence in sentences(study):
        typer.echo(sentence)
    for path in written.values():
        typer.echo(path)


def _keep(content: object, out: Path | None) -> None:
    if out is not None:
        out.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _comparison_table(found: Mapping[str, Comparison]) -> Iterator[str]:
    """A line for each output, the surest difference first."""
    from training.evaluation.report import number

    def p(value: float) -> str:
        return "<.0001" if value < 1e-4 else f"{number(value, 4):>6s}"

    yield f"{'':48s} {'first':>6s} {'second':>6s}  difference (95 % interval)      p      Holm"
    for name, c in sorted(found.items(), key=lambda item: item[1].p):
        figures = f"{name[:48]:48s} {number(c.first):>6s} {number(c.second):>6s}  {number(c.difference):>6s}"
        interval = f"({number(c.lower)} to {number(c.upper)})"
        yield f"{figures} {interval}".ljust(93) + f" {p(c.p)}  {p(c.p if c.p_holm is None else c.p_holm)}"


def _fairness_table(found: Fairness) -> list[str]:
    """A table of the groups, then the differences."""
    from training.evaluation.report import figure, spread

    lines = [f"{found.output}, by {found.attribute}"]
    for g in found.groups:
        shown = f"TPR {figure(g.tpr)}  FPR {figure(g.fpr)}  AUROC {figure(g.auroc)}" if not g.lacking else g.lacking
        lines.append(f"  {g.name:18s} {g.patients:6d} patients  {shown}")
    for d in found.disparities:
        lines.append(
            f"  {d.figure.upper():5s} differs by {spread(d.spread)}, {d.highest} above {d.lowest}: {d.verdict}"
        )
    return lines
