"""``deepecg-train pretrain``, ``train``, ``finetune`` and ``predict``: a recipe and a dataset into model folders."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from agent.core.labels import LABEL_NAMES
from training.data import WindowTable
from training.evaluation.cases import Cases
from training.models.weights import DIAGNOSES, Network, in_label_order, load_network, read_config
from training.train.augment import POLICIES, LeadPolicy
from training.train.distributed import Ranks, ranks
from training.train.recipes import RECIPES, Precision, Recipe
from training.train.run import MODEL, Split, outputs, run, split_of
from training.train.tasks import REGRESSION, truth_of
from training.train.throughput import throughput as measure

app = typer.Typer()

WHOLE, EACH = "all", "each"
"""Names of folds: the run on every patient, and one run for each fold."""
ABOUT = "run.json"
"""In the folder of a run: its recipe and how many folds its patients are divided into."""

Run = Annotated[Path, typer.Argument(help="Folder of the run; each fold has its own inside.")]
Dataset = Annotated[Path, typer.Option(help="Folder that deepecg-train prepare has written.")]
Fold = Annotated[
    str,
    typer.Option(
        "--fold",
        help="Comma-separated: numbers of folds that are left out for testing, 'each' for one run per fold, 'all' for "
        "a run on every patient.",
    ),
]
PrecisionName = Annotated[str, typer.Option("--precision", help="f32, bf16 or f16 (GPU only); default: the recipe's.")]
LeadsName = Annotated[str, typer.Option("--leads", help=f"One of {', '.join(POLICIES)}; default: the recipe's.")]
Device = Annotated[str, typer.Option(help="cpu or cuda; with torchrun, one GPU for each process.")]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads.")]
Seed = Annotated[int | None, typer.Option(help="Of everything that is drawn; default: the recipe's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="In all; default: as the recipe says.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Over all processes; default: the recipe's.")]
Accumulate = Annotated[int | None, typer.Option(min=1, help="Micro-batches of a step; default: the recipe's.")]
Sources = Annotated[
    str, typer.Option(help="Comma-separated; default: all that may go into weights that are passed on.")
]
ShareAlike = Annotated[
    bool, typer.Option("--share-alike", help="Use share-alike sources too: such weights must not be shipped.")
]


def recipe_named(
    name: str,
    *,
    precision: str = "",
    leads: str = "",
    seed: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    accumulate: int | None = None,
) -> Recipe:
    """The recipe of this name with what the command line changes.

    Raises ValueError if there is none of the name.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; take one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    for given, known, what in ((precision, ("f32", "bf16", "f16"), "precision"), (leads, POLICIES, "leads")):
        if given and given not in known:
            raise ValueError(f"there is no --{what} {given!r}; take one of {', '.join(known)}")
    return replace(
        recipe,
        precision=cast(Precision, precision or recipe.precision),
        leads=cast(LeadPolicy, leads or recipe.leads),
        seed=recipe.seed if seed is None else seed,
        steps=steps or recipe.steps,
        batch=batch or recipe.batch,
        accumulate=accumulate or recipe.accumulate,
    )


def folds_named(text: str, count: int) -> list[str]:
    """The folds that a command names, in order.

    Raises ValueError if one is none.
    """
    found: list[str] = []
    for name in (part.strip() for part in text.split(",") if part.strip()):
        if name == EACH:
            found += map(str, range(count))
        elif name == WHOLE or (name.isdecimal() and int(name) < count):
            found.append(name)
        else:
            raise ValueError(f"there is no fold {name!r}; take 0 to {count - 1}, {EACH} or {WHOLE}")
    return list(dict.fromkeys(found))


def usable(table: WindowTable, sources: str = "", *, share_alike: bool = False) -> NDArray[np.bool_]:
    """(n,) windows of the named sources, or of all; share-alike ones only where that is allowed.

    Raises ValueError for a source that the dataset does not have, or that may not be used.
    """
    names = [name.strip() for name in sources.split(",") if name.strip()]
    if unknown := [name for name in names if name not in table.sources]:
        raise ValueError(f"the dataset has no source {unknown[0]!r}; it has {', '.join(table.sources)}")
    shared = [name for name, licence in zip(table.sources, table.licence, strict=True) if licence.share_alike]
    if not share_alike and (asked := [name for name in names if name in shared]):
        raise ValueError(f"{asked[0]} is under a share-alike licence; pass --share-alike, and do not ship the weights")
    taken = [(not names or name in names) and (share_alike or name not in shared) for name in table.sources]
    use: NDArray[np.bool_] = np.array(taken)[table.source]
    return use


def start_of(path: Path | None, fold: str) -> Network | None:
    """The network to begin with: a model folder, or that of the same fold in a run."""
    if path is None:
        return None
    of_fold = path / fold / MODEL
    if of_fold.is_dir():
        return load_network(of_fold)
    return load_network(path / MODEL if (path / MODEL).is_dir() else path)


def _train(
    output: Path,
    dataset: Path,
    recipe: Recipe,
    folds: str,
    start: Path | None,
    sources: str,
    *,
    share_alike: bool,
    device: str,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    table = WindowTable.open(dataset)
    use = usable(table, sources, share_alike=share_alike)
    about = {"recipe": recipe.name, "folds": recipe.folds}
    kept = output / ABOUT
    if kept.is_file() and (before := json.loads(kept.read_text("utf-8"))) != about:
        raise ValueError(f"{output} is a run of {before}, not of {about}; take another folder, or remove it")
    with ranks(device) as here:
        if here.first:
            output.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(about) + "\n", "utf-8")
        for fold in folds_named(folds, recipe.folds):
            split = split_of(table, use, recipe.folds, None if fold == WHOLE else int(fold), recipe.patience > 0)
            _report(recipe, table, split, fold, here)
            outcome = run(recipe, table, split, output / fold, start=start_of(start, fold), ranks=here)
            if here.first:
                score = f", best score {outcome.score:.4f}" if np.isfinite(outcome.score) else ""
                typer.echo(f"{output / fold / MODEL}: {outcome.step} steps{score}")


def _report(recipe: Recipe, table: WindowTable, split: Split, fold: str, here: Ranks) -> None:
    if here.first:
        parts = (("train", split.train), ("validation", split.validation), ("test", split.test))
        told = ", ".join(
            f"{name} {len(index)} windows of {len(np.unique(table.patient[index]))} patients"
            for name, index in parts
            if len(index)
        )
        typer.echo(f"{recipe.name}, fold {fold}: {told}", err=True)


@app.command()
def pretrain(
    output: Run,
    dataset: Dataset,
    recipe: Annotated[str, typer.Option(help="A pretraining recipe.")] = "demo-pretrain",
    fold: Fold = WHOLE,
    start: Annotated[Path | None, typer.Option("--from", help="Model folder to go on from.")] = None,
    precision: PrecisionName = "",
    leads: LeadsName = "",
    seed: Seed = None,
    steps: Steps = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    sources: Sources = "",
    share_alike: ShareAlike = False,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Pretrain DeepECG-SSL without labels: wav2vec 2, CMSC and random lead masking."""
    chosen = recipe_named(
        recipe, precision=precision, leads=leads, seed=seed, steps=steps, batch=batch, accumulate=accumulate
    )
    if not chosen.pretraining:
        raise ValueError(f"{recipe!r} is no recipe of pretraining; give it to deepecg-train train or finetune")
    _train(output, dataset, chosen, fold, start, sources, share_alike=share_alike, device=device, threads=threads)


@app.command()
def train(
    output: Run,
    dataset: Dataset,
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")] = "demo",
    fold: Fold = f"{EACH},{WHOLE}",
    precision: PrecisionName = "",
    leads: LeadsName = "",
    seed: Seed = None,
    steps: Steps = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    sources: Sources = "",
    share_alike: ShareAlike = False,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Train a network from scratch on labels or a biomarker."""
    chosen = recipe_named(
        recipe, precision=precision, leads=leads, seed=seed, steps=steps, batch=batch, accumulate=accumulate
    )
    if chosen.pretraining:
        raise ValueError(f"{recipe!r} is a recipe of pretraining; give it to deepecg-train pretrain")
    _train(output, dataset, chosen, fold, None, sources, share_alike=share_alike, device=device, threads=threads)


@app.command()
def finetune(
    output: Run,
    dataset: Dataset,
    start: Annotated[
        Path,
        typer.Option(
            "--from",
            help="Model folder, or a run of deepecg-train whose folds are matched: then no test "
            "patient was seen in pretraining either.",
        ),
    ],
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")] = "demo-ssl",
    fold: Fold = f"{EACH},{WHOLE}",
    precision: PrecisionName = "",
    leads: LeadsName = "",
    seed: Seed = None,
    steps: Steps = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    sources: Sources = "",
    share_alike: ShareAlike = False,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Fine-tune pretrained or published weights on labels or a biomarker."""
    chosen = recipe_named(
        recipe, precision=precision, leads=leads, seed=seed, steps=steps, batch=batch, accumulate=accumulate
    )
    if chosen.pretraining:
        raise ValueError(f"{recipe!r} is a recipe of pretraining; give it to deepecg-train pretrain")
    _train(output, dataset, chosen, fold, start, sources, share_alike=share_alike, device=device, threads=threads)


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(help="Model folder, or a run: then each window by the fold that left it out.")
    ],
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="File of predictions (.npz), which deepecg-train evaluate reads.")],
    sources: Sources = "",
    share_alike: ShareAlike = False,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Write a model's probabilities for the windows of a dataset, with the truth beside them."""
    torch.set_num_threads(threads)
    table = WindowTable.open(dataset)
    use = usable(table, sources, share_alike=share_alike)
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
        net = load_network(path).to(device)
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


@app.command()
def throughput(
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")] = "ssl-pretrain",
    batch: Batch = None,
    precision: PrecisionName = "bf16",
    repeats: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 10,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Time a recipe's training step and print its share of the measured matrix peak, as JSON."""
    torch.set_num_threads(threads)
    found = measure(recipe_named(recipe, precision=precision), device=device, batch=batch or 0, repeats=repeats)
    typer.echo(json.dumps(asdict(found), indent=1))
