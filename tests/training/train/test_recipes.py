"""Recipes: the whole of a run in one value, the published ones with the published numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.models.kinds import DIAGNOSES, SLConfig, SSLConfig, released
from training.train.recipes import RECIPES, SMALL, demo, recipe_named, smoke, smoke_pretrain
from training.train.run import network_of
from training.train.tasks import outputs_of


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_found_by_its_name_and_makes_a_network(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert recipe == RECIPES[name]()
    assert (recipe.steps > 0) != (recipe.epochs > 0)
    assert recipe.checkpoint_every > 0
    assert recipe.network.labels == len(outputs_of(recipe.task))
    assert recipe.pretraining == (recipe.task == "pretraining")
    assert recipe.batch % recipe.accumulate == 0
    assert isinstance(recipe.network, SLConfig) == (name.startswith("sl-") or name in {"demo", "smoke"})


def test_published_pretraining() -> None:
    recipe = RECIPES["ssl-pretrain"]()
    o, net = recipe.optimiser, recipe.network
    assert (o.rate, o.betas, o.eps, o.weight_decay, o.schedule) == (5e-5, (0.9, 0.98), 1e-6, 0.01, "constant")
    assert (recipe.batch, recipe.epochs, recipe.precision, recipe.leads) == (2052, 200, "f16", "random")
    assert isinstance(net, SSLConfig)
    assert (net.input_dropout, net.feature_gradient, net.dropout, net.attention_dropout) == (0.1, 0.1, 0.1, 0.1)
    assert net.activation_dropout == 0
    m = recipe.masking
    assert (m.share, m.span, m.least, m.negatives, recipe.temperature) == (0.65, 10, 2, 100, (2.0, 0.5, 0.999995))
    with torch.device("meta"):
        assert recipe.codebook is not None
        assert recipe.codebook.groups * recipe.codebook.codes == 640


def test_published_fine_tuning() -> None:
    recipe = RECIPES["ssl-77"]()
    assert (recipe.batch, recipe.epochs, recipe.patience, recipe.loss) == (128, 100, 30, "bce_positives")
    assert (recipe.optimiser.rate, recipe.optimiser.eps) == (5e-5, 1e-8)
    assert replace(SSLConfig(), labels=77) == recipe.network, "dropout 0, activation .1, the tokeniser frozen"
    losses = {name: RECIPES[f"ssl-{name}"]().loss for name in ("lvef-40", "lvef-50", "af-5y", "lvef")}
    assert losses == {"lvef-40": "bce_positives", "lvef-50": "bce_positives", "af-5y": "focal", "lvef": "mse"}


def test_published_sl_fine_tuning() -> None:
    recipe = RECIPES["sl-af-5y"]()
    assert (recipe.batch, recipe.epochs, recipe.patience, recipe.loss) == (254, 50, 5, "focal")
    assert (recipe.optimiser.rate, recipe.optimiser.schedule) == (1e-3, "cosine")
    assert RECIPES["sl-77"]().network == released()


def test_bedside_recipes_differ_in_their_leads_alone() -> None:
    for family in ("sl", "ssl"):
        base = RECIPES[f"{family}-77"]()
        for leads in ("bedside", "limb", "two"):
            assert RECIPES[f"{family}-77-{leads}"]() == replace(base, name=f"{family}-77-{leads}", leads=leads)  # type: ignore[arg-type]


def test_the_demonstration_trains_the_released_architecture() -> None:
    network = demo().network
    assert isinstance(network, SLConfig)
    assert replace(network, drop_path=released().drop_path) == released()
    assert demo().folds >= 3
    assert demo().task == DIAGNOSES


def test_small_ones_are_small() -> None:
    def size(name: str) -> int:
        return sum(p.numel() for p in network_of(RECIPES[name]()).parameters())

    assert smoke().steps < 10
    assert smoke_pretrain().steps < 10
    assert max(size("smoke"), size("smoke-pretrain"), size("smoke-ssl")) < 30_000
    assert size("demo-ssl") == pytest.approx(2.2e6, rel=0.05), SMALL


def test_the_command_line_changes_a_recipe() -> None:
    recipe = recipe_named("sl-77", precision="bf16", leads="two", seed=0, steps=5, batch=8, accumulate=2)
    assert (recipe.precision, recipe.leads, recipe.seed, recipe.steps, recipe.batch, recipe.accumulate) == (
        "bf16", "two", 0, 5, 8, 2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="take one of ssl-pretrain, ssl-77"):
        recipe_named("none")
    with pytest.raises(ValueError, match="no --precision 'int8'"):
        recipe_named("sl-77", precision="int8")
    with pytest.raises(ValueError, match="no --leads 'five'"):
        recipe_named("sl-77", leads="five")
