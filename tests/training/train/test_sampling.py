"""Which windows a step sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.labels import index_of
from training.data import WindowTable
from training.train.sampling import Balanced, Shuffled, sampling_weights


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 1000))
def test_every_window_comes_once_an_epoch(n: int, batch: int, seed: int) -> None:
    index = np.arange(100, 100 + n)
    sampler = Shuffled(index, batch, seed)
    stream = np.concatenate([sampler(step) for step in range(3 * n // batch + 1)])
    for epoch in range(len(stream) // n):
        assert set(stream[epoch * n : (epoch + 1) * n]) == set(index)
    step = len(stream) // batch // 2
    assert np.array_equal(Shuffled(index, batch, seed)(step), sampler(step)), "any step, in any order"


def test_nothing_to_draw_from_is_said(small_table: WindowTable) -> None:
    nothing = np.empty(0, np.int64)
    with pytest.raises(ValueError, match="no window to train on"):
        Shuffled(nothing, 4, 0)
    with pytest.raises(ValueError, match="no labelled window"):
        Balanced(small_table, small_table.labels, nothing, 4, 0)


def test_patients_of_a_label_weigh_the_same() -> None:
    labels = np.full((10, 77), -1, np.int8)
    labels[:8, index_of("Afib")] = 1  # p0 has seven windows with it, p1 one
    patients = np.array(["p0"] * 7 + ["p1"] + ["p2"] * 2)
    weights = sampling_weights(labels, patients, {})
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:7].sum() == pytest.approx(weights[7])
    more = sampling_weights(labels, patients, {index_of("Afib"): 3.0})
    assert more[:8].sum() / more[8:].sum() == pytest.approx(3 * weights[:8].sum() / weights[8:].sum())


def test_a_balanced_batch_has_its_share_of_each_kind(small_table: WindowTable) -> None:
    index = np.flatnonzero(~small_table.held_out)
    drawn = Balanced(small_table, small_table.labels, index, 16, 0, twelve_lead_share=0.25)(3)
    assert np.sum(~small_table.continuous[drawn]) == 4
    only = index[small_table.continuous[index]]
    assert small_table.continuous[Balanced(small_table, small_table.labels, only, 16, 0)(3)].all()
    assert len(Balanced(small_table, small_table.labels, only, 16, 0)(3)) == 16
