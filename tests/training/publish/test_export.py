"""The network as it will serve against torch, whatever the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from safetensors.torch import load_file

from agent.core.ecg import FloatArray
from training.data import WindowTable
from training.models.kinds import SSLConfig
from training.models.sl import DeepECGSL, sl_from_state
from training.models.ssl import DeepECGSSL
from training.publish.export import OPSET, Network, convert, export, onnx_from, openvino_from, samples_of
from training.publish.serving_form import Activation, Classifier
from training.train.recipes import TINY, smoke


def random(net: Classifier) -> Classifier:
    """Random weights everywhere, so that no part of the network is idle."""
    generator = torch.Generator().manual_seed(0)
    net.initialise(generator)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return net.eval()


def tiny(head: str, labels: int = 77) -> SSLConfig:
    return replace(TINY, labels=labels, head=head)  # type: ignore[arg-type]


NETWORKS = {
    "sl-smoke": lambda: random(DeepECGSL(smoke().network)),  # type: ignore[arg-type]
    "ssl-tiny": lambda: random(DeepECGSSL(tiny("linear"))),
    "ssl-one": lambda: random(DeepECGSSL(tiny("attentive", 1))),
}


@pytest.mark.parametrize(("name", "activation"), [("sl-smoke", "none"), ("ssl-tiny", "none"), ("ssl-one", "sigmoid")])
def test_both_conversions_give_torch_s_answers_for_any_batch(name: str, activation: Activation) -> None:
    net = NETWORKS[name]()
    x = np.random.default_rng(1).normal(0, 60 if isinstance(net, DeepECGSL) else 1, (3, 12, 1250)).astype(np.float32)
    agree(net, x, activation)


def test_both_conversions_of_the_released_form(fixtures_dir: Path) -> None:
    """The same answers, and the point of the serving form: but for the input's own, no change of layout is left."""
    folder = fixtures_dir / "sl_released_random"
    x = np.load(folder / "input.npy")
    model = agree(sl_from_state(load_file(folder / "state.safetensors")), x)
    model.reshape([1, *x.shape[1:]])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ops()]
    assert len(kinds) > 40
    assert kinds.count("Reorder") <= 4, "the form does not keep the layout any more"


def agree(net: Classifier, x: FloatArray, activation: Activation = "none") -> openvino.Model:
    """Both conversions give torch's answers; the one to OpenVINO is returned."""
    program = export(net, x.shape[2], activation)
    with torch.inference_mode():
        logits = net(torch.from_numpy(x))
        wanted = (torch.sigmoid(logits) if activation == "sigmoid" else logits).numpy()
    converted = openvino_from(program)
    for model in (converted, openvino.Core().read_model(onnx_from(program))):
        served = Network(model)
        for batch in (x, x[:1]):
            np.testing.assert_allclose(served.infer(batch), wanted[: len(batch)], rtol=0, atol=1e-5)
    return converted


def test_an_onnx_file_tells_nothing_of_the_machine_and_is_the_same_each_time() -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'deepecg-bedside[train]'")
    net = NETWORKS["sl-smoke"]()
    content = onnx_from(export(net, 640))
    assert content == onnx_from(export(net, 640))
    assert b".py" not in content
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    (x,), (y,) = model.graph.input, model.graph.output
    assert [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] == ["batch", 12, 640]
    assert [d.dim_param or d.dim_value for d in y.type.tensor_type.shape.dim] == ["batch", 77]
    assert (x.name, y.name) == ("windows", "probabilities")


@pytest.fixture(scope="module")
def network(small_table: WindowTable) -> tuple[DeepECGSL, Network]:
    torch.manual_seed(0)
    net = DeepECGSL(smoke().network).eval()  # type: ignore[arg-type]
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
    found = served.predict(small_table, index, 1 / 0.0048, batch=3)
    assert found.shape == (4, 77)
    for row, i in zip(found, index, strict=True):
        np.testing.assert_allclose(
            row, served.infer(small_table.batch(np.array([i]))[0] * np.float32(1 / 0.0048))[0], atol=1e-6
        )


def test_nothing_asked_is_nothing_predicted(network: tuple[DeepECGSL, Network], small_table: WindowTable) -> None:
    assert network[1].predict(small_table, np.array([], np.int64), 1.0).shape == (0, 77)
