"""``deepecg-train evaluate``, ``compare``, ``fairness`` and ``resources``: any model's predictions into figures."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from agent.core.labels import LABEL_NAMES
from training.evaluation.assess import assess
from training.evaluation.cases import Cases, same_cases, shared_patients
from training.evaluation.delong import compare_all, macro_difference, means
from training.evaluation.fairness import MEAN, POOLED, Fairness
from training.evaluation.fairness import fairness as measure_fairness
from training.evaluation.intervals import RESAMPLES, resample
from training.evaluation.metrics import Weigh
from training.evaluation.report import Facts, figure, number, sentences, spread, write
from training.evaluation.resources import BATCHES, Resources, measure
from training.evaluation.study import Settings
from training.evaluation.thresholds import Rule, Thresholds, check_apart, choose

if TYPE_CHECKING:
    from torch import nn

app = typer.Typer()

PUBLISHED = ("sl", "ssl")
"""Names that stand for the thresholds published for DeepECG-SL and DeepECG-SSL."""

Predictions = Annotated[Path, typer.Argument(help="Predictions with the truth: .npz of `predict`, or .csv.")]
Validation = Annotated[
    Path | None, typer.Option(help="Predictions for other patients, on which thresholds and scalings are chosen.")
]
Given = Annotated[
    str, typer.Option("--thresholds", help="JSON of thresholds, or 'sl' or 'ssl' for the published ones.")
]
RuleText = Annotated[
    str, typer.Option("--rule", help="How thresholds are chosen: youden, sensitivity=S, specificity=S or ppv=S.")
]
Draws = Annotated[int, typer.Option("--resamples", min=20, help="Of each interval.")]
Seed = Annotated[int, typer.Option(help="Of the resamples.")]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads.")]
GroupMinimum = Annotated[int, typer.Option(min=2, help="Patients of each kind that a group needs for a figure.")]
ByPatient = Annotated[
    bool, typer.Option("--by-patient", help="Each patient counts once, however many windows there are of it.")
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


def _thresholds(given: str, validation: Cases | None, rule: str, weigh: Weigh) -> Thresholds | None:
    """Those given, or chosen on the validation cases; None without either."""
    if given in PUBLISHED:
        from training.labels.published import thresholds_sl, thresholds_ssl

        value = np.array(thresholds_sl() if given == "sl" else thresholds_ssl(), np.float64)
        return Thresholds(LABEL_NAMES, value, f"published for DeepECG-{given.upper()}'s weights (Youden's index)")
    if given:
        return Thresholds.load(Path(given))
    return None if validation is None else choose(validation, Rule.parse(rule), weigh=weigh)


def _network(folder: Path | None, architecture: str) -> tuple[nn.Module, str]:
    """A model folder's network or one of the published sizes, and its name."""
    if folder is not None:
        from training.models.weights import NAMES, load_network, read_config

        config = read_config(folder)
        return load_network(folder), f"{NAMES[config.family]}, {config.task}"
    if architecture == "sl":
        from training.models.sl import DeepECGSL, released

        return DeepECGSL(released()), "DeepECG-SL in its released sizes, untrained"
    if architecture == "ssl":
        from training.models.ssl import DeepECGSSL, SSLConfig

        return DeepECGSSL(SSLConfig()), "DeepECG-SSL in its published sizes, untrained"
    raise ValueError("name a model folder, or --architecture sl or ssl")


def _measured(
    folder: Path | None, architecture: str, batches: Sequence[int], device: str, threads: int, repeats: int
) -> Resources:
    net, name = _network(folder, architecture)
    with TemporaryDirectory() as scratch:
        return measure(net, name, Path(scratch), batches=batches, device=device, threads=threads, repeats=repeats)


@app.command()
def evaluate(
    predictions: Predictions,
    validation: Validation = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default: evaluation, beside them.")] = None,
    thresholds: Given = "",
    rule: RuleText = "youden",
    model: Annotated[Path | None, typer.Option(help="Model folder: for its name, and to measure its cost.")] = None,
    name: Annotated[str, typer.Option(help="Of the model, for the report's title.")] = "",
    details: Annotated[str, typer.Option(help="Architecture, version, licence, for the model card.")] = "",
    training: Annotated[str, typer.Option(help="What it was trained on, for the model card.")] = "",
    about: Annotated[str, typer.Option(help="What the cases are, for the report and the card.")] = "",
    date: Annotated[str, typer.Option(help="Of the report; default: today.")] = "",
    resamples: Draws = RESAMPLES,
    seed: Seed = 0,
    minimum: Annotated[int, typer.Option(min=2, help="Patients of each kind that an output needs for a figure.")] = 5,
    group_minimum: GroupMinimum = 10,
    by_patient: ByPatient = False,
    stratified: Annotated[
        bool, typer.Option("--stratified", help="Draw patients with and without a finding apart, output by output.")
    ] = False,
    paper: Annotated[bool, typer.Option(help="Intervals by drawing records too, as the paper.")] = True,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Evaluate predictions: report.html, evaluation.json and model-card.md.

    Without --validation (or --thresholds) nothing is chosen, so there are no sensitivities and no severities.
    """
    cases = Cases.load(predictions)
    other = Cases.load(validation) if validation else None
    resources = _measured(model, "", BATCHES, device, threads, 20) if model else None
    title = name or (resources.name if resources else predictions.stem)
    settings = Settings(
        model=title,
        rule=Rule.parse(rule),
        resamples=resamples,
        seed=seed,
        threads=threads,
        minimum=minimum,
        group_minimum=group_minimum,
        weigh="patient" if by_patient else "case",
        paper=paper,
        stratified=stratified,
    )
    study = assess(
        cases,
        settings,
        validation=other,
        thresholds=_thresholds(thresholds, None, rule, "case"),
        resources=resources,
        progress=True,
    )
    facts = Facts(
        details=details,
        training=training,
        data=about,
        made=date or datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    )
    written = write(study, out or predictions.parent / "evaluation", facts)
    for doubt in (*study.doubts, *study.warnings):
        typer.secho(doubt, err=True, fg="yellow")
    for sentence in sentences(study):
        typer.echo(sentence)
    for path in written.values():
        typer.echo(path)


def _p(value: float) -> str:
    return "<.0001" if value < 1e-4 else f"{number(value, 4):>6s}"


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of the first model.")],
    second: Annotated[Path, typer.Argument(help="Predictions of the second, for the same cases.")],
    resamples: Draws = RESAMPLES,
    seed: Seed = 0,
    threads: Threads = 2,
    out: Annotated[Path | None, typer.Option(help="JSON with every number.")] = None,
) -> None:
    """Compare two models on the same cases: DeLong's test for each output, and the difference of macro AUROC."""
    a = Cases.load(first)
    b = same_cases(a, Cases.load(second))
    found, left = compare_all(a, b)
    if not found:
        raise ValueError("no output has five patients with and five without the finding, so nothing can be tested")
    drawn = resample(a.patient, resamples, seed, threads=threads)
    macro = macro_difference(a, b, list(found), drawn)
    typer.echo(f"{'':48s} {'first':>6s} {'second':>6s}  difference (95 % interval)      p      Holm")
    for name, c in sorted(found.items(), key=lambda item: item[1].p):
        p_holm = c.p if c.p_holm is None else c.p_holm
        typer.echo(
            f"{name[:48]:48s} {number(c.first):>6s} {number(c.second):>6s}  {number(c.difference):>6s} "
            f"({number(c.lower)} to {number(c.upper)})".ljust(93)
            + f" {_p(c.p)}  {_p(p_holm)}"
        )
    one, two = means(found)
    better = sum(1 for c in found.values() if c.p_holm is not None and c.p_holm < 0.05)
    typer.echo(
        f"macro AUROC over {len(found)} outputs: {number(one)} and {number(two)}; difference {figure(macro)} by "
        f"drawing patients. {better} outputs differ after Holm's correction. The variances are clustered by patient."
    )
    if left:
        typer.echo(f"too few patients for a test: {', '.join(left)}")
    if out:
        content = {
            "outputs": {name: asdict(c) for name, c in found.items()},
            "macro_difference": None if macro is None else asdict(macro),
            "too_few": left,
        }
        out.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _lines(found: Fairness) -> list[str]:
    """A table of the groups, then the differences."""
    lines = [f"{found.output}, by {found.attribute}"]
    for g in found.groups:
        shown = f"TPR {figure(g.tpr)}  FPR {figure(g.fpr)}  AUROC {figure(g.auroc)}" if not g.lacking else g.lacking
        lines.append(f"  {g.name:18s} {g.patients:6d} patients  {shown}")
    for d in found.disparities:
        lines.append(
            f"  {d.figure.upper():5s} differs by {spread(d.spread)}, {d.highest} above {d.lowest}: {d.verdict}"
        )
    return lines


@app.command()
def fairness(
    predictions: Predictions,
    validation: Validation = None,
    thresholds: Given = "",
    rule: RuleText = "youden",
    outputs: Annotated[str, typer.Option(help="Comma-separated; default: all together and their mean.")] = "",
    resamples: Draws = RESAMPLES,
    seed: Seed = 0,
    group_minimum: GroupMinimum = 10,
    by_patient: ByPatient = False,
    threads: Threads = 2,
    out: Annotated[Path | None, typer.Option(help="JSON with every number.")] = None,
) -> None:
    """Tell how far a model's figures differ by sex, age band and both; rates need --validation or --thresholds."""
    cases = Cases.load(predictions)
    other = Cases.load(validation) if validation else None
    weigh: Weigh = "patient" if by_patient else "case"
    chosen = _thresholds(thresholds, other, rule, weigh)
    if other is not None and (shared := shared_patients(other, cases)):
        raise ValueError(f"{len(shared)} patients are in both the validation and the test cases; split by patient")
    if chosen is not None:
        check_apart(chosen, cases)
    names = [name.strip() for name in outputs.split(",") if name.strip()]
    if unknown := [name for name in names if name not in cases.names]:
        raise ValueError(f"there is no output {unknown[0]!r} in {predictions}; it has {', '.join(cases.names[:5])}, …")
    found = measure_fairness(
        cases,
        resample(cases.patient, resamples, seed, threads=threads),
        None if chosen is None else chosen.of(cases.names),
        minimum=group_minimum,
        weigh=weigh,
    )
    if not found:
        raise ValueError(f"no group by sex or age has {group_minimum} patients with and without any finding")
    for one in found:
        if one.output in (names or (POOLED, MEAN)):
            typer.echo("\n".join(_lines(one)))
    if out:
        content = [asdict(one) for one in found]
        out.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


@app.command()
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
