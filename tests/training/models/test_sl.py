"""DeepECG-SL against tensors that the public reference computed (shared/fixtures/sl_*)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.models.kinds import released
from training.models.sl import DeepECGSL, config_from_state, sl_from_state

TOLERANCE = 1e-5
"""Of logits in fp32, times the largest logit. Between fp32 and the stored fp64 outputs, 6e-6 is what rounding makes."""


def sl_gain(key: str) -> float:
    return 1.0 if key == "classifier.3.weight" else 1.3


@pytest.mark.parametrize("name", ["sl_tiny", "sl_released_random", "sl_released_formula"])
def test_parity(fixtures_dir: Path, by_formula: Callable[..., dict[str, torch.Tensor]], name: str) -> None:
    folder = fixtures_dir / name
    about = json.loads((folder / "about.json").read_text())
    path = folder / "state.safetensors"
    net = sl_from_state(load_file(path) if path.exists() else by_formula(about, sl_gain))
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
