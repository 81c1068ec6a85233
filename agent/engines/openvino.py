"""OpenVINO on the processor: the default engine, without torch.

Chosen by measurement (``deepecg-agent bench`` prints the numbers of the machine it runs on):

- **One window per request, static shape.** On a processor a batch of DeepECG-SL gains less than the dynamic shape that
  it needs costs, and every batch size not seen before would stall the line while it is compiled. So each window is
  computed by itself: its probabilities are the same, bit for bit, whatever windows share its batch.
- **One stream of one thread each**, instead of threads that share one window: no thread waits for another, which on
  a machine that also serves feeds is worth more than the latency of a window computed alone.
- **f32 is asked for by name**, because the library's own default is bf16 where the processor has it, which moves
  probabilities by .01 and more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from agent.core.ecg import LEADS, FloatArray
from agent.core.manifest import Engine
from agent.engines.backend import EngineError
from agent.engines.bundle import Bundle

# OpenVINO's own stubs begin with "type: ignore", so its values are opaque to a type checker.
InferRequest: TypeAlias = Any
Model: TypeAlias = Any

_PRECISION: Mapping[str, str] = {"f32": "f32", "bf16": "bf16"}
"""Manifest's precision to INFERENCE_PRECISION_HINT."""


class OpenVinoEngine:
    """One OpenVINO IR on the processor, ``threads`` windows at a time. See `agent.engines.backend.Backend`."""

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
        """Load the IR and warm up.

        Raises:
            EngineError: OpenVINO is missing, the IR does not load, or this processor lacks the precision.
            BundleError: the files are no longer those that were checked.
        """
        openvino = _library()
        hint = _PRECISION.get(self._entry.precision)
        core = openvino.Core()
        if hint is None or (hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
            raise EngineError(
                f"this processor does not compute {self._entry.precision}; put an f32 engine in the bundle."
            )
        properties = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(self._threads),
            "INFERENCE_NUM_THREADS": self._threads,
        }
        if self._cache is not None:
            properties["CACHE_DIR"] = str(self._cache)
        try:
            compiled = core.compile_model(self._model(openvino, core), "CPU", properties)
            self._requests = tuple(compiled.create_infer_request() for _ in range(self._threads))
        except RuntimeError as error:
            first_line = str(error).strip().splitlines()[-1]
            raise EngineError(
                f"OpenVINO {openvino.__version__} cannot load {self._entry.files[0]}, compiled with "
                f"{self._entry.library} ({first_line}); compile the bundle again."
            ) from error
        self.infer(np.zeros((2 * self._threads, *self._shape), np.float32))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Give the library's memory back."""
        self._requests = ()

    def infer(self, x: FloatArray) -> FloatArray:
        """Probabilities (B, n_labels) of prepared windows (B, 12, rate * seconds)."""
        tensor = _library().Tensor
        x = np.require(x, np.float32, ("C", "W"))  # as the library shares memory; a copy only where it is neither
        out = np.empty((len(x), len(self._bundle.manifest.labels)), np.float32)
        idle, busy = deque(self._requests), deque[tuple[int, InferRequest]]()

        def collect() -> None:
            done, request = busy.popleft()
            request.wait()
            out[done] = request.get_output_tensor(0).data[0]
            idle.append(request)

        for i in range(len(x)):
            if not idle:
                collect()
            request = idle.popleft()
            # The request reads the caller's memory: safe, because all requests have ended before `infer` returns.
            request.set_input_tensor(tensor(x[i : i + 1], shared_memory=True))
            request.start_async()
            busy.append((i, request))
        while busy:
            collect()
        return out

    @property
    def _shape(self) -> tuple[int, int]:
        p = self._bundle.manifest.input.preprocessing
        return len(LEADS), round(p.rate * p.seconds)

    def _model(self, openvino: Any, core: Any) -> Model:
        """The IR, from the very bytes whose checksums were compared, for one window of the manifest's length."""
        text, *weights = (self._bundle.read(name) for name in self._entry.files)
        if len(weights) != 1:
            raise EngineError(
                f"an OpenVINO engine has two files, .xml and .bin, but the manifest names {len(weights) + 1}; "
                "compile the bundle again."
            )
        model = core.read_model(text, openvino.Tensor(np.frombuffer(weights[0], np.uint8)))
        model.reshape([1, *self._shape])
        (output,) = model.outputs
        labels = len(self._bundle.manifest.labels)
        if tuple(output.shape) != (1, labels):
            raise EngineError(
                f"{self._entry.files[0]} gives {tuple(output.shape)} instead of (1, {labels}) for one window; "
                "compile the bundle again."
            )
        return model


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError(f"OpenVINO does not load ({error}); reinstall it: pip install openvino") from error
    return openvino
