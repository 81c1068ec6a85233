"""Weights by formula: the full-size networks' tensors without a file of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

State = dict[str, torch.Tensor]


def _value(key: str, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(count,) in [-1, 1): crc32 of the key and one splitmix64 step, independent of any generator's order."""
    x = (np.uint64(zlib.crc32(key.encode())) << np.uint64(32)) + np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return 2.0 * ((z >> np.uint64(11)).astype(np.float64) * 2.0**-53) - 1.0


def formula_state(about: Mapping[str, Any], gain: Callable[[str], float]) -> State:
    """Weights of the fixture that ``about`` describes; ``gain`` of a matrix by its key."""
    norm_affine = set(about["norm_affine_keys"])
    state = {}
    for key, (_, shape) in about["keys"].items():
        leaf = key.rsplit(".", 1)[-1]
        if leaf == "num_batches_tracked":
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        v = _value(key, int(np.prod(shape)))
        if leaf in {"running_mean", "bias"}:
            v = 0.1 * v
        elif leaf in {"running_var", "weight_g"}:
            v = 1 + 0.25 * v
        elif key in norm_affine:
            v = 1 + 0.1 * v
        elif len(shape) > 1:
            v = v * np.sqrt(3 / np.prod(shape[1:])) * gain(key)
        state[key] = torch.from_numpy(v.reshape(shape).astype(np.float32))
    return state


@pytest.fixture(scope="session")
def by_formula() -> Callable[[Mapping[str, Any], Callable[[str], float]], State]:
    """`formula_state`, whose generator is first held against the stated values."""
    assert [(v + 1) / 2 for v in _value("a", 3)] == pytest.approx([0.9612407467, 0.0549398192, 0.9539165067], abs=1e-10)
    return formula_state
