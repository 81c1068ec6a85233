"""A run's folds: how they are named, and that no patient is in two parts of one."""

from __future__ import annotations

import numpy as np
import pytest

from training.data import WindowTable
from training.train.folds import folds_named, split_of


def test_folds_are_named() -> None:
    assert folds_named("each,all", 3) == ["0", "1", "2", "all"]
    assert folds_named("2, 0,2", 3) == ["2", "0"]
    with pytest.raises(ValueError, match="there is no fold '3'; take 0 to 2, each or all"):
        folds_named("3", 3)


@pytest.mark.parametrize("test", [None, 0, 1, 2])
@pytest.mark.parametrize("validate", [False, True])
def test_no_patient_is_in_two_parts_and_none_held_out_in_any(
    small_table: WindowTable, test: int | None, validate: bool
) -> None:
    split = split_of(small_table, np.ones(len(small_table), bool), 3, test, validate)
    parts = [set(small_table.patient[index]) for index in (split.train, split.validation, split.test)]
    assert parts[0]
    assert bool(parts[1]) is validate
    assert bool(parts[2]) is (test is not None)
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set.union(*parts) == set(small_table.patient[~small_table.held_out])


def test_every_patient_is_tested_once(small_table: WindowTable) -> None:
    use = small_table.patient != "p03"
    tests = np.concatenate([split_of(small_table, use, 3, fold, validate=False).test for fold in range(3)])
    assert sorted(tests) == list(np.flatnonzero(use & ~small_table.held_out))
