"""Recipes: each a function that returns the whole configuration of a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from training.models.sl import Block, SLConfig, released


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a run depends on, beside the data and the fold."""

    name: str
    network: SLConfig
    seed: int = 20261123
    steps: int = 900
    batch: int = 32
    short_share: float = 0.7
    """Share of the steps, at the start, that see crops of ``short_seconds``: twice as many for the same time
    (progressive learning, Tan and Le, EfficientNetV2, 2021). The rest sees whole windows."""
    short_seconds: float = 5.0
    peak_rate: float = 3e-3
    warm_up: float = 0.05
    """Share of the steps over which the learning rate rises to its peak; then it falls as half a cosine to zero."""
    weight_decay: float = 0.02
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.99
    """Decay of the running mean of the weights, which is what a run gives: no state is chosen by its score."""
    twelve_lead_share: float = 0.5
    """Of a batch; the rest are windows of continuous two-lead recordings."""
    emphasis: Mapping[str, float] = field(default_factory=lambda: {"Afib": 3.0})
    """Labels whose windows are drawn so many times more often."""
    folds: int = 3
    augment: bool = True
    checkpoint_every: int = 50


def demo() -> Recipe:
    """The bundle that the project ships: the released network, sized for an hour on two cores."""
    return Recipe("demo", replace(released(), drop_path=0.1))


def smoke() -> Recipe:
    """A network and a run so small that a test sees all of the way."""
    blocks = (Block(8, 3), Block(8, 5, 2), Block(12, 3, 2, 16), Block(12, 3, 1, 24))
    return Recipe(
        "smoke",
        SLConfig(stem=8, blocks=blocks, tail=16),
        steps=6,
        batch=4,
        short_share=0.5,
        ema=0.5,
        checkpoint_every=2,
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {"demo": demo, "smoke": smoke}
