"""How many labels a network needs: the paper's claim, that a pretrained network needs fewer, put to the test.

Each arm is trained on the same nested shares of the training patients, with several seeds, and scored on the same
patients, who are in no share and were in no pretraining of the same fold. Every cell of the table is kept when it is
done, so that an interrupted experiment goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from training.data import WindowTable
from training.models.weights import Network, family_of, load_network, published_preprocessing
from training.train.folds import Split
from training.train.recipes import Recipe
from training.train.run import MODEL, outputs, run
from training.train.sampling import Index
from training.train.tasks import Truth, fit_of, is_known, outputs_of, truth_of

RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training."""

    name: str
    recipe: Recipe
    start: Network | None = None
    """Weights to begin with; None = fresh ones."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm on one share of the labels with one seed."""

    arm: str
    share: float
    seed: int
    patients: int
    """Trained on."""
    positive_patients: int
    """With the finding; of several labels, with any."""
    score: float
    """Mean AUROC over the outputs that are scored, on the test patients."""


def patients_for(table: WindowTable, truth: Truth, train: Index, share: float, seed: int, least: int = 2) -> Index:
    """Windows of a share of the training patients; a smaller share of one seed is part of every larger one.

    Drawn among patients with and without a finding alike, at least ``least`` of each where there are so many: with
    fewer nothing can be learned, and the share is then larger than asked for (the cell tells its patients).
    """
    names = np.unique(table.patient[train])
    positive = set(table.patient[train][np.any(truth[train] == 1, axis=1)])
    order = np.random.default_rng(seed).permutation(names)
    chosen: set[str] = set()
    for group in ([name for name in order if name in positive], [name for name in order if name not in positive]):
        chosen.update(group[: max(round(share * len(group)), least)])
    return train[np.isin(table.patient[train], sorted(chosen))]


def scored_outputs(table: WindowTable, truth: Truth, test: Index, least: int) -> list[int]:
    """Outputs with at least ``least`` positive and negative patients among the test windows."""
    return [
        i
        for i in range(truth.shape[1])
        if min(len(np.unique(table.patient[test][truth[test, i] == kind])) for kind in (0, 1)) >= least
    ]


def label_efficiency(
    table: WindowTable,
    split: Split,
    arms: Sequence[Arm],
    folder: Path,
    *,
    task: str,
    shares: Sequence[float],
    seeds: Sequence[int],
    least_positive: int = 5,
    progress: bool = True,
) -> list[Cell]:
    """Train every arm on every share with every seed, and score it; the cells, also in ``folder/results.json``.

    Raises:
        ValueError: the folder holds another experiment, or no output has enough test patients to be scored.
    """
    truth = truth_of(table, task)
    # Of other windows and patients nothing can be learned, and nothing scored.
    train, test = (part[np.any(is_known(truth[part]), axis=1)] for part in (split.train, split.test))
    split = Split(train, split.validation, test)
    columns = scored_outputs(table, truth, split.test, least_positive)
    if not columns:
        raise ValueError(f"no output of {task!r} has {least_positive} test patients of either kind; take another fold")
    names = [outputs_of(task)[i] for i in columns]
    about = {
        "task": task,
        "outputs": names,
        "test_patients": len(np.unique(table.patient[split.test])),
        "arms": {arm.name: arm.recipe.name for arm in arms},
    }
    cells = _kept(folder, about)
    done = {(cell.arm, cell.share, cell.seed) for cell in cells}
    for share in sorted(shares):
        for seed in seeds:
            use = patients_for(table, truth, split.train, share, seed)
            there = np.any(truth[use] == 1, axis=1)
            for arm in arms:
                if (arm.name, share, seed) in done:
                    continue
                score = _score(arm, table, split, use, folder, task, columns, truth, seed, progress=progress)
                cells.append(
                    Cell(
                        arm.name,
                        share,
                        seed,
                        len(np.unique(table.patient[use])),
                        len(np.unique(table.patient[use][there])),
                        score,
                    )
                )
                _keep(folder, about, cells)
    return cells


def _score(
    arm: Arm,
    table: WindowTable,
    split: Split,
    use: Index,
    folder: Path,
    task: str,
    columns: Sequence[int],
    truth: Truth,
    seed: int,
    *,
    progress: bool,
) -> float:
    recipe = replace(arm.recipe, task=task, seed=seed, patience=0, emphasis={}, name=f"{arm.recipe.name} {arm.name}")
    place = folder / "running"
    shutil.rmtree(place, ignore_errors=True)  # of an interrupted cell, which begins anew
    run(recipe, table, Split(use, use[:0], split.test), place, start=arm.start, progress=progress)
    net = load_network(place / MODEL)
    gain = published_preprocessing(family_of(net)).gain
    found = outputs(net, table, split.test, gain)[:, columns]
    shutil.rmtree(place)
    return fit_of(found, truth[split.test][:, columns])


def _kept(folder: Path, about: Mapping[str, object]) -> list[Cell]:
    path = folder / RESULTS
    if not path.is_file():
        return []
    content = json.loads(path.read_text("utf-8"))
    if content["about"] != about:
        raise ValueError(f"{path} is of another experiment; take another folder, or remove it")
    return [Cell(**cell) for cell in content["cells"]]


def _keep(folder: Path, about: Mapping[str, object], cells: Sequence[Cell]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / (RESULTS + ".new")
    content = {"about": about, "cells": [asdict(cell) for cell in cells]}
    new.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    new.replace(folder / RESULTS)


def table_of(cells: Sequence[Cell]) -> str:
    """A line for each share: patients, and each arm's mean, lowest and highest score."""
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    lines = ["share   patients  " + "".join(f"{arm:>26s}" for arm in arms)]
    for share in sorted({cell.share for cell in cells}):
        here = [cell for cell in cells if cell.share == share]
        texts = []
        for arm in arms:
            scores = [cell.score for cell in here if cell.arm == arm]
            span = f"{np.mean(scores):.3f} ({min(scores):.3f}–{max(scores):.3f})" if scores else "–"
            texts.append(f"{span:>26s}")
        lines.append(f"{share:5.0%}   {here[0].patients:4d} ({here[0].positive_patients:3d})" + "".join(texts))
    return "\n".join(lines)


def plot(cells: Sequence[Cell], path: Path, title: str) -> None:
    """Score against share, every seed a point, the mean a line, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for arm, colour in zip(dict.fromkeys(cell.arm for cell in cells), ("#1b6ca8", "#c1440e", "#6b7280"), strict=False):
        own = [cell for cell in cells if cell.arm == arm]
        shares = sorted({cell.share for cell in own})
        means = [np.mean([cell.score for cell in own if cell.share == share]) for share in shares]
        axes.plot(shares, means, color=colour, label=arm)
        axes.scatter([cell.share for cell in own], [cell.score for cell in own], color=colour, s=14, alpha=0.6)
    axes.set_xscale("log")
    shares = sorted({cell.share for cell in cells})
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel("share of the training patients' labels")
    axes.set_ylabel("mean AUROC, patients not trained on")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
