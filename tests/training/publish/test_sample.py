"""The windows that engines are held against: some of everything, whole recordings, only what the agent would offer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.bundle.manifest import Label, Quantity
from agent.core.ecg import LEADS, Lead
from agent.core.labels import LABELS, index_of
from training.data import WindowTable
from training.publish.sample import choose, truth

AFIB, PVC = "Afib", "Premature ventricular complex"


@pytest.fixture(scope="module")
def table(make_table: Callable[..., WindowTable]) -> WindowTable:
    """Ninety windows of a sample: 30 of ECGs, 60 of ten continuous recordings of 4 to 8 windows, out of order."""
    rng = np.random.default_rng(5)
    lengths = [4, 5, 6, 7, 8, 4, 5, 6, 7, 8]
    record = np.concatenate([[f"e{i}" for i in range(30)], np.repeat([f"r{i}" for i in range(10)], lengths)])
    n = len(record)
    continuous = np.arange(n) >= 30
    start = np.concatenate([np.zeros(30), *(5.0 * np.arange(m) for m in lengths)])
    labels = np.zeros((n, len(LABELS)), np.int8)
    labels[[3, 17], index_of(PVC)] = 1
    labels[np.isin(record, ["r0", "r4"]), index_of(AFIB)] = 1
    mask = np.ones((n, 12), bool)
    mask[record == "r9", LEADS.index(Lead.II)] = False
    order = rng.permutation(n)
    return make_table(
        rng.normal(0, 0.3, (n, 12, 10)).astype(np.float32),
        mask[order],
        labels[order],
        np.char.add("p", record[order]),
        sources=("ecgs", "holter"),
        source=continuous[order].astype(np.int16),
        record=record[order],
        continuous=continuous[order],
        start=start[order].astype(np.float32),
    )


@settings(max_examples=40, deadline=None)
@given(windows=st.integers(1, 120), hours=st.floats(0.0, 0.1), seed=st.integers(0, 99), alerting=st.booleans())
def test_each_once_whole_and_in_order(
    table: WindowTable, windows: int, hours: float, seed: int, alerting: bool
) -> None:
    found = choose(table, (Lead.II,), [AFIB] if alerting else [], windows=windows, hours=hours, seed=seed)
    assert np.array_equal(found.index, np.unique(found.index))
    assert table.lead_mask[found.index, LEADS.index(Lead.II)].all()
    assert len(found.index) >= min(windows, 82), "all that can be had, but for the recording without lead II"
    if not alerting:
        assert not found.recordings
    for one in found.recordings:
        places = found.index[one]
        (number,) = set(table.recording[places].tolist())
        assert len(places) == np.sum(table.recording == number), "the whole of it"
        assert (np.diff(table.start[places]) > 0).all()
        assert table.continuous[places].all()
    spent = sum(map(len, found.recordings)) * table.step / 3600
    assert spent <= hours or len(found.recordings) == 1
    again = choose(table, (Lead.II,), [AFIB] if alerting else [], windows=windows, hours=hours, seed=seed)
    assert np.array_equal(again.index, found.index)


def test_a_rare_finding_is_there_as_often_as_it_can_be(table: WindowTable) -> None:
    for seed in range(10):
        found = choose(table, (), [], windows=8, hours=0.0, seed=seed)
        assert len(found.index) == 8
        assert (table.labels[found.index, index_of(PVC)] == 1).sum() == 2, "both that there are, of thirty ECGs"
        assert (table.labels[found.index, index_of(AFIB)] == 1).sum() == 2


def test_recordings_with_and_without_an_episode_take_turns(table: WindowTable) -> None:
    for seed in range(10):
        found = choose(table, (Lead.II,), [AFIB], windows=1, hours=1.0, seed=seed)
        there = table.labels[found.index, index_of(AFIB)] == 1
        episode = [bool(there[one].any()) for one in found.recordings[:4]]
        assert episode == [True, False, True, False]


def test_a_lead_that_can_be_computed_is_there(table: WindowTable) -> None:
    limb = np.isin(np.arange(12), [LEADS.index(Lead.I), LEADS.index(Lead.II)])
    found = choose(
        replace(table, lead_mask=np.broadcast_to(limb, table.lead_mask.shape)),
        (Lead.AVF,),
        [],
        windows=200,
        hours=0.0,
    )
    assert len(found.index) == len(table)
    none = choose(
        replace(table, lead_mask=np.broadcast_to(limb, table.lead_mask.shape)), (Lead.V1,), [], windows=9, hours=0.0
    )
    assert not len(none.index)


def test_truth_is_by_name_and_a_biomarker_s_from_its_target(table: WindowTable) -> None:
    lvef = np.linspace(20, 70, len(table)).astype(np.float32)
    lvef[5] = np.nan
    labels = (
        Label(name="LVEF ≤ 40", severity="pathological"),
        Label(name=AFIB, severity="pathological"),
        Label(name="something", severity="pathological"),
        Label(name="LVEF", severity="normal", quantity=Quantity(unit="%", scale=100.0)),
    )
    index = np.arange(0, len(table), 5)
    found = truth(replace(table, targets={"lvef": lvef}), index, labels)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found[:, 0], np.where(np.isnan(lvef), -1, lvef <= 40)[index])
    np.testing.assert_array_equal(found[:, 1], table.labels[index, index_of(AFIB)])
    assert (found[:, 2:] == -1).all(), "nobody knows, or it is a number"
    assert (truth(table, index, labels)[:, 0] == -1).all(), "no such target"
