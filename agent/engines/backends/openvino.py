"""OpenVINO on the processor: the default engine, without torch.

Chosen by measurement (``deepecg-agent bench`` prints the numbers of the machine it runs on):

- **One window, one request.** A kernel may add in another order in a batch of eight than for one window: with AMX a
  bf16 probability moves by 5e-4 then, and a bed's answer would depend on how many others' windows happened to wait.
  So every window is computed alone, by the one static shape (1, 12, T) that is compiled on entry, and its answer is
  the same bit for bit in any company. That costs an eighth of DeepECG-SL's time in bf16 on one thread (1.8 ms a window
  instead of 1.6 in eights), a fifteenth in f32, and a twentieth or less of DeepECG-SSL, whose one window is work enough
  for the processor's caches; on two threads, which share a batch evenly then, nothing. A start is faster, as one shape
  is compiled instead of two.
- **One stream of one thread each**, instead of threads that share one window: no thread waits for another, which on
  a machine that also serves feeds is worth more than the latency of a window computed alone.
- **f32 is asked for by name**, because the library's own default is bf16 where the processor has it, which moves
  probabilities by .01 and more. With int8 weights the activations are quantised while it runs, in groups of `GROUP`
  values (or of fewer, where that does not divide a product's length: such a product would be computed without); what
  else the network does is in bf16 where the processor has it.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from agent.core.bundle.manifest import Engine
from agent.core.ecg import LEADS, FloatArray
from agent.core.preprocessing import prepare
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import Bundle

# OpenVINO's own stubs begin with "type: ignore", so its values are opaque to a type checker.
InferRequest: TypeAlias = Any
Model: TypeAlias = Any

GROUP = 128
"""Activations that share one scale: a twentieth faster than 64, and no further from f32; 32 is slower by a quarter."""


class OpenVinoEngine:
    """One OpenVINO IR on the processor, ``threads`` requests at a time. See `agent.engines.base.Backend`."""

    def __init__(self, bundle: Bundle, entry: Engine, *, threads: int = 1, cache: Path | None = None) -> None:
        self._bundle = bundle
        self._entry = entry
        self._threads = threads
        self._cache = cache
        self._requests: tuple[InferRequest, ...] = ()

    @property
    def name(self) -> str:
        """As ``openvino-f32``."""
        return f"openvino-{self._entry.precision}"

    def __enter__(self) -> Self:
        """Load the IR. What is compiled here needs no warming: the self-test is the first to use it.

        Raises:
            EngineError: OpenVINO is missing, the IR does not load, or this processor lacks the precision.
            BundleError: the files are no longer those that were checked.
        """
        openvino = openvino_library()
        core = openvino.Core()
        properties = {
            "INFERENCE_PRECISION_HINT": self._hint(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(self._threads),
            "INFERENCE_NUM_THREADS": self._threads,
        }
        if self._cache is not None:
            properties["CACHE_DIR"] = str(self._cache)
        try:
            model = self._read(openvino, core)
            if self._entry.precision == "int8w":
                properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _group(model)
            self._requests = self._compile(core, model, properties)
        except RuntimeError as error:
            first_line = str(error).strip().splitlines()[-1]
            raise EngineError(
                f"OpenVINO {openvino.__version__} cannot load {self._entry.files[0]}, compiled with "
                f"{self._entry.library} ({first_line}); compile the bundle again."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Give the library's memory back."""
        self._requests = ()

    def infer(self, x: FloatArray) -> FloatArray:
        """Probabilities (B, n_labels) of prepared windows (B, 12, rate * seconds)."""
        tensor = openvino_library().Tensor
        x = np.require(x, np.float32, ("C", "W"))  # as the library shares memory; a copy only where it is neither
        out = np.empty((len(x), len(self._bundle.manifest.labels)), np.float32)
        idle, busy = deque(self._requests), deque[tuple[int, InferRequest]]()

        def collect() -> None:
            row, request = busy.popleft()
            request.wait()
            out[row] = request.get_output_tensor(0).data[0]
            idle.append(request)

        for row in range(len(x)):
            if not idle:
                collect()
            request = idle.popleft()
            # The request reads the caller's memory: safe, because all requests have ended before `infer` returns.
            request.set_input_tensor(tensor(x[row : row + 1], shared_memory=True))
            request.start_async()
            busy.append((row, request))
        while busy:
            collect()
        return out

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        """The same of raw windows."""
        return self.infer(prepare(windows, rate, self._bundle.manifest.input.preprocessing))

    @property
    def _shape(self) -> tuple[int, int]:
        p = self._bundle.manifest.input.preprocessing
        return len(LEADS), round(p.rate * p.seconds)

    def _hint(self, capabilities: Sequence[str]) -> str:
        """The library's word for the manifest's precision."""
        bf16 = "BF16" in capabilities
        match self._entry.precision:
            case "f32":
                return "f32"
            case "bf16" if bf16:
                return "bf16"
            case "int8w":
                return "bf16" if bf16 else "f32"
        raise EngineError(f"this processor does not compute {self._entry.precision}; put an f32 engine in the bundle.")

    def _read(self, openvino: Any, core: Any) -> Model:
        """The IR, from the very bytes whose checksums were compared."""
        text, *weights = (self._bundle.read(name) for name in self._entry.files)
        if len(weights) != 1:
            raise EngineError(
                f"an OpenVINO engine has two files, .xml and .bin, but the manifest names {len(weights) + 1}; "
                "compile the bundle again."
            )
        return core.read_model(text, openvino.Tensor(np.frombuffer(weights[0], np.uint8)))

    def _compile(self, core: Any, model: Model, properties: Mapping[str, Any]) -> tuple[InferRequest, ...]:
        """Requests for one window of the manifest's length, one for each thread."""
        model.reshape([1, *self._shape])
        (output,) = model.outputs
        labels = len(self._bundle.manifest.labels)
        if tuple(output.shape) != (1, labels):
            raise EngineError(
                f"{self._entry.files[0]} gives {tuple(output.shape)} instead of (1, {labels}) for one window; "
                "compile the bundle again."
            )
        compiled = core.compile_model(model, "CPU", properties)
        return tuple(compiled.create_infer_request() for _ in range(self._threads))


def _group(model: Model) -> int:
    """`GROUP`, or the largest power of two below it that divides the length of every product with int8 weights."""
    lengths = [GROUP]
    for node in model.get_ordered_ops():
        if (
            node.get_type_name() == "MatMul"
            and (weight := node.input_value(1).get_node()).get_type_name() == "Multiply"
        ):
            lengths.append(weight.get_output_shape(0)[1 if node.get_attributes()["transpose_b"] else 0])
    return math.gcd(*lengths)


def openvino_library() -> Any:
    """OpenVINO, silenced: as it comes, importing it tells Google Analytics of it, by a process of its own.

    Its package ``openvino_telemetry`` does that unless a file in the home directory forbids it. Where the package
    cannot be imported the library uses a stub instead, so it is made impossible to import. All code of ours comes by
    here.

    Raises:
        EngineError: it does not load.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EngineError(f"OpenVINO does not load ({error}); reinstall it: pip install openvino") from error
    return openvino
