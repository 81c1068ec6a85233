"""The network as it will serve: exported from torch to OpenVINO and to ONNX, both in f32, the sigmoid inside."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from tqdm import tqdm

from agent.core.ecg import FloatArray
from agent.core.preprocessing import Preprocessing
from training.data import WindowTable
from training.publish.serving_form import Activation, Classifier, serving_form

Model: TypeAlias = Any
openvino: Any = import_module("openvino")
"""OpenVINO's own stubs begin with "type: ignore", so its values are opaque to a type checker."""

INPUT = "windows"
OUTPUT = "probabilities"
OPSET = 23
"""Of ONNX: the first with attention as one operation, which TensorRT fuses and torch has too."""
MAX_BATCH = 4096


def samples_of(p: Preprocessing) -> int:
    """Samples of a window at the network's rate."""
    return round(p.rate * p.seconds)


def export(net: Classifier, samples: int, activation: Activation = "sigmoid") -> ExportedProgram:
    """The serving form (N, leads, samples) to (N, L) with a dynamic batch, in f32: what both conversions start from."""
    example = torch.zeros(2, net.config.leads, samples)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with torch.no_grad():
        return torch.export.export(serving_form(net, activation), (example,), dynamic_shapes=({0: batch},))


def openvino_from(program: ExportedProgram) -> Model:
    """OpenVINO's form of an exported network: input (N, leads, samples) with a dynamic batch, output (N, L), in f32."""
    (example,), _ = program.example_inputs
    with _quiet():
        model: Model = openvino.convert_model(program)
    model.reshape({0: openvino.PartialShape([-1, *example.shape[1:]])})
    model.input(0).get_tensor().set_names({INPUT})
    model.output(0).get_tensor().set_names({OUTPUT})
    return model


def onnx_from(program: ExportedProgram) -> bytes:
    """The ONNX file of an exported network, weights inside, opset `OPSET`: what other engines are compiled from.

    Nothing of this machine is left in it, and the same network gives the same bytes.
    """
    with _quiet():
        exported = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: "batch"},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    del proto.metadata_props[:]
    graph = proto.graph
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]  # stack traces among them, with the paths of the machine that exported
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def convert(net: Classifier, samples: int, activation: Activation = "sigmoid") -> Model:
    """Both steps to OpenVINO."""
    return openvino_from(export(net, samples, activation))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of packages that are not installed and not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class Network:
    """A converted network on this machine's CPU in f32."""

    def __init__(self, model: Model, threads: int = 1) -> None:
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._compiled = openvino.Core().compile_model(model, "CPU", settings)

    def infer(self, x: FloatArray) -> FloatArray:
        """Probabilities (B, L) of network input (B, 12, T)."""
        result = self._compiled({0: np.ascontiguousarray(x, np.float32)})[0]
        return np.array(result, np.float32)

    def predict(
        self,
        table: WindowTable,
        index: NDArray[np.int64],
        gain: float,
        *,
        leads: Sequence[int] = range(12),
        batch: int = 32,
        progress: bool = False,
    ) -> FloatArray:
        """Probabilities (len(index), L) of these windows of the table, all leads but ``leads`` silenced."""
        out = []
        silent = np.setdiff1d(np.arange(12), leads)
        for first in tqdm(
            range(0, len(index), batch), desc="predict", unit="batch", disable=not progress, mininterval=5
        ):
            x, _ = table.batch(index[first : first + batch])
            x[:, silent] = 0
            x *= np.float32(gain)
            out.append(self.infer(x))
        return (
            np.concatenate(out)
            if out
            else np.zeros((0, self._compiled.output(0).partial_shape[1].get_length()), np.float32)
        )
