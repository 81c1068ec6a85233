"""An ONNX file in half precision: what TensorRT's engines are compiled from and what torch runs on a GPU."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from agent.core.bundle.manifest import Precision
from agent.engines.base import EngineError

_PRODUCTS = {"Gemm", "MatMul"}


def in_mixed_precision(content: bytes, precision: Precision) -> bytes:
    """The ONNX file with all that it computes in bf16 or f16, but for what comes after the last matrix product.

    That rest makes probabilities of logits: in bf16 a probability near one half has steps of .004. Input and output
    stay f32. Norms, softmax and sums have f32 inside, as every engine computes them.

    Raises:
        EngineError: the ``onnx`` package is missing, or the file is not of our exporter's kind.
    """
    onnx = onnx_library()
    kind = {"f16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    model = read_onnx(content)
    graph = model.graph
    nodes = list(graph.node)
    products = [i for i, node in enumerate(nodes) if node.op_type in _PRODUCTS]
    if not products or len(graph.input) != 1 or len(graph.output) != 1:
        raise EngineError("the ONNX file is not of one input, one output and a head; export the network again.")
    body, tail = nodes[: products[-1] + 1], nodes[products[-1] + 1 :]
    used = {name for node in body for name in node.input}
    if shared := sorted(used & {name for node in tail for name in node.input} & {t.name for t in graph.initializer}):
        raise EngineError(f"{shared[0]} is used before and after the head; export the network again.")

    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name in used:
            values = onnx.numpy_helper.to_array(tensor)
            with np.errstate(over="ignore"):  # infinity is looked for below
                half = values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
            if not np.isfinite(half).all():
                raise EngineError(f"a weight of the network is beyond what {precision} can hold; compile bf16 or f32.")
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))

    make = onnx.helper.make_node
    x, head = graph.input[0].name, body[-1].output[0]
    narrow, wide = f"{x}_{precision}", f"{head}_f32"
    for node in body:
        _rename(node.input, x, narrow)
    for node in tail:
        _rename(node.input, head, wide)
    if not tail:  # logits are the answer
        wide, head = head, f"{head}_{precision}"
        _rename(body[-1].output, wide, head)
    casts = make("Cast", [x], [narrow], to=kind), make("Cast", [head], [wide], to=onnx.TensorProto.FLOAT)
    del graph.node[:]
    graph.node.extend([casts[0], *body, casts[1], *tail])
    now_half = used | {name for node in body for name in node.output}
    for value in graph.value_info:
        if value.name in now_half and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def _rename(names: Any, old: str, new: str) -> None:
    for i, name in enumerate(names):
        if name == old:
            names[i] = new


def read_onnx(content: bytes) -> Any:
    """The ``onnx.ModelProto`` of an ONNX file.

    Raises:
        EngineError: it is none, or ``onnx`` is missing.
    """
    onnx = onnx_library()
    decode_error: type[Exception] = import_module("google.protobuf.message").DecodeError  # onnx brings it
    try:
        return onnx.load_from_string(content)
    except decode_error as error:
        raise EngineError(f"this is no ONNX file ({error}); export the network again.") from error


def onnx_library() -> Any:
    """The ``onnx`` package.

    Raises:
        EngineError: it is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineError(
            f"the onnx package does not load ({error}); install it: pip install 'deepecg-bedside[gpu-rtx]'"
        ) from error
    return onnx
