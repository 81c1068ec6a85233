"""The network as it will serve: exported from torch to OpenVINO in f32, the sigmoid inside."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from agent.core.ecg import FloatArray
from agent.core.filters import Preprocessing
from training.data import WindowTable
from training.models.sl import DeepECGSL
from training.serving import Serving

Model: TypeAlias = Any
openvino: Any = import_module("openvino")
"""OpenVINO's own stubs begin with "type: ignore", so its values are opaque to a type checker."""

INPUT = "windows"
OUTPUT = "probabilities"


def samples_of(p: Preprocessing) -> int:
    """Samples of a window at the network's rate."""
    return round(p.rate * p.seconds)


def convert(net: DeepECGSL, samples: int) -> Model:
    """OpenVINO's form of the network: input (N, leads, samples) with a dynamic batch, output (N, L), all in f32."""
    example = torch.zeros(2, net.config.leads, samples)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad():
        exported = torch.export.export(Serving(net), (example,), dynamic_shapes=({0: batch},))
    model: Model = openvino.convert_model(exported)
    model.reshape({0: openvino.PartialShape([-1, net.config.leads, samples])})
    model.input(0).get_tensor().set_names({INPUT})
    model.output(0).get_tensor().set_names({OUTPUT})
    return model


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
        self, table: WindowTable, index: NDArray[np.int64], *, batch: int = 32, progress: bool = False
    ) -> FloatArray:
        """Probabilities (len(index), L) of these windows of the table."""
        out = []
        gain = np.float32(table.network_preprocessing.gain)
        for first in tqdm(
            range(0, len(index), batch), desc="predict", unit="batch", disable=not progress, mininterval=5
        ):
            x, _ = table.batch(index[first : first + batch])
            out.append(self.infer(x * gain))
        return (
            np.concatenate(out)
            if out
            else np.zeros((0, self._compiled.output(0).partial_shape[1].get_length()), np.float32)
        )
