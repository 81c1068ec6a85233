"""Recipes: the whole of a run in one value."""

from __future__ import annotations

from dataclasses import replace

import pytest

from training.models.sl import DeepECGSL, released
from training.recipes import RECIPES, demo, smoke


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_found_by_its_name_and_makes_a_network(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert recipe == RECIPES[name]()
    assert 0 < recipe.checkpoint_every <= recipe.steps
    assert sum(p.numel() for p in DeepECGSL(recipe.network).parameters()) > 0


def test_the_demonstration_trains_the_released_architecture() -> None:
    assert replace(demo().network, drop_path=released().drop_path) == released()
    assert demo().folds >= 3


def test_the_smallest_one_is_small() -> None:
    assert smoke().steps < 10
    assert sum(p.numel() for p in DeepECGSL(smoke().network).parameters()) < 20_000
