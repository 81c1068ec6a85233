"""The serving form is the same function as the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import torch
from safetensors.torch import load_file

from training.models.sl import Block, DeepECGSL, SLConfig, released, sl_from_state
from training.serving import Serving


def random_net(config: SLConfig, seed: int = 3) -> DeepECGSL:
    """Random weights and, unlike a fresh network's, random running statistics and gains."""
    net = DeepECGSL(config)
    generator = torch.Generator().manual_seed(seed)
    net.initialise(generator)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2.0),
            ):
                assert tensor is not None
                torch.nn.init.uniform_(tensor, low, high, generator=generator)
    return net.eval()


def difference(net: DeepECGSL, x: torch.Tensor) -> float:
    """In float64, where rounding hides nothing."""
    with torch.inference_mode():
        return float((Serving(net.double())(x.double()) - torch.sigmoid(net(x.double()))).abs().max())


def test_same_function_as_the_released_form() -> None:
    x = torch.randn(2, 12, 2500, generator=torch.Generator().manual_seed(0)) * 60
    assert difference(random_net(released()), x) < 1e-11


def test_any_width_expansion_one_and_odd_lengths() -> None:
    blocks = (Block(8, 3), Block(12, 5, 2), Block(16, 3, 2, expanded=12), Block(16, 3, 1, expanded=64))
    net = random_net(SLConfig(labels=5, stem=8, blocks=blocks, tail=24))
    for samples in (2500, 1251, 333):
        assert difference(net, torch.randn(2, 12, samples)) < 1e-11


def test_the_reference_s_own_tensors(fixtures_dir: Path) -> None:
    for name in ("sl_tiny", "sl_released_random"):
        folder = fixtures_dir / name
        net = sl_from_state(load_file(folder / "state.safetensors"))
        found = Serving(net)(torch.from_numpy(np.load(folder / "input.npy"))).detach().numpy()
        expected = 1 / (1 + np.exp(-np.load(folder / "output.npy")))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_openvino_of_it_has_no_change_of_layout_inside(fixtures_dir: Path) -> None:
    """The point of the form: but for the input's own, no reorder is left."""
    folder = fixtures_dir / "sl_released_random"
    x = torch.from_numpy(np.load(folder / "input.npy"))
    samples = x.shape[2]
    net = sl_from_state(load_file(folder / "state.safetensors"))
    batch = torch.export.Dim("batch", min=1, max=256)
    model = openvino.convert_model(torch.export.export(Serving(net), (x,), dynamic_shapes=({0: batch},)))
    model.reshape([1, 12, samples])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ops()]
    assert kinds.count("Reorder") <= 4, "the form does not keep the layout any more"
    with torch.inference_mode():
        expected = torch.sigmoid(net(x[:1])).numpy()
    np.testing.assert_allclose(compiled({0: x[:1].numpy()})[0], expected, atol=1e-5)
