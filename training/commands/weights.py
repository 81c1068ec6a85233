"""``deepecg-train import``: a published file in, a model folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from training.models.kinds import NAMES, TASKS

File = Annotated[Path, typer.Argument(help="The published file (.pt, .h5, .bin, .safetensors), or BERT's folder.")]
Folder = Annotated[Path, typer.Argument(help="Folder of the model; replaced if it is one.")]


def import_command(
    file: File,
    folder: Folder,
    family: Annotated[
        Literal["sl", "ssl", "ssl-pretraining"] | None,
        typer.Option(help="Take the file for this network's or refuse it."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"What the outputs are, where the file's name does not say it: {', '.join(TASKS)}."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Comma-separated names of the outputs of a task of your own.")
    ] = None,
    order: Annotated[
        Literal["sl", "ssl"] | None, typer.Option(help="Whose order 77 outputs are in; by default that network's own.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Heads of attention, where the file has no settings that say it.")
    ] = None,
    columns: Annotated[
        Literal["softmax", "sigmoid"] | None, typer.Option(help="How two outputs of one label were trained.")
    ] = None,
    thresholds: Annotated[bool, typer.Option(help="Put the published thresholds into the config.")] = True,
) -> None:
    """Import published weights: TorchScript, state dict, pickled module, fairseq checkpoint, or BERT's folder."""
    from training.importers.bert import import_bert
    from training.importers.convert import Asked, import_file

    if file.is_dir():
        if family or task or labels or order or heads or columns:
            raise ValueError(f"{file} is a folder, as the report classifier's is; it takes no options")
        about = import_bert(file, folder, progress=True)
        typer.echo(f"{folder}: {NAMES['bert']}, {len(about.labels)} labels, thresholds published with it")
        return
    names = tuple(name.strip() for name in labels.split(",")) if labels else None
    asked = Asked(family, task, names, order, heads, columns, thresholds)
    made = import_file(file, folder, asked, progress=True)
    config = made.config
    typer.echo(f"{folder}: {NAMES[config.family]} for {config.task}, {made.parameters:,} parameters")
    typer.echo(f"from {config.provenance.file} ({config.provenance.origin}), sha256 {config.provenance.sha256}")
    for note in config.provenance.notes:
        typer.echo(f"note: {note}")
    if made.foreign:
        typer.echo(f"it names classes of {', '.join(made.foreign)}; none was imported")
    if config.order == "ssl":
        typer.echo("outputs: the 77 labels in DeepECG-SSL's order; evaluation puts them in ours")
    elif config.labels:
        typer.echo(f"outputs: {', '.join(config.labels[:3])}{', …' if len(config.labels) > 3 else ''}")
    if config.thresholds is not None:
        typer.echo(f"thresholds: {sum(value is not None for value in config.thresholds)}, published with the paper")
    typer.echo(f"on a synthetic window of sinus rhythm: outputs from {made.span[0]:.3g} to {made.span[1]:.3g}")
