"""Files in half precision: valid, half as large, f32 at both ends. That they compute the same is in test_torch_cuda."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agent.engines.base import EngineError
from agent.engines.mixed_precision import in_mixed_precision, onnx_library, read_onnx
from training.models.ssl import DeepECGSSL
from training.publish.export import export, onnx_from
from training.train.recipes import TINY


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """A small DeepECG-SSL as ONNX, by what its head ends with."""
    net = DeepECGSSL(replace(TINY, labels=5))
    net.initialise(torch.Generator().manual_seed(0))
    return {"sigmoid": onnx_from(export(net.eval(), 640)), "none": onnx_from(export(net, 640, "none"))}


@pytest.fixture(scope="module")
def content(contents: dict[str, bytes]) -> bytes:
    return contents["sigmoid"]


@pytest.mark.parametrize("precision", ["f16", "bf16"])
@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_files_in_mixed_precision_are_valid_onnx_with_f32_at_both_ends(
    contents: dict[str, bytes], precision: str, activation: str
) -> None:
    onnx = onnx_library()
    content = contents[activation]
    half = in_mixed_precision(content, precision)  # type: ignore[arg-type]
    assert len(half) < 0.55 * len(content)
    model = onnx.load_from_string(half)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    kind = {"f16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    for node in model.graph.node:
        if node.op_type in {"Conv", "MatMul", "Gemm", "Attention", "Gelu", "LayerNormalization"}:
            assert kinds.get(node.output[0], kind) == kind, node.op_type
        if node.op_type == "Sigmoid":
            assert kinds[node.input[0]] == onnx.TensorProto.FLOAT
    (x,), (y,) = model.graph.input, model.graph.output
    assert {v.type.tensor_type.elem_type for v in (x, y)} == {onnx.TensorProto.FLOAT}


def test_f16_cannot_hold_every_weight(content: bytes) -> None:
    onnx = onnx_library()
    model = onnx.load_from_string(content)
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] = 1e5
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(EngineError, match="beyond what f16 can hold; compile bf16 or f32"):
        in_mixed_precision(model.SerializeToString(), "f16")
    assert in_mixed_precision(model.SerializeToString(), "bf16")


def test_what_is_not_of_our_exporter_s_kind(content: bytes) -> None:
    onnx = onnx_library()
    with pytest.raises(EngineError, match="no ONNX file"):
        read_onnx(b"\x00junk")
    headless = onnx.load_from_string(content)
    for node in headless.graph.node:
        if node.op_type in {"Gemm", "MatMul"}:
            node.op_type = "Add"
    with pytest.raises(EngineError, match="not of one input, one output and a head"):
        in_mixed_precision(headless.SerializeToString(), "bf16")
    shared = onnx.load_from_string(content)
    head = next(node for node in reversed(shared.graph.node) if node.op_type == "Gemm")
    shared.graph.node[-1].input[0] = head.input[1]
    with pytest.raises(EngineError, match="used before and after the head"):
        in_mixed_precision(shared.SerializeToString(), "bf16")
