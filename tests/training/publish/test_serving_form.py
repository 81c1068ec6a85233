"""The serving form is the same function as the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.models.kinds import Codebook, ConvBlock, SLConfig, SSLConfig, released
from training.models.sl import DeepECGSL, sl_from_state
from training.models.ssl import DeepECGSSL, Pretraining, mean_over_time, ssl_from_state
from training.publish.serving_form import Serving, ServingSSL, serving_form
from training.train.recipes import SMALL, TINY


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


def random_ssl(config: SSLConfig, seed: int = 4) -> DeepECGSSL:
    """Random weights, biases, gains and, unlike a fresh network's, a pool that prefers some tokens."""
    net = DeepECGSSL(config)
    generator = torch.Generator().manual_seed(seed)
    net.initialise(generator)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return net.eval()


def difference(net: DeepECGSL | DeepECGSSL, x: torch.Tensor) -> float:
    """In float64, where rounding hides nothing; of logits."""
    net = net.double()
    with torch.inference_mode():
        return float((serving_form(net, "none")(x.double()) - net(x.double())).abs().max())


def test_same_function_as_the_released_form() -> None:
    x = torch.randn(2, 12, 2500, generator=torch.Generator().manual_seed(0)) * 60
    assert difference(random_net(released()), x) < 1e-11


def test_any_width_expansion_one_and_odd_lengths() -> None:
    blocks = (ConvBlock(8, 3), ConvBlock(12, 5, 2), ConvBlock(16, 3, 2, expanded=12), ConvBlock(16, 3, 1, expanded=64))
    net = random_net(SLConfig(labels=5, stem=8, blocks=blocks, tail=24))
    for samples in (2500, 1251, 333):
        assert difference(net, torch.randn(2, 12, samples)) < 1e-11


@pytest.mark.parametrize("head", ["linear", "attentive"])
@pytest.mark.parametrize("config", [replace(TINY, labels=5), replace(TINY, labels=1, position_kernel=15), SMALL])
def test_ssl_is_the_same_function(config: SSLConfig, head: str) -> None:
    net = random_ssl(replace(config, head=head))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for samples in (640, 333):
        x = torch.randn(2, 12, samples, generator=generator)
        assert difference(net, x) < 1e-11
    with torch.inference_mode():
        assert float(net.double()(x.double()).std()) > 0.01  # the comparison has something to compare


def test_the_mean_of_whole_windows_is_the_published_pooling(fixtures_dir: Path) -> None:
    """Sum over the count of what is not zero: after the last layer norm nothing of a window is exactly zero."""
    net = ssl_from_state(load_file(fixtures_dir / "ssl_tiny" / "state.safetensors"), heads=4)
    x = torch.from_numpy(np.load(fixtures_dir / "ssl_tiny" / "input.npy"))
    with torch.inference_mode():
        features, padded = net.encoder(x)
        silent, _ = net.encoder(torch.zeros(1, 12, 2500))  # every lead off: still no zeros
    assert padded is None
    for y in (features, silent):
        assert int((y == 0).sum()) == 0
        assert float((y.mean(1) - mean_over_time(y, None)).abs().max()) <= 1e-6


def test_answers_are_probabilities_or_values() -> None:
    x = torch.randn(2, 12, 640)
    for net in (
        random_net(SLConfig(labels=1, stem=8, blocks=(ConvBlock(8, 3),), tail=8)),
        random_ssl(replace(TINY, labels=1)),
    ):
        with torch.inference_mode():
            torch.testing.assert_close(serving_form(net)(x), torch.sigmoid(net(x)))
            torch.testing.assert_close(serving_form(net, "none")(x), net(x))


def test_a_network_without_a_head_has_no_serving_form() -> None:
    net = Pretraining(replace(TINY, labels=0), Codebook(2, 8, 6, 12))
    with pytest.raises(TypeError, match="give a network that has a head"):
        serving_form(net)  # type: ignore[arg-type]


def test_the_reference_s_own_ssl_tensors(fixtures_dir: Path) -> None:
    net = ssl_from_state(load_file(fixtures_dir / "ssl_tiny" / "state.safetensors"), heads=4)
    for name in ("ssl_tiny", "ssl_tiny_T1250"):
        x = torch.from_numpy(np.load(fixtures_dir / name / "input.npy"))
        with torch.inference_mode():
            found = ServingSSL(net, "none")(x).numpy()
        np.testing.assert_allclose(found, np.load(fixtures_dir / name / "output.npy"), atol=1e-5)


def test_the_reference_s_own_tensors(fixtures_dir: Path) -> None:
    for name in ("sl_tiny", "sl_released_random"):
        folder = fixtures_dir / name
        net = sl_from_state(load_file(folder / "state.safetensors"))
        found = Serving(net)(torch.from_numpy(np.load(folder / "input.npy"))).detach().numpy()
        expected = 1 / (1 + np.exp(-np.load(folder / "output.npy")))
        np.testing.assert_allclose(found, expected, atol=1e-5)
