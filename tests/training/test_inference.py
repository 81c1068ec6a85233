"""The network as it will serve against torch, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data import WindowTable
from training.inference import Network, convert, samples_of
from training.models.sl import DeepECGSL
from training.recipes import smoke


@pytest.fixture(scope="module")
def network(small_table: WindowTable) -> tuple[DeepECGSL, Network]:
    torch.manual_seed(0)
    net = DeepECGSL(smoke().network).eval()
    return net, Network(convert(net, samples_of(small_table.preprocessing)))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_it_is_torch_s_sigmoid(network: tuple[DeepECGSL, Network], batch: int) -> None:
    net, served = network
    x = np.random.default_rng(batch).normal(0, 100, (batch, 12, 500)).astype(np.float32)
    with torch.inference_mode():
        wanted = torch.sigmoid(net(torch.from_numpy(x))).numpy()
    np.testing.assert_allclose(served.infer(x), wanted, atol=1e-5)


def test_predictions_come_in_the_order_asked_for(network: tuple[DeepECGSL, Network], small_table: WindowTable) -> None:
    _, served = network
    index = np.array([5, 0, 59, 7], np.int64)
    found = served.predict(small_table, index, batch=3)
    assert found.shape == (4, 77)
    for row, i in zip(found, index, strict=True):
        np.testing.assert_allclose(
            row, served.infer(small_table.batch(np.array([i]))[0] * np.float32(1 / 0.0048))[0], atol=1e-6
        )


def test_nothing_asked_is_nothing_predicted(network: tuple[DeepECGSL, Network], small_table: WindowTable) -> None:
    assert network[1].predict(small_table, np.array([], np.int64)).shape == (0, 77)
