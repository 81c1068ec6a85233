#!/usr/bin/env bash
# What: onnxruntime 1.32.0, a convolution quantised by quantize_dynamic: one bed's result depends on the other beds in
#   its batch.
# Bedside: bed 8 is defibrillated, and the logits of bed 7, which happens to be in the same batch, move by some 18 %;
#   the same window alone gives another answer, so an alert cannot be reproduced afterwards.
# One would guess: the batch axis holds independent examples; dynamic quantisation finds a scale for each of them.
# What happens: DynamicQuantizeLinear takes minimum and maximum over the whole tensor, batch included; one sample of
#   300 mV leaves the neighbour a few steps out of 256.
# Source: ONNX operator DynamicQuantizeLinear (scale from max(x) and min(x) of the entire tensor).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

onnxruntime.set_default_logger_severity(3)
rng = np.random.default_rng(0)
first, last = rng.standard_normal((8, 12, 7)).astype("f4") * 0.1, rng.standard_normal((8, 3)).astype("f4")
graph = helper.make_graph(
    [
        helper.make_node("Conv", ["ecg", "w1"], ["c"], kernel_shape=[7], pads=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "w2"], ["logits"]),
    ],
    "net",
    [helper.make_tensor_value_info("ecg", TensorProto.FLOAT, ["n", 12, 500])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
    [onnx.numpy_helper.from_array(first, "w1"), onnx.numpy_helper.from_array(last, "w2")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "f32.onnx")
quantize_dynamic("f32.onnx", "int8.onnx", weight_type=QuantType.QUInt8)
bed7 = rng.standard_normal((1, 12, 500)).astype("f4") * 0.3
bed8 = rng.standard_normal((1, 12, 500)).astype("f4") * 0.3
bed8[0, 0, 100] = 300  # an artefact of 300 mV in one sample of one lead: a defibrillation
print("onnxruntime", onnxruntime.__version__, "; guess: bed 7's logits do not depend on who shares its batch")
moved = {}
for name in ("f32.onnx", "int8.onnx"):
    run = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"]).run
    alone = run(None, {"ecg": bed7})[0][0]
    calm = run(None, {"ecg": np.concatenate([bed7, bed7])})[0][0]
    beside = run(None, {"ecg": np.concatenate([bed7, bed8])})[0][0]
    moved[name] = abs(alone - calm).max(), abs(alone - beside).max() / abs(alone).max()
    print(name.ljust(10), "alone", alone.round(3), "beside bed 8", beside.round(3), f"moved by {moved[name][1]:.1%}")
assert moved["f32.onnx"][0] < 1e-4 and moved["f32.onnx"][1] < 1e-3
assert moved["int8.onnx"][0] < 1e-4 and moved["int8.onnx"][1] > 0.05
PY
