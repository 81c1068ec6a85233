"""Hidden tokens and negatives, by the published rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.train.masking import draw_negatives, token_masks
from training.train.recipes import Masking


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([78, 100, 156]))
def test_every_row_hides_as_many(seed: int, segments: int, tokens: int) -> None:
    mask = token_masks(segments, tokens, Masking(), np.random.default_rng(seed))
    count = mask.sum(axis=1)
    assert (count == count[0]).all()
    spans = int(0.65 * tokens / 10) + 1
    assert 10 < count[0] <= 10 * spans, "two spans at least never coincide"


def test_spans_are_whole_but_for_the_trimming() -> None:
    mask = token_masks(1, 78, Masking(), np.random.default_rng(0))[0]  # one row: nothing is trimmed
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    lengths = edges[1::2] - edges[::2]
    assert (lengths >= 10).all()


def test_about_half_is_hidden_as_in_the_reference() -> None:
    """Five or six spans of ten among 78 tokens, overlapping, trimmed to the least row of a batch of six: 28 in the
    fixture."""
    counts = [token_masks(6, 78, Masking(), np.random.default_rng(i))[0].sum() for i in range(300)]
    assert 22 <= np.percentile(counts, 2.5) <= 28 <= np.percentile(counts, 97.5) <= 40


def test_too_short_a_segment_is_refused() -> None:
    with pytest.raises(ValueError, match="give longer segments"):
        token_masks(2, 12, Masking(), np.random.default_rng(0))


def test_negatives_are_others_of_the_same_row_and_all_of_them() -> None:
    drawn = draw_negatives(3, 20, 400, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 20, 400)
    for row in drawn:
        for itself, others in enumerate(row):
            assert set(others.tolist()) == set(range(20)) - {itself}
