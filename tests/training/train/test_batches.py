"""The tensors of a step depend on the step alone, whoever holds which part of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.core.labels import index_of
from training.data import WindowTable
from training.train.batches import PretrainingBatches, SupervisedBatches, prefetched, rows_of
from training.train.distributed import Ranks
from training.train.recipes import TINY, Recipe, smoke, smoke_pretrain
from training.train.sampling import Shuffled

RECIPE = replace(smoke(), short_seconds=1.0)
CPU = torch.device("cpu")


def supervised(table: WindowTable, recipe: Recipe = RECIPE, ranks: Ranks | None = None) -> SupervisedBatches:
    sampler = Shuffled(np.flatnonzero(~table.held_out), recipe.batch, recipe.seed)
    return SupervisedBatches(table, table.labels, sampler, recipe, recipe.steps, 1 / 0.0048, ranks or Ranks())


def pretraining(table: WindowTable, recipe: Recipe, ranks: Ranks | None = None) -> PretrainingBatches:
    sampler = Shuffled(np.flatnonzero(~table.held_out), recipe.batch, recipe.seed)
    return PretrainingBatches(table, sampler, recipe, TINY, 1.0, ranks or Ranks())


def test_a_batch_depends_on_its_step_alone(small_table: WindowTable) -> None:
    late, again = supervised(small_table)(5, 0), supervised(small_table)(5, 0)
    assert torch.equal(late["x"], again["x"])
    assert torch.equal(late["truth"], again["truth"])
    assert late["x"].shape == (RECIPE.batch, 12, 500)
    early = supervised(small_table)(0, 0)
    assert early["x"].shape == (RECIPE.batch, 12, 250)
    beats = early["truth"][:, index_of("Premature ventricular complex")]
    assert not torch.any(beats == 1), "a crop may lack the beat"


def test_the_gain_is_the_network_s(small_table: WindowTable) -> None:
    recipe = replace(RECIPE, leads="all", disturb=False, short_share=0.0)
    found = supervised(small_table, recipe)(0, 0)["x"].numpy()
    expected, _ = small_table.batch(Shuffled(np.flatnonzero(~small_table.held_out), 4, recipe.seed)(0))
    np.testing.assert_allclose(found, expected / 0.0048, rtol=1e-6)


def test_micro_batches_and_ranks_divide_the_rows(small_table: WindowTable) -> None:
    recipe = replace(RECIPE, batch=8, leads="all", disturb=False, short_share=0.0)
    whole = supervised(small_table, recipe)(2, 0)["x"]
    divided = replace(recipe, accumulate=2)
    parts = [supervised(small_table, divided, Ranks(rank, 2))(2, micro)["x"] for micro in range(2) for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(ValueError, match="does not divide by 3 micro-batches and 1 ranks"):
        rows_of(8, 0, 3, Ranks())


def test_two_halves_of_a_recording_follow_each_other(small_table: WindowTable) -> None:
    recipe = replace(smoke_pretrain(), leads="all")
    batch = pretraining(small_table, recipe)(1, 0)
    assert batch["x"].shape == (8, 12, 250)
    index = Shuffled(np.flatnonzero(~small_table.held_out), 4, recipe.seed)(1)
    windows, _ = small_table.batch(index)
    np.testing.assert_array_equal(batch["x"][0::2], windows[:, :, :250])
    np.testing.assert_array_equal(batch["x"][1::2], windows[:, :, 250:])
    mask = batch["mask"].sum(1)
    assert batch["mask"].shape == (8, 15)
    assert (mask == mask[0]).all()


def test_segments_lose_leads_by_themselves_and_ranks_share_the_masks(small_table: WindowTable) -> None:
    recipe = replace(smoke_pretrain(), batch=16)
    whole = pretraining(small_table, recipe)(0, 0)
    left, right = (pretraining(small_table, recipe, Ranks(rank, 2))(0, 0) for rank in range(2))
    assert torch.equal(torch.cat([left["mask"], right["mask"]]), whole["mask"])
    assert left["seed"] != right["seed"]
    there = whole["x"].abs().amax(-1) > 0
    assert (there[0::2] != there[1::2]).any(), "each segment has leads of its own"
    assert 0.3 < there[:, 1].float().mean() < 0.7


def test_the_next_batch_is_the_right_one(small_table: WindowTable) -> None:
    batches = supervised(small_table)
    made = list(prefetched(batches, 2, 5, 1, CPU))
    assert len(made) == 3
    for step, micro_batches in enumerate(made, start=2):
        assert torch.equal(micro_batches[0]["x"], batches(step, 0)["x"])
    assert list(prefetched(batches, 3, 3, 1, CPU)) == []
