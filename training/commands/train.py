"""``deepecg-train pretrain``, ``train``, ``finetune``, ``predict`` and ``throughput``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.commands.options import (
    Batch,
    Dataset,
    Device,
    Folds,
    Hardware,
    Precision,
    RecipeChanges,
    RecipeName,
    Run,
    SourceChoice,
    Threads,
)
from training.train.folds import ABOUT, EACH, WHOLE, Split, folds_named, split_of, usable
from training.train.recipes import Recipe, recipe_named

if TYPE_CHECKING:
    from training.data import WindowTable


def pretrain(
    output: Run,
    dataset: Dataset,
    *,
    start: Annotated[Path | None, typer.Option("--from", help="Model folder to go on from.")] = None,
    recipe: Annotated[str, typer.Option(help="A pretraining recipe.")] = "demo-pretrain",
    fold: Folds = WHOLE,
    changes: RecipeChanges,
    choice: SourceChoice,
    hardware: Hardware,
) -> None:
    """Pretrain DeepECG-SSL without labels: wav2vec 2, CMSC and random lead masking."""
    chosen = changes.of(recipe)
    if not chosen.pretraining:
        raise ValueError(f"{recipe!r} is no recipe of pretraining; give it to deepecg-train train or finetune")
    _train(output, dataset, chosen, fold, start, choice, hardware)


def train(
    output: Run,
    dataset: Dataset,
    *,
    recipe: RecipeName = "demo",
    fold: Folds = f"{EACH},{WHOLE}",
    changes: RecipeChanges,
    choice: SourceChoice,
    hardware: Hardware,
) -> None:
    """Train a network from scratch on labels or a biomarker."""
    _train(output, dataset, _supervised(changes, recipe), fold, None, choice, hardware)


def finetune(
    output: Run,
    dataset: Dataset,
    *,
    start: Annotated[
        Path,
        typer.Option(
            "--from",
            help="Model folder, or a run of deepecg-train whose folds are matched: then no test "
            "patient was seen in pretraining either.",
        ),
    ],
    recipe: RecipeName = "demo-ssl",
    fold: Folds = f"{EACH},{WHOLE}",
    changes: RecipeChanges,
    choice: SourceChoice,
    hardware: Hardware,
) -> None:
    """Fine-tune pretrained or published weights on labels or a biomarker."""
    _train(output, dataset, _supervised(changes, recipe), fold, start, choice, hardware)


def predict(
    model: Annotated[
        Path, typer.Argument(help="Model folder, or a run: then each window by the fold that left it out.")
    ],
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="File of predictions (.npz), which deepecg-train evaluate reads.")],
    choice: SourceChoice,
    hardware: Hardware,
) -> None:
    """Write a model's probabilities for the windows of a dataset, with the truth beside them."""
    import numpy as np
    import torch

    from agent.core.labels import LABEL_NAMES
    from training.data import WindowTable
    from training.evaluation.cases import Cases
    from training.models.kinds import DIAGNOSES
    from training.models.weights import in_label_order, load_network, read_config
    from training.train.run import MODEL, outputs
    from training.train.tasks import REGRESSION, truth_of

    torch.set_num_threads(hardware.threads)
    table = WindowTable.open(dataset)
    use = usable(table, choice.sources, share_alike=choice.share_alike)
    folds = sorted(int(path.parent.name) for path in model.glob(f"*/{MODEL}") if path.parent.name.isdecimal())
    if folds:
        count = json.loads((model / ABOUT).read_text("utf-8"))["folds"]
        fold_of = np.where(use, table.folds(count), -1)
        parts = [(model / str(fold) / MODEL, np.flatnonzero(fold_of == fold)) for fold in folds]
    else:
        parts = [(model / MODEL if (model / MODEL).is_dir() else model, np.flatnonzero(use))]
    config = read_config(parts[0][0])
    if config.task == REGRESSION:
        raise ValueError("predictions of a regression are no probabilities; fine-tune lvef_40 or lvef_50 for that")
    found = np.full((len(table), len(config.labels)), np.nan, np.float32)
    for path, index in parts:
        net = load_network(path).to(hardware.device)
        logits = outputs(net, table, index, read_config(path).preprocessing.gain, progress=True)
        found[index] = 1.0 / (1.0 + np.exp(-logits))
    truth = truth_of(table, config.task)
    if config.task == DIAGNOSES:
        found = in_label_order(found, config)
    labels = LABEL_NAMES if config.task == DIAGNOSES else config.labels
    scored = np.any(np.isfinite(found), axis=1)
    cases = Cases.from_table(table, found, labels, truth).select(scored)
    cases.save(out)
    typer.echo(f"{out}: {len(cases)} windows of {len(np.unique(cases.patient))} patients, {len(labels)} outputs")


def throughput(
    recipe: RecipeName = "ssl-pretrain",
    batch: Batch = None,
    precision: Precision = "bf16",
    repeats: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 10,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Time a recipe's training step and print its share of the measured matrix peak, as JSON."""
    import torch

    from training.train.throughput import throughput as measure

    torch.set_num_threads(threads)
    found = measure(recipe_named(recipe, precision=precision), device=device, batch=batch or 0, repeats=repeats)
    typer.echo(json.dumps(asdict(found), indent=1))


def _supervised(changes: RecipeChanges, recipe: str) -> Recipe:
    chosen = changes.of(recipe)
    if chosen.pretraining:
        raise ValueError(f"{recipe!r} is a recipe of pretraining; give it to deepecg-train pretrain")
    return chosen


def _train(
    output: Path,
    dataset: Path,
    recipe: Recipe,
    folds: str,
    start: Path | None,
    choice: SourceChoice,
    hardware: Hardware,
) -> None:
    """Train the recipe on each of the folds; weights to begin with, where there are any, are of the same fold."""
    import torch

    from training.data import WindowTable
    from training.train.distributed import ranks
    from training.train.run import MODEL, run, start_of

    torch.set_num_threads(hardware.threads)
    table = WindowTable.open(dataset)
    use = usable(table, choice.sources, share_alike=choice.share_alike)
    about = {"recipe": recipe.name, "folds": recipe.folds}
    kept = output / ABOUT
    if kept.is_file() and (before := json.loads(kept.read_text("utf-8"))) != about:
        raise ValueError(f"{output} is a run of {before}, not of {about}; take another folder, or remove it")
    with ranks(hardware.device) as here:
        if here.first:
            output.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(about) + "\n", "utf-8")
        for fold in folds_named(folds, recipe.folds):
            split = split_of(table, use, recipe.folds, None if fold == WHOLE else int(fold), recipe.patience > 0)
            if here.first:
                typer.echo(f"{recipe.name}, fold {fold}: {_sizes(table, split)}", err=True)
            outcome = run(recipe, table, split, output / fold, start=start_of(start, fold), ranks=here)
            if here.first:
                score = f", best score {outcome.score:.4f}" if math.isfinite(outcome.score) else ""
                typer.echo(f"{output / fold / MODEL}: {outcome.step} steps{score}")


def _sizes(table: WindowTable, split: Split) -> str:
    """What a split has, in words."""
    parts = (("train", split.train), ("validation", split.validation), ("test", split.test))
    return ", ".join(
        f"{name} {len(index)} windows of {len(set(table.patient[index].tolist()))} patients"
        for name, index in parts
        if len(index)
    )
