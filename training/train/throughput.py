"""How fast a recipe's training step is, and which share of the machine's measured matrix peak it uses.

Model FLOPs utilisation (Chowdhery et al., PaLM, 2022): three times the operations of the forward pass (the backward
pass has twice as many), over those that a large matrix product of the same precision does in the same time. torch
counts matrix products, convolutions and attention; it counts the backward pass of grouped convolutions wrongly, so that
one is not asked of it. The batch is noise, made before the clock starts, so that only the step is in the figure.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.models.ssl import Pretraining, token_count
from training.models.weights import Network
from training.train.learners import Learner, SelfSupervised, Supervised
from training.train.loop import DTYPES, optimiser_of
from training.train.masking import token_masks
from training.train.recipes import Precision, Recipe
from training.train.run import network_of

RATE, SECONDS = 250, 10


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of one recipe at one batch size."""

    recipe: str
    device: str
    precision: Precision
    threads: int
    batch: int
    """Windows; of pretraining recordings of two segments each."""
    parameters: int
    seconds: float
    """Of a step: the median."""
    steps_per_second: float
    windows_per_second: float
    gigaflop: float
    """Of a step, forward and backward."""
    peak_gigaflops: float
    """Of a large matrix product in the same precision, measured before and after; the higher one."""
    utilisation: float
    memory_gb: float | None
    """Most that was allocated on the GPU; None on a CPU."""


def throughput(recipe: Recipe, *, device: str = "cpu", batch: int = 0, repeats: int = 10, size: int = 0) -> Throughput:
    """Measure the recipe's step: forward, backward and the optimiser's move, without accumulation.

    ``batch`` 0 is the recipe's; ``size`` is that of the matrices of `matrix_peak`.

    Raises ValueError if the precision is none of the device's.
    """
    place = torch.device(device)
    if recipe.precision == "f16" and place.type != "cuda":
        raise ValueError("f16 needs a GPU; pass --precision bf16 (or f32)")
    batch = batch or recipe.batch
    net, learner = _learner(recipe)
    learner.to(place).train()
    dtype = DTYPES.get(recipe.precision)
    cast = torch.autocast(place.type, dtype, enabled=dtype is not None)

    def backward(data: dict[str, Tensor]) -> None:
        with cast:
            loss = learner(data, 0)["loss"]
        loss.backward()

    few = min(batch, 2)
    # Attention in the form that is counted whole.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        learner(_noise(recipe, net.config.labels, few, place), 0)
    gigaflop = 3 * counter.get_total_flops() / few * batch / 1e9

    optimiser = optimiser_of(learner, recipe.optimiser)
    data = _noise(recipe, net.config.labels, batch, place)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        backward(data)
        optimiser.step()

    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    peak = matrix_peak(place, dtype or torch.float32, size)
    seconds = statistics.median(_times(step, place, repeats))
    peak = max(peak, matrix_peak(place, dtype or torch.float32, size))
    return Throughput(
        recipe=recipe.name,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        precision=recipe.precision,
        threads=torch.get_num_threads(),
        batch=batch,
        parameters=sum(p.numel() for p in net.parameters()),
        seconds=seconds,
        steps_per_second=1 / seconds,
        windows_per_second=batch / seconds,
        gigaflop=gigaflop,
        peak_gigaflops=peak,
        utilisation=gigaflop / seconds / peak,
        memory_gb=torch.cuda.max_memory_allocated(place) / 1e9 if place.type == "cuda" else None,
    )


def _learner(recipe: Recipe) -> tuple[Network, Learner]:
    net = network_of(recipe)
    if isinstance(net, Pretraining):
        return net, SelfSupervised(net, recipe.masking, recipe.temperature)
    return net, Supervised(net, recipe.loss, head_only=recipe.optimiser.head_only)


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int = 0, repeats: int = 5) -> float:
    """GFLOP/s of a square matrix product: the best of the repeats."""
    size = size or (8192 if device.type == "cuda" else 2048)
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / 1e9 / min(_times(lambda: torch.mm(a, b), device, repeats))


def _times(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    found = []
    for _ in range(1 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return found[1:]


def _noise(recipe: Recipe, labels: int, batch: int, device: torch.device) -> dict[str, Tensor]:
    """A batch of the recipe's shapes."""
    generator = torch.Generator().manual_seed(0)
    samples = RATE * SECONDS
    if not recipe.pretraining:
        x = torch.randn(batch, 12, samples, generator=generator)
        truth = torch.randint(-1, 2, (batch, labels), generator=generator)
        return {"x": x.to(device), "truth": truth.to(device)}
    x = torch.randn(2 * batch, 12, samples // 2, generator=generator)
    tokens = int(token_count(samples // 2, len(getattr(recipe.network, "convolutions", ()))))
    mask = token_masks(2 * batch, tokens, recipe.masking, np.random.default_rng(0))
    return {"x": x.to(device), "mask": torch.from_numpy(mask).to(device), "seed": torch.tensor(0)}
