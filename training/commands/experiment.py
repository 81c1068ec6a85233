"""``deepecg-train label-efficiency``: how many labels SSL and SL need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from training.commands.options import Dataset, Leads, Precision, SourceChoice, Threads
from training.train.folds import split_of, usable
from training.train.recipes import recipe_named


def label_efficiency_command(
    output: Annotated[Path, typer.Argument(help="Folder of the experiment.")],
    dataset: Dataset,
    *,
    start: Annotated[
        Path, typer.Option("--from", help="Pretrained model folder, or a pretraining run, whose fold is matched.")
    ],
    task: Annotated[
        str, typer.Option(help="'77 diagnoses', a biomarker, or any target of the dataset.")
    ] = "77 diagnoses",
    ssl: Annotated[str, typer.Option(help="Recipe of SSL.")] = "demo-ssl",
    sl: Annotated[str, typer.Option(help="Recipe of SL.")] = "demo",
    shares: Annotated[
        str, typer.Option(help="Comma-separated, in percent of the training patients.")
    ] = "1,5,10,25,100",
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    fold: Annotated[int, typer.Option(min=0, help="Whose patients are tested.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Of every training, whatever its share.")] = 200,
    precision: Precision = "",
    leads: Leads = "all",
    choice: SourceChoice,
    threads: Threads = 2,
) -> None:
    """Train SL, SSL with pretraining and SSL without it on growing shares of the labels, and compare them."""
    import torch

    from training.data import WindowTable
    from training.models.kinds import SSLConfig
    from training.train.label_efficiency import Arm, label_efficiency, plot, table_of
    from training.train.run import start_of

    torch.set_num_threads(threads)
    table = WindowTable.open(dataset)
    tuned = replace(recipe_named(ssl, precision=precision, leads=leads, steps=steps), epochs=0.0)
    if not isinstance(tuned.network, SSLConfig):
        raise ValueError(f"{ssl!r} is no recipe of SSL; name it with --sl")  # noqa: TRY004  (a name that was typed)
    scratch = replace(tuned, network=replace(tuned.network, feature_gradient=1.0))  # nothing to keep as it is
    supervised = replace(recipe_named(sl, precision=precision, leads=leads, steps=steps), epochs=0.0)
    if fold >= tuned.folds:
        raise ValueError(f"there is no fold {fold}; take 0 to {tuned.folds - 1}")
    use = usable(table, choice.sources, share_alike=choice.share_alike)
    arms = (
        Arm("SSL, pretrained", tuned, start_of(start, str(fold))),
        Arm("SL", supervised),
        Arm("SSL, fresh", scratch),
    )
    cells = label_efficiency(
        table,
        split_of(table, use, tuned.folds, fold, validate=False),
        arms,
        output,
        task=task,
        shares=[float(share) / 100 for share in shares.split(",")],
        seeds=range(seeds),
    )
    plot(cells, output / "label-efficiency.svg", f"{task}: fold {fold} of {tuned.folds} tested, {seeds} seeds")
    typer.echo(table_of(cells))
