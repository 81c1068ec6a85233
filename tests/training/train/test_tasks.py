"""The truth of each task, and how well outputs fit it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.data import WindowTable
from training.models.kinds import DIAGNOSES
from training.train.tasks import fit_of, is_known, outputs_of, truth_of


def with_targets(table: WindowTable, **targets: list[float]) -> WindowTable:
    n = len(table)
    return replace(table, targets={name: np.resize(np.array(v, np.float32), n) for name, v in targets.items()})


def test_diagnoses_are_the_labels(small_table: WindowTable) -> None:
    assert truth_of(small_table, DIAGNOSES) is small_table.labels
    assert len(outputs_of(DIAGNOSES)) == 77


def test_a_low_ejection_fraction_is_cut_as_the_paper_cuts_it(small_table: WindowTable) -> None:
    table = with_targets(small_table, lvef=[35, 40, 40.5, 49.9, 50, float("nan")])
    assert truth_of(table, "lvef_40")[:6, 0].tolist() == [1, 1, 0, 0, 0, -1]
    assert truth_of(table, "lvef_50")[:6, 0].tolist() == [1, 1, 1, 1, 0, -1]
    number = truth_of(table, "lvef")
    assert number.dtype == np.float32
    assert is_known(number)[:6, 0].tolist() == [True] * 5 + [False]
    both = with_targets(small_table, lvef=[35.0], lvef_40=[0.0])
    assert not truth_of(both, "lvef_40").any(), "a target of the task's own name goes first"


def test_other_targets_are_yes_or_no(small_table: WindowTable) -> None:
    table = with_targets(small_table, brugada=[0, 1, float("nan")], lqts=[0, 2])
    assert truth_of(table, "brugada")[:3, 0].tolist() == [0, 1, -1]
    assert outputs_of("brugada") == ("brugada",)
    with pytest.raises(ValueError, match="other than 0 and 1"):
        truth_of(table, "lqts")
    with pytest.raises(ValueError, match="no target 'lvef', which 'lvef_40' needs; it has: brugada, lqts"):
        truth_of(table, "lvef_40")


def test_fit_is_the_mean_auroc_over_what_can_be_scored() -> None:
    truth = np.array([[1, -1, 1], [0, -1, 1], [1, 1, 1], [0, 0, 1]], np.int8)
    outputs = np.array([[2, 9, 0], [1, -9, 0], [3, 0, 0], [2.5, 1, 0]], np.float32)
    assert fit_of(outputs, truth) == pytest.approx((0.75 + 0.0) / 2)
    assert np.isnan(fit_of(outputs[:1], truth[:1]))
    assert fit_of(np.array([[50.0], [60]], np.float32), np.array([[53.0], [np.nan]], np.float32)) == -9.0
