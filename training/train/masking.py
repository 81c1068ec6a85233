"""Which tokens of a segment are masked in pretraining, and which stand as negatives against each."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.train.recipes import Masking


def token_masks(segments: int, tokens: int, masking: Masking, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(segments, tokens): spans that start anywhere without replacement; every row trimmed to as many as the least.

    The number of spans, ⌊share · tokens / span + U[0, 1)⌋, is drawn once for the batch.
    """
    spans = max(masking.least, int(masking.share * tokens / masking.span + rng.random()))
    starts = tokens - masking.span
    if starts <= spans:
        raise ValueError(f"{tokens} tokens are too few for {spans} spans of {masking.span}; give longer segments")
    first = np.argsort(rng.random((segments, starts)), axis=1)[:, :spans]  # without replacement, row by row
    masked = np.zeros((segments, tokens), bool)
    for offset in range(masking.span):
        np.put_along_axis(masked, first + offset, values=True, axis=1)
    count = int(masked.sum(axis=1).min())
    # Of each row's masked tokens the ones with the highest keys stay.
    keys = np.where(masked, rng.random(masked.shape), -1.0)
    kept = np.argpartition(-keys, count - 1, axis=1)[:, :count]
    trimmed = np.zeros_like(masked)
    np.put_along_axis(trimmed, kept, values=True, axis=1)
    return trimmed


def draw_negatives(segments: int, masked: int, count: int, generator: torch.Generator) -> Tensor:
    """(segments, masked, count) int64 on the generator's device: for each masked token others of its row."""
    shape = (segments, masked, count)
    drawn = torch.randint(masked - 1, shape, generator=generator, device=generator.device)
    itself = torch.arange(masked, device=generator.device)[None, :, None]
    return drawn + (drawn >= itself)
