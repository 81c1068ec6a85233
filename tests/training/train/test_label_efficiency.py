"""Nested shares, the same test patients, every cell kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.data import WindowTable
from training.models.kinds import DIAGNOSES
from training.train.folds import split_of
from training.train.label_efficiency import (
    Arm,
    Cell,
    label_efficiency,
    patients_for,
    plot,
    scored_outputs,
    table_of,
)
from training.train.recipes import smoke, smoke_fine_tune, smoke_pretrain
from training.train.run import network_of
from training.train.tasks import truth_of


def with_finding(table: WindowTable) -> WindowTable:
    there = np.array([int(name[1:]) % 3 == 0 for name in table.patient])
    return replace(table, targets={"finding": there.astype(np.float32)})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_smaller_share_is_part_of_a_larger_one(small_table: WindowTable, seed: int) -> None:
    table = with_finding(small_table)
    truth, train = truth_of(table, "finding"), np.flatnonzero(~table.held_out)
    before: set[int] = set()
    for share in (0.01, 0.3, 0.6, 1.0):
        use = patients_for(table, truth, train, share, seed)
        for kind in (0, 1):
            assert len(np.unique(table.patient[use][truth[use, 0] == kind])) >= 2
        assert before <= set(use.tolist())
        assert set(table.patient[use]).isdisjoint(set(table.patient[np.setdiff1d(train, use)]))
        before = set(use.tolist())
    assert before == set(train.tolist())
    assert not np.array_equal(patients_for(table, truth, train, 0.3, seed), patients_for(table, truth, train, 0.3, 99))


def test_only_outputs_with_enough_test_patients_are_scored(small_table: WindowTable) -> None:
    truth = truth_of(small_table, DIAGNOSES)
    every = np.arange(len(small_table))
    assert scored_outputs(small_table, truth, every, 5) == [0, 15, 19]
    assert scored_outputs(small_table, truth, every, 6) == [19]


def test_an_interrupted_experiment_goes_on(small_table: WindowTable, tmp_path: Path) -> None:
    table = with_finding(small_table)
    split = split_of(table, ~table.held_out, 2, 0, validate=False)
    tiny = {"steps": 2, "checkpoint_every": 2, "leads": "all", "prevalence_start": True}
    arms = (
        Arm("SSL", replace(smoke_fine_tune(), **tiny), network_of(smoke_pretrain())),  # type: ignore[arg-type]
        Arm("SL", replace(smoke(), **tiny)),  # type: ignore[arg-type]
    )

    def go(shares: list[float], arms: tuple[Arm, ...] = arms) -> list[Cell]:
        return label_efficiency(
            table, split, arms, tmp_path, task="finding", shares=shares, seeds=[0], least_positive=2, progress=False
        )

    first = go([0.1])
    both = go([0.1, 1.0])
    assert both[:2] == first
    assert {(cell.arm, cell.share) for cell in both} == {("SSL", 0.1), ("SL", 0.1), ("SSL", 1.0), ("SL", 1.0)}
    assert all(0 <= cell.score <= 1 for cell in both)
    assert both[-1].patients > both[0].patients
    assert not (tmp_path / "running").exists()
    with pytest.raises(ValueError, match="another experiment"):
        go([0.1], arms[:1])
    with pytest.raises(ValueError, match="take another fold"):
        label_efficiency(table, split, arms, tmp_path / "x", task="finding", shares=[1], seeds=[0], least_positive=99)
    text = table_of(both)
    assert text.count("\n") == 2
    assert "100%" in text
    plot(both, tmp_path / "plot.svg", "a finding")
    again = (tmp_path / "plot.svg").read_bytes()
    assert b"<svg" in again


def test_patients_of_whom_nothing_is_known_are_in_no_share(small_table: WindowTable, tmp_path: Path) -> None:
    table = with_finding(small_table)
    finding = table.targets["finding"].copy()
    unknown = [name for name in np.unique(table.patient) if int(name[1:]) % 3 == 1]
    finding[np.isin(table.patient, unknown)] = np.nan
    table = replace(table, targets={"finding": finding})
    split = split_of(table, ~table.held_out, 2, 0, validate=False)
    tiny = replace(smoke(), steps=1, checkpoint_every=1)
    arms = (Arm("SL", tiny),)
    cells = label_efficiency(
        table, split, arms, tmp_path, task="finding", shares=(1.0,), seeds=(0,), least_positive=1, progress=False
    )
    known = set(table.patient[split.train]) - set(unknown)
    assert 0 < cells[0].patients == len(known) < len(set(table.patient[split.train]))
