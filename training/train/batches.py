"""The tensors of a step: windows cut, disturbed and reduced as the recipe says, the same ones at every start.

All that a step draws comes from generators seeded by (recipe, step), so a run that is resumed from a checkpoint goes on
exactly as one that was never stopped. A batch is divided among micro-batches and ranks by its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from agent.core.ecg import FloatArray
from agent.core.labels import index_of
from training.data import WindowTable
from training.models.kinds import DIAGNOSES, SSLConfig
from training.models.ssl import token_count
from training.train.augment import disturb, kept_leads, reduce_leads
from training.train.distributed import Ranks
from training.train.masking import token_masks
from training.train.recipes import Recipe
from training.train.sampling import Sampler
from training.train.tasks import Truth

Batch = dict[str, Tensor]

TRANSIENT = tuple(
    index_of(name)
    for name in ("Premature ventricular complex", "Premature atrial complex", "Ventricular tachycardia", "Polymorph")
)
"""What is somewhere in a window need not be in a crop of it."""


class Batches(Protocol):
    """Random access to the batch of any step."""

    def __call__(self, step: int, micro: int) -> Batch:
        """This rank's part of one micro-batch of one step."""
        ...


def rows_of(batch: int, micro: int, accumulate: int, ranks: Ranks) -> slice:
    """This rank's rows of a micro-batch, of a step's ``batch`` rows."""
    size = batch // (accumulate * ranks.count)
    if size * accumulate * ranks.count != batch:
        raise ValueError(
            f"a batch of {batch} does not divide by {accumulate} micro-batches and {ranks.count} ranks; change one"
        )
    first = (micro * ranks.count + ranks.rank) * size
    return slice(first, first + size)


class SupervisedBatches:
    """``x`` (B, 12, T) in network units and ``truth`` (B, L)."""

    def __init__(
        self, table: WindowTable, truth: Truth, sampler: Sampler, recipe: Recipe, steps: int, gain: float, ranks: Ranks
    ) -> None:
        self.table, self.truth, self.sampler, self.recipe = table, truth, sampler, recipe
        self.short_until = recipe.short_share * steps
        self.gain, self.ranks = np.float32(gain), ranks

    def __call__(self, step: int, micro: int) -> Batch:  # noqa: D102
        recipe, rate = self.recipe, self.table.preprocessing.rate
        rows = rows_of(recipe.batch, micro, recipe.accumulate, self.ranks)
        index = self.sampler(step)[rows]
        rng = np.random.default_rng([recipe.seed, step, rows.start])
        x, _ = self.table.batch(index)
        truth = self.truth[index].copy()
        if step < self.short_until:
            x = _crops(x, round(recipe.short_seconds * rate), rng)
            if recipe.task == DIAGNOSES:
                part = truth[:, TRANSIENT]
                truth[:, TRANSIENT] = np.where(part == 1, -1, part)
        reduce_leads(x, recipe.leads, rng)
        if recipe.disturb:
            disturb(x, rng, rate)
        x *= self.gain
        return {"x": torch.from_numpy(x), "truth": torch.from_numpy(truth)}


def _crops(x: FloatArray, samples: int, rng: np.random.Generator) -> FloatArray:
    """(B, 12, samples): a stretch of each window, anywhere in it; the whole window where it is no longer than that."""
    samples = min(samples, x.shape[2])
    starts = rng.integers(0, x.shape[2] - samples + 1, len(x))
    return np.stack([window[:, s : s + samples] for window, s in zip(x, starts, strict=True)])


class PretrainingBatches:
    """``x`` (2R, 12, T/2), the halves of R recordings' windows, one after the other; ``mask`` (2R, N); ``seed`` ().

    The batch of a recipe counts recordings, as the published one does.
    """

    def __init__(
        self, table: WindowTable, sampler: Sampler, recipe: Recipe, config: SSLConfig, gain: float, ranks: Ranks
    ) -> None:
        self.table, self.sampler, self.recipe, self.ranks = table, sampler, recipe, ranks
        self.convolutions, self.gain = len(config.convolutions), np.float32(gain)

    def __call__(self, step: int, micro: int) -> Batch:  # noqa: D102
        recipe = self.recipe
        rows = rows_of(recipe.batch, micro, recipe.accumulate, self.ranks)
        index = self.sampler(step)[rows]
        x, _ = self.table.batch(index)
        r, leads, t = x.shape
        half = t // 2
        x = np.ascontiguousarray(x[:, :, : 2 * half].reshape(r, leads, 2, half).transpose(0, 2, 1, 3))
        x = x.reshape(2 * r, leads, half)
        # Masks are drawn for the whole micro-batch, so that every rank hides as many tokens in each row.
        rng = np.random.default_rng([recipe.seed, step, micro])
        every = 2 * recipe.batch // recipe.accumulate
        mask = token_masks(every, int(token_count(half, self.convolutions)), recipe.masking, rng)
        mine = slice(2 * r * self.ranks.rank, 2 * r * (self.ranks.rank + 1))
        there = np.any(x != 0, axis=2)
        rng = np.random.default_rng([recipe.seed, step, micro, self.ranks.rank])
        x[there & ~kept_leads(there, recipe.leads, rng)] = 0
        x *= self.gain
        seed = int(rng.integers(2**62))
        return {"x": torch.from_numpy(x), "mask": torch.from_numpy(mask[mine]), "seed": torch.tensor(seed)}


def prefetched(batches: Batches, first: int, last: int, accumulate: int, device: torch.device) -> Iterator[list[Batch]]:
    """The micro-batches of each step, the next step's made by a thread while this one's are computed with."""

    def make(step: int) -> list[Batch]:
        made = [batches(step, micro) for micro in range(accumulate)]
        return [{name: x.pin_memory() for name, x in b.items()} for b in made] if device.type == "cuda" else made

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make, first) if first < last else None
        for step in range(first, last):
            assert waiting is not None
            made = waiting.result()
            if step + 1 < last:
                waiting = pool.submit(make, step + 1)
            yield [{name: x.to(device, non_blocking=True) for name, x in batch.items()} for batch in made]
