"""Families, tasks and sizes agree with one another and with the networks that are built of them."""

from __future__ import annotations

from typing import get_args

import pytest

from agent.core.labels import LABEL_NAMES
from training.models.kinds import DIAGNOSES, NAMES, TASKS, UNITS_PER_MV, ConvBlock, Family, released, stage


def test_every_family_has_a_name_and_every_network_its_units() -> None:
    assert tuple(NAMES) == get_args(Family)
    assert set(UNITS_PER_MV) == set(NAMES) - {"bert"}


def test_tasks_name_their_outputs() -> None:
    assert TASKS[DIAGNOSES] == LABEL_NAMES
    assert all(len(set(outputs)) == len(outputs) for outputs in TASKS.values())


def test_a_stage_changes_its_width_and_rate_once() -> None:
    first, *others = stage(12, 3, 5, 2, expansion=2, width_in=8)
    assert first == ConvBlock(12, 5, 2, 16)
    assert others == [ConvBlock(12, 5, 1, 24)] * 2
    assert stage(12, 1, 3, 1, expansion=None, width_in=8) == [ConvBlock(12, 3)]


@pytest.mark.parametrize("labels", [1, 77])
def test_the_released_network_halves_time_four_times(labels: int) -> None:
    config = released(labels)
    assert config.labels == labels
    assert [block.stride for block in config.blocks].count(2) == 4
    assert [sum(block.expanded is None for block in config.blocks), len(config.blocks)] == [16, 34]
