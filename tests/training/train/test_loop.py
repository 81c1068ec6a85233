"""The loop: it learns, stops early with the best state, and a stopped run goes on to the very same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agent.core.labels import index_of
from training.data import WindowTable
from training.train.checkpoint import load
from training.train.folds import Split, split_of
from training.train.loop import Outcome, copy_of, fit, learning_rate
from training.train.recipes import Optimiser, Recipe, smoke, smoke_fine_tune, smoke_pretrain
from training.train.run import CHECKPOINT, network_of, run

RECIPE = replace(smoke(), short_seconds=1.0)


def train(recipe: Recipe, table: WindowTable, folder: Path, **settings: Any) -> Outcome:
    split = split_of(table, ~table.held_out, recipe.folds, 0, recipe.patience > 0)
    return run(recipe, table, split, folder, progress=False, **settings)


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        replace(RECIPE, accumulate=2, ema=0.0, precision="bf16"),
        smoke_pretrain(),
        replace(smoke_fine_tune(), patience=2, validate_every=2),
    ],
    ids=["sl", "accumulated bf16", "pretraining", "fine-tuning with validation"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(small_table: WindowTable, tmp_path: Path, recipe: Recipe) -> None:
    whole = train(recipe, small_table, tmp_path / "a")
    stopped = train(recipe, small_table, tmp_path / "b", stop_after=3)
    assert not stopped.finished
    assert load(tmp_path / "b" / CHECKPOINT)["step"] == 3
    resumed = train(recipe, small_table, tmp_path / "b")
    assert resumed.finished
    assert resumed.step == whole.step
    for key, value in whole.state.items():
        assert torch.equal(value, resumed.state[key]), key
    a, b = (load(tmp_path / name / CHECKPOINT) for name in "ab")
    for one, other in zip(a["optimiser"]["state"].values(), b["optimiser"]["state"].values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    start = network_of(recipe).state_dict()
    moved = {
        key for key, value in start.items() if value.is_floating_point() and not torch.equal(value, whole.state[key])
    }
    still = {key for key, value in start.items() if value.is_floating_point()} - moved
    assert not still, "every weight moves"


def test_another_recipe_or_other_patients_do_not_go_on(small_table: WindowTable, tmp_path: Path) -> None:
    train(RECIPE, small_table, tmp_path)
    with pytest.raises(ValueError, match="another recipe or other data"):
        train(replace(RECIPE, seed=1), small_table, tmp_path)
    fewer = np.flatnonzero(~small_table.held_out)[3:]
    with pytest.raises(ValueError, match="another recipe or other data"):
        run(RECIPE, small_table, Split(fewer, fewer[:0], fewer[:0]), tmp_path, progress=False)
    relabelled = replace(small_table, labels=-small_table.labels)
    with pytest.raises(ValueError, match="another recipe or other data"):
        train(RECIPE, relabelled, tmp_path)


def test_the_loop_learns(small_table: WindowTable, tmp_path: Path) -> None:
    recipe = replace(
        RECIPE,
        steps=40,
        batch=16,
        leads="all",
        disturb=False,
        optimiser=replace(RECIPE.optimiser, rate=1e-2),
        checkpoint_every=40,
    )
    outcome = train(recipe, small_table, tmp_path)
    net = network_of(recipe)
    net.load_state_dict(outcome.state)
    index = np.flatnonzero(~small_table.held_out)
    x, _ = small_table.batch(index)
    with torch.no_grad():
        logits = net.eval()(torch.from_numpy(x / np.float32(0.0048))).numpy()[:, index_of("Afib")]
    there = small_table.labels[index, index_of("Afib")] == 1
    assert logits[there].mean() > logits[~there].mean() + 0.5
    history = json.loads((tmp_path / "log.json").read_text())
    assert history == outcome.history
    assert [entry["step"] for entry in history] == [25, 40]


def test_pretraining_learns(small_table: WindowTable, tmp_path: Path) -> None:
    """One batch again and again: fresh masks and negatives move the loss more than sixty steps of a tiny network do."""
    from training.models.ssl import Pretraining
    from training.train.batches import PretrainingBatches
    from training.train.distributed import Ranks
    from training.train.learners import SelfSupervised
    from training.train.sampling import Shuffled

    recipe = replace(smoke_pretrain(), batch=8, leads="all", optimiser=Optimiser(3e-3, clip=1.0))
    net = network_of(recipe)
    assert isinstance(net, Pretraining)
    index = np.flatnonzero(~small_table.held_out)
    batches = PretrainingBatches(small_table, Shuffled(index, 8, 0), recipe, net.config, 208.0, Ranks())
    learner = SelfSupervised(net, recipe.masking, recipe.temperature)
    history = fit(
        learner, lambda _step, _micro: batches(0, 0), recipe, 75, tmp_path / "x.pt", "", progress=False
    ).history
    assert [entry["step"] for entry in history] == [25, 50, 75]
    assert history[-1]["contrastive"] < history[0]["contrastive"] - 0.1
    assert history[-1]["loss"] < history[0]["loss"] - 0.2


def scored(
    scores: list[float], table: WindowTable, folder: Path, patience: int
) -> tuple[Outcome, list[dict[str, Any]]]:
    """A run whose validations give these scores, and the states that they saw."""
    from training.train.batches import SupervisedBatches
    from training.train.distributed import Ranks
    from training.train.learners import Supervised
    from training.train.sampling import Shuffled

    recipe = replace(RECIPE, steps=len(scores), patience=patience, ema=0.0)
    net = network_of(recipe)
    index = np.flatnonzero(~table.held_out)
    batches = SupervisedBatches(table, table.labels, Shuffled(index, 4, 0), recipe, recipe.steps, 208.0, Ranks())
    given, seen = iter(scores), []

    def validate(network: nn.Module) -> float:
        assert not network.training
        seen.append(copy_of(network.state_dict()))
        return next(given)

    learner = Supervised(net, "bce")  # type: ignore[arg-type]
    outcome = fit(
        learner, batches, recipe, recipe.steps, folder / "x.pt", "", validate=validate, validate_every=1, progress=False
    )
    return outcome, seen


def test_the_best_state_is_a_true_copy_and_patience_ends_the_run(small_table: WindowTable, tmp_path: Path) -> None:
    outcome, seen = scored([0.5, 0.8, 0.7, 0.79, 0.9], small_table, tmp_path, patience=2)
    assert outcome.step == 4
    assert outcome.finished
    assert outcome.score == 0.8
    assert all(torch.equal(outcome.state[key], value) for key, value in seen[1].items())
    assert not all(torch.equal(outcome.state[key], value) for key, value in seen[-1].items())
    assert [entry["score"] for entry in outcome.history if "score" in entry] == [0.5, 0.8, 0.7, 0.79]


def test_a_validation_leaves_the_run_as_it_was(small_table: WindowTable, tmp_path: Path) -> None:
    watched = replace(RECIPE, patience=99, validate_every=1)
    unwatched = replace(RECIPE, patience=0)
    split = split_of(small_table, ~small_table.held_out, 3, 0, validate=True)
    for name, recipe in (("a", watched), ("b", unwatched)):
        run(recipe, small_table, split, tmp_path / name, progress=False)
    a, b = (load(tmp_path / name / CHECKPOINT)["net"] for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_what_cannot_go_on_says_so(small_table: WindowTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="f16 needs a GPU"):
        train(replace(RECIPE, precision="f16"), small_table, tmp_path / "a")
    wild = replace(RECIPE, optimiser=Optimiser(1e30))
    with pytest.raises(ValueError, match="lower the recipe's rate"):
        train(wild, small_table, tmp_path / "b")


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rate_rises_and_ends_as_it_should(schedule: Any) -> None:
    settings = Optimiser(0.01, schedule=schedule, warm_up=0.1)
    rates = [learning_rate(settings, step, 200) for step in range(200)]
    assert max(rates) == pytest.approx(0.01)
    assert rates[:20] == sorted(rates[:20])
    assert rates[-1] == pytest.approx(0.01) if schedule == "constant" else rates[-1] < 1e-5
    assert learning_rate(Optimiser(0.01), 0, 5) == 0.01
