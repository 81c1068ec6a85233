"""DeepECG-SL against tensors that the public reference computed (shared/fixtures/sl_*)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.models.sl import DeepECGSL, config_from_state, released, sl_from_state

TOLERANCE = 1e-5
"""Of logits in fp32, times the largest logit. Between fp32 and the stored fp64 outputs, 6e-6 is what rounding makes."""


def formula_state(about: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights by formula (crc32 of the key and one splitmix64 step), independent of any generator's order."""
    norm_affine = set(about["norm_affine_keys"])
    state = {}
    for key, (_, shape) in about["keys"].items():
        leaf = key.rsplit(".", 1)[-1]
        if leaf == "num_batches_tracked":
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        x = (np.uint64(zlib.crc32(key.encode())) << np.uint64(32)) + np.arange(np.prod(shape), dtype=np.uint64)
        with np.errstate(over="ignore"):
            z = x + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        v = 2.0 * ((z >> np.uint64(11)).astype(np.float64) * 2.0**-53) - 1.0
        if leaf == "running_mean":
            v = 0.1 * v
        elif leaf == "running_var":
            v = 1 + 0.25 * v
        elif leaf == "bias":
            v = 0.1 * v
        elif key in norm_affine:
            v = 1 + 0.1 * v
        else:
            v = v * np.sqrt(3 / np.prod(shape[1:])) * (1.0 if key == "classifier.3.weight" else 1.3)
        state[key] = torch.from_numpy(v.reshape(shape).astype(np.float32))
    return state


def load(folder: Path) -> tuple[DeepECGSL, dict[str, Any]]:
    about = json.loads((folder / "about.json").read_text())
    path = folder / "state.safetensors"
    return sl_from_state(load_file(path) if path.exists() else formula_state(about)), about


@pytest.mark.parametrize("name", ["sl_tiny", "sl_released_random", "sl_released_formula"])
def test_parity(fixtures_dir: Path, name: str) -> None:
    folder = fixtures_dir / name
    net, about = load(folder)
    stages: dict[str, torch.Tensor] = {}
    for stage in about["stages"]:
        if stage != "pooled":
            net.get_submodule(stage).register_forward_hook(lambda _m, _i, out, s=stage: stages.update({s: out}))
    x = torch.from_numpy(np.load(folder / "input.npy"))
    with torch.no_grad():
        logits = net(x).numpy()
    scale = max(1.0, float(np.abs(logits).max()))
    np.testing.assert_allclose(logits, np.load(folder / "output.npy"), rtol=0, atol=TOLERANCE * scale)
    np.testing.assert_allclose(logits, np.load(folder / "output_float64.npy"), rtol=0, atol=TOLERANCE * scale)
    pooled = stages["final_norm"].mean(2).numpy()
    np.testing.assert_allclose(pooled, np.load(folder / "pooled.npy"), rtol=1e-5, atol=1e-5)
    for stage, out in stages.items():
        expected = about["stages"][stage]
        assert list(out.shape) == expected["shape"], stage
        assert float(out.double().abs().mean()) == pytest.approx(expected["abs_mean"], rel=1e-5), stage
        # Inner values are of order 1 to 10 and single: fp32 rounding alone moves them by 1e-5.
        assert out.flatten()[:5].tolist() == pytest.approx(expected["first5"], rel=1e-4, abs=1e-4), stage
    for path in folder.glob("stage_features.*.npy"):
        np.testing.assert_allclose(stages[path.stem.removeprefix("stage_")], np.load(path), rtol=1e-5, atol=1e-5)


def test_released_size() -> None:
    net = DeepECGSL(released())
    assert sum(p.numel() for p in net.parameters()) == 1_508_235
    assert len(net.state_dict()) == 571


def test_sizes_come_from_the_shapes() -> None:
    config = released(labels=5)
    assert config_from_state(DeepECGSL(config).state_dict()) == config


def test_other_name_of_the_last_layer() -> None:
    net = DeepECGSL(released(labels=3)).eval()
    renamed = {key.replace("classifier.3.", "classifier.fc1."): value for key, value in net.state_dict().items()}
    x = torch.randn(1, 12, 500, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(net(x), sl_from_state(renamed)(x))


def test_foreign_state_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="give the state dict of a DeepECG-SL network"):
        sl_from_state({"encoder.layer_norm.weight": torch.zeros(3)})
    broken = DeepECGSL(released()).state_dict()
    del broken["features.3.se.se.1.bias"]
    with pytest.raises(ValueError, match="do not fit DeepECG-SL"):
        sl_from_state(broken)
