"""The step's operations are counted right, whatever the clock says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.models.kinds import SSLConfig
from training.train.recipes import TINY, smoke, smoke_fine_tune, smoke_pretrain
from training.train.throughput import matrix_peak, throughput


@pytest.mark.parametrize("recipe", [smoke(), smoke_pretrain(), smoke_fine_tune()], ids=lambda r: str(r.name))
def test_a_step_is_measured(recipe: object) -> None:
    assert hasattr(recipe, "batch")
    found = throughput(recipe, batch=2, repeats=1, size=128)  # type: ignore[arg-type]
    assert found.gigaflop > 0
    assert found.utilisation == pytest.approx(found.gigaflop / found.seconds / found.peak_gigaflops)
    assert found.windows_per_second == pytest.approx(2 * found.steps_per_second)
    assert found.memory_gb is None


def test_operations_grow_with_the_batch_and_are_those_of_the_formula() -> None:
    """Three times the forward pass's: weights times tokens, attention, convolutions."""
    config = replace(TINY, labels=77, feature_gradient=1.0)
    one = throughput(replace(smoke_fine_tune(), network=config), batch=1, repeats=1, size=128).gigaflop
    three = throughput(replace(smoke_fine_tune(), network=config), batch=3, repeats=1, size=128).gigaflop
    assert three == pytest.approx(3 * one)
    assert one * 1e9 == pytest.approx(3 * 2 * macs(config), rel=0.02)


def macs(c: SSLConfig) -> int:
    """Of one window of 2500 samples, forward."""
    tokens, total, width = 2500, 0, c.leads
    for out in c.convolutions:
        tokens = (tokens - 2) // 2 + 1
        total += 2 * width * out * tokens
        width = out
    total += tokens * width * c.width
    total += (tokens + 1) * c.position_kernel * c.width * (c.width // c.position_groups)
    layer = tokens * (4 * c.width**2 + 2 * c.width * c.feed_forward) + 2 * tokens**2 * c.width
    return total + c.layers * layer + c.width * c.labels


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="f16 needs a GPU"):
        throughput(replace(smoke(), precision="f16"), repeats=1, size=128)


def test_the_peak_is_a_matrix_product_s() -> None:
    assert matrix_peak(torch.device("cpu"), torch.float32, size=128, repeats=1) > 0
