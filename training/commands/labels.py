"""``deepecg-train labels``: the 77 labels from free-text reports, by dictionary and by classifier."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.defaults import LANGUAGES

if TYPE_CHECKING:
    from training.data.recording import Labels
    from training.labels.learn import Examples
    from training.labels.reports import Report
    from training.labels.scope import Mention

_AT_ONCE = 1024
"""Reports that the classifier reads at a time."""

Text = Annotated[str, typer.Argument(help="A report, or a CSV file with a column 'report'.")]
Table = Annotated[
    Path, typer.Argument(help="CSV file of reports with scp_codes, or with columns named like the labels.")
]
Model = Annotated[Path, typer.Argument(help="Folder of a report classifier (labels import, labels train).")]
Column = Annotated[str, typer.Option(help="Column of the reports; by default 'report' and the like.")]
LabelsOut = Annotated[Path | None, typer.Option("--out", help="CSV file of the labels: 1, 0, or empty for unknown.")]


def _csv(given: str) -> Path | None:
    """The file, if it is one; a mistyped name is not read as a report."""
    path = Path(given)
    if len(given) < 1000 and "\n" not in given and (given.lower().endswith(".csv") or path.is_file()):
        if not path.is_file():
            raise FileNotFoundError(f"no file {given}; give a CSV file, or a report in quotes")
        return path
    return None


def folds_of(written: str) -> frozenset[int]:
    """``1-6,8`` as numbers.

    Raises:
        ValueError: it is no list of numbers and ranges.
    """
    out: set[int] = set()
    for part in written.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"folds {written!r} are no numbers and ranges; write them like 1-6,8")
        out.update(range(int(first), int(last or first) + 1))
    return frozenset(out)


def _row(identity: str, labels: Labels) -> list[str]:
    return [identity, *("" if value < 0 else str(value) for value in labels.tolist())]


def _mention(found: Mention) -> dict[str, object]:
    return {
        "finding": found.finding,
        "labels": found.says,
        "opens": found.opens,
        "span": found.span,
        "status": found.status,
        "language": found.language,
        "phrase": found.phrase,
        "cues": found.cues,
    }


def extract_command(
    text: Text,
    out: LabelsOut = None,
    mentions_out: Annotated[
        Path | None, typer.Option("--mentions", help="JSON lines: every report's mentions, by their place in it.")
    ] = None,
    language: Annotated[str, typer.Option(help=f"{', '.join(LANGUAGES)}; by default by each report's words.")] = "",
    closed: Annotated[
        bool, typer.Option("--closed", help="What the report's author would have named and did not is 0.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (one report only).")] = False,
    column: Column = "",
) -> None:
    """Read labels by the dictionary: of one report with an explanation, or of a table into files, row by row."""
    path = _csv(text)
    if path is None:
        _extract_one(text, language or None, closed=closed, as_json=as_json)
    elif out is None and mentions_out is None:
        raise ValueError("a table's labels go into files; name them with --out LABELS.csv or --mentions MENTIONS.jsonl")
    else:
        _extract_table(path, out, mentions_out, language or None, closed=closed, column=column)


def _extract_one(text: str, language: str | None, *, closed: bool, as_json: bool) -> None:
    """Print what a report says, in words or as JSON."""
    from agent.core.labels import LABEL_NAMES
    from training.labels.dictionary import labels_of_mentions, mentions
    from training.labels.explain import explain

    found = mentions(text, language)
    labels = labels_of_mentions(found, closed=closed)
    if as_json:
        by_name = {name: value for name, value in zip(LABEL_NAMES, labels.tolist(), strict=True) if value >= 0}
        content = {"labels": by_name, "mentions": [_mention(m) for m in found]}
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        lines = explain(found, labels)
        typer.echo("\n".join(lines) if lines else "nothing recognised")


def _extract_table(
    path: Path, out: Path | None, mentions_out: Path | None, language: str | None, *, closed: bool, column: str
) -> None:
    """Write the labels of a table's reports, or where they stand in them, row by row; print how often each was said."""
    import numpy as np
    from tqdm import tqdm

    from agent.core.labels import LABEL_NAMES
    from training.labels.dictionary import labels_of_mentions, mentions
    from training.labels.reports import read_reports

    counts = np.zeros((2, len(LABEL_NAMES)), int)
    reports = 0
    with ExitStack() as stack:
        table = stack.enter_context(out.open("w", encoding="utf-8", newline="")) if out else None
        audit = stack.enter_context(mentions_out.open("w", encoding="utf-8")) if mentions_out else None
        writer = csv.writer(table) if table else None
        if writer:
            writer.writerow(["id", *LABEL_NAMES])
        for report in tqdm(read_reports(path, text=column), desc="reports", unit="report", mininterval=5):
            found = mentions(report.text, language)
            labels = labels_of_mentions(found, closed=closed)
            counts += [labels == 1, labels == 0]
            reports += 1
            if writer:
                writer.writerow(_row(report.id, labels))
            if audit:
                line = {"id": report.id, "mentions": [_mention(m) for m in found]}
                audit.write(json.dumps(line, ensure_ascii=False) + "\n")
    typer.echo(f"{reports} reports")
    for i in np.argsort(-counts[0], kind="stable"):
        if counts[0, i]:
            typer.echo(f"{LABEL_NAMES[i]:50s} said {counts[0, i]:7d}  denied {counts[1, i]:7d}")


def import_command(
    folder: Annotated[Path, typer.Argument(help="The published classifier's folder, as downloaded.")],
    target: Annotated[Path, typer.Argument(help="Folder to write: safetensors, tokeniser, thresholds.")],
) -> None:
    """Read a published report classifier, without running anything in it, into a folder for 'labels classify'."""
    from training.importers.bert import import_bert
    from training.labels.classifier import ReportClassifier

    config = import_bert(folder, target, progress=True)
    reader = ReportClassifier.load(target)
    typer.echo(
        f"{target}: {len(config.labels)} labels, {reader.net.num_parameters():,} parameters, thresholds as published"
    )


def classify_command(model: Model, text: Text, out: LabelsOut = None, column: Column = "") -> None:
    """Read labels by a classifier: of one report, or of a table into a file, batch by batch."""
    import numpy as np
    from tqdm import tqdm

    from agent.core.labels import LABEL_NAMES
    from training.labels.classifier import ReportClassifier
    from training.labels.reports import read_reports

    reader = ReportClassifier.load(model)
    path = _csv(text)
    if path is None:
        probabilities = reader.probabilities([text])[0]
        for i in np.argsort(-probabilities, kind="stable"):
            if probabilities[i] >= reader.thresholds[i]:
                typer.echo(f"{LABEL_NAMES[i]}: {probabilities[i]:.3f} (threshold {reader.thresholds[i]:.3f})")
        return
    if out is None:
        raise ValueError("a table's labels go into a file; name it with --out LABELS.csv")
    reports = 0
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *LABEL_NAMES])
        rows = tqdm(read_reports(path, text=column), desc="reports", unit="report", mininterval=5)
        for some in _grouped(rows, _AT_ONCE):
            for report, labels in zip(some, reader.labels([r.text for r in some]), strict=True):
                writer.writerow(_row(report.id, labels))
            reports += len(some)
    typer.echo(f"{reports} reports")


def _grouped(rows: Iterable[Report], size: int) -> Iterator[Sequence[Report]]:
    iterator = iter(rows)
    while some := list(itertools.islice(iterator, size)):
        yield some


def train_command(
    reports: Table,
    output: Annotated[Path, typer.Argument(help="Folder of the run; the classifier is written to OUTPUT/model.")],
    folds: Annotated[
        str, typer.Option(help="Folds to learn from, like 1-6; by default four fifths of the patients.")
    ] = "",
    validation: Annotated[str, typer.Option(help="Folds for stopping and thresholds, like 7.")] = "",
    start: Annotated[
        Path | None, typer.Option(help="A local BERT folder to fine-tune; by default from nothing.")
    ] = None,
    layers: Annotated[int, typer.Option(min=1, help="Of a new network.")] = 2,
    width: Annotated[int, typer.Option(min=8, help="Of a new network.")] = 256,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Reports a step.")] = 16,
    rate: Annotated[float, typer.Option(help="Learning rate; by default 6e-4, or 3e-5 with --start.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    column: Column = "",
) -> None:
    """Train the report classifier on reports with codes; a run that was interrupted goes on when started again."""
    import numpy as np
    import torch

    from training.data.recording import fold_of
    from training.labels.learn import Recipe, train
    from training.labels.reports import read_reports

    if bool(folds) != bool(validation):
        raise ValueError("--folds and --validation belong together; give both, or neither")
    torch.set_num_threads(threads)
    recipe = replace(
        Recipe(),
        layers=layers,
        width=width,
        heads=max(1, width // 64),
        epochs=epochs,
        batch=batch,
        learning_rate=rate or (3e-5 if start else Recipe().learning_rate),
        seed=seed,
    )
    if folds:
        learn, check = folds_of(folds), folds_of(validation)
        if both := learn & check:
            raise ValueError(f"fold {min(both)} is both learnt from and validated on; give each fold one use")
        rows = list(read_reports(reports, text=column, folds=learn | check))
        parts = [[r for r in rows if r.fold in part] for part in (learn, check)]
    else:
        rows = list(read_reports(reports, text=column))
        parts = [[r for r in rows if (fold_of(r.patient, 5) == 0) == held] for held in (False, True)]
    examples, held_out = (_examples(part, reports) for part in parts)
    typer.echo(f"{len(examples.texts)} reports to learn from, {len(held_out.texts)} for validation", err=True)
    reader = train(recipe, examples, held_out, output / "checkpoint.pt", start=start)
    origin = f"trained on {len(examples.texts)} reports of {reports.name}, seed {seed}"
    reader.save(output / "model", origin=origin, notes=(f"started from {start.name}",) if start else ())
    learnt = int(np.isfinite(reader.thresholds).sum())
    typer.echo(f"{output / 'model'}: {reader.net.num_parameters():,} parameters, {learnt} of 77 labels learnt")


def _examples(rows: Sequence[Report], path: Path) -> Examples:
    import numpy as np

    from training.labels.learn import Examples

    truth = [r.truth for r in rows if r.truth is not None]
    if not rows or len(truth) < len(rows):
        raise ValueError(
            f"{path} has no labels for these folds; it needs a column scp_codes, or columns named like the labels"
        )
    return Examples(tuple(r.text for r in rows), np.stack(truth), tuple(r.patient for r in rows))


def score_command(
    reports: Table,
    folds: Annotated[str, typer.Option(help="Folds to score, like 8-9; by default every row.")] = "",
    classifier: Annotated[Path | None, typer.Option(help="Folder of a report classifier to score beside.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file of everything printed.")] = None,
    words: Annotated[int, typer.Option(help="Also count so many of the most frequent unread words.")] = 0,
    resamples: Annotated[int, typer.Option(min=1, help="Of patients, for the intervals of F1.")] = 1000,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    column: Column = "",
) -> None:
    """Score dictionary, classifier and their union against the codes: per label, by language, with what is confused."""
    from training.labels.compare import compare
    from training.labels.reports import read_reports

    rows = list(read_reports(reports, text=column, folds=folds_of(folds) if folds else None))
    classified = None
    if classifier is not None:
        import torch

        from training.labels.classifier import ReportClassifier

        torch.set_num_threads(threads)
        classified = ReportClassifier.load(classifier).labels([row.text for row in rows], progress=True)
    found = compare(rows, classified, resamples=resamples, words=words, progress=True)
    typer.echo(found.as_text())
    if out is not None:
        out.write_text(json.dumps(found.as_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")
