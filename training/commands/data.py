"""``deepecg-train prepare`` and ``describe``: archives into a dataset, and what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.defaults import FORMATS, HIGHPASS, NOTCHES, RATE, SECONDS, STEP_SECONDS

if TYPE_CHECKING:
    from training.data import Source

Dataset = Annotated[Path, typer.Argument(help="Folder of the prepared dataset.")]


def prepare_command(
    dataset: Dataset,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Archives whose format is told by their own marks, or a folder that holds several."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help=f"[NAME:]FORMAT=FOLDER, may be repeated. Formats: {', '.join(FORMATS)}."),
    ] = None,
    rate: Annotated[float, typer.Option(help="Samples per second.")] = RATE,
    seconds: Annotated[float, typer.Option(help="Length of a window.")] = SECONDS,
    step: Annotated[
        float, typer.Option(help="Seconds from one window of a long recording to the next.")
    ] = STEP_SECONDS,
    highpass: Annotated[float, typer.Option(help="Hz; 0 = none.")] = HIGHPASS,
    notch: Annotated[
        list[float] | None,
        typer.Option(help=f"Hz, may be repeated; 0 = none. Default: {', '.join(f'{f:g}' for f in NOTCHES)}."),
    ] = None,
    labels_from_reports: Annotated[
        bool, typer.Option("--labels-from-reports", help="Fill labels that a source leaves unknown from its reports.")
    ] = False,
) -> None:
    """Read archives, check every recording, drop copies, and write windows with their table into DATASET.

    Of a recording that two archives hold, the first one's stays: those of --source go first, in the order given. A run
    that was interrupted goes on when the same command is given again.
    """
    from agent.core.preprocessing import Preprocessing
    from training.data import DatasetSettings, Source, find_sources, prepare
    from training.data.describe import describe, text
    from training.data.prepare import MILLIVOLTS
    from training.labels import labels_of_report

    notches = tuple(f for f in (notch or NOTCHES) if f > 0)
    p = Preprocessing(rate=rate, seconds=seconds, highpass=highpass, notches=notches, gain=MILLIVOLTS)
    sources = [_source(given) for given in source or ()]
    for folder in folders or ():
        sources += [Source(path.resolve().name, name, path) for name, path in find_sources(folder)]
    if not sources:
        raise ValueError("nothing to prepare; name a folder of recordings, or --source FORMAT=FOLDER")
    for one in sources:
        typer.echo(f"{one.name}: {one.format} in {one.folder}", err=True)
    reader = labels_of_report if labels_from_reports else None
    outcome = prepare(dataset, sources, DatasetSettings(p, step, reader))
    if not outcome:
        typer.echo(f"{dataset} is complete already", err=True)
    typer.echo(text(describe(dataset), brief=True))


def describe_command(
    dataset: Dataset, as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False
) -> None:
    """Count what is in DATASET: sources, labels, sex, age, lead sets, and what was refused and why."""
    from training.data.describe import describe, text

    found = describe(dataset)
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else text(found))


def _source(given: str) -> Source:
    """``[NAME:]FORMAT=FOLDER``; the name is the folder's where it is not given."""
    from training.data import Source

    left, equals, folder = given.partition("=")
    if not equals or not folder:
        raise ValueError(f"--source {given} is not of the form FORMAT=FOLDER")
    name, _, format_ = left.rpartition(":")
    return Source(name or Path(folder).resolve().name, format_, Path(folder))
