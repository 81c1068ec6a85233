#!/usr/bin/env bash
# What: TensorRT for RTX 1.7.1.116 compiles an engine on a machine with neither GPU nor driver, and then calls that same
#   engine INVALID there, with no reason bit set.
# Bedside: engines for the ward's GPUs can be built on a plain build server (good news); but a check of the bundle on a
#   server without a GPU by get_engine_validity condemns a sound engine and cannot say why.
# One would guess: building needs the GPU, as with TensorRT proper; a missing driver is told apart from a bad engine.
# What happens: the build works; the verdict is INVALID with diagnostics 0; only
#   the log names the CUDA error; loading gives None, not an exception.
# Source: measured; the class EngineValidity and its diagnostics bits in the package. GPUs are hidden here by
#   CUDA_VISIBLE_DEVICES, measured on a machine without any.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q tensorrt-rtx==1.7.1.116 onnx==1.23.2 numpy==2.4.6
cd "$dir"
CUDA_VISIBLE_DEVICES=-1 venv/bin/python -W ignore - <<'PY'
import numpy as np
import onnx
from onnx import TensorProto, helper

import tensorrt_rtx as trt


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self, severity, text):
        self.lines.append(text)


weights = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 12, 7)).astype("f4"), "w")
graph = helper.make_graph(
    [
        helper.make_node("Conv", ["ecg", "w"], ["c"], kernel_shape=[7], pads=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["out"]),
    ],
    "net",
    [helper.make_tensor_value_info("ecg", TensorProto.FLOAT, ["n", 12, 2500])],
    [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 8, 1])],
    [weights],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
log = Log()
builder = trt.Builder(log)
network = builder.create_network(0)
assert trt.OnnxParser(network, log).parse(model.SerializeToString())
config, profile = builder.create_builder_config(), builder.create_optimization_profile()
profile.set_shape("ecg", (1, 12, 2500), (8, 12, 2500), (32, 12, 2500))
config.add_optimization_profile(profile)
engine = bytes(builder.build_serialized_network(network, config))
runtime = trt.Runtime(log)
log.lines.clear()
validity, reasons = runtime.get_engine_validity(engine)
loaded = runtime.deserialize_cuda_engine(engine)
print("tensorrt_rtx", trt.__version__, "with no GPU in sight")
print("guess: the build fails; or, if it works, the engine is 'valid' or the reason names the missing driver")
print(f"built an engine of {len(engine)} bytes; validity {validity.name}, reasons {reasons}; loaded: {loaded}")
print("the log alone tells:", next(line for line in log.lines if "cudaError" in line)[:150])
assert len(engine) > 10_000
assert validity == trt.EngineValidity.INVALID and reasons == 0 and loaded is None
PY
