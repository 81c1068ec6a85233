"""TensorRT on the GPU, both flavours through one path: ``tensorrt`` and ``tensorrt-rtx`` share their Python API.

Everything is laid out on entry: pinned host buffers, device buffers, one stream, one shape per batch bucket. A batch
is copied into the pinned buffer, padded up to the next bucket, and launched; nothing is allocated. The bucket's copies
and kernels are one CUDA graph: TensorRT's are captured here, RTX captures its own (`WHOLE_GRAPH_CAPTURE`), because its
kernels are compiled for the shape on first use, which cannot happen while a graph is captured. What it compiled is kept
in ``engine.cache``, so that only the first start waits for it.

Preprocessing stays on the processor here (one thread prepares two thousand windows a second): the filter's Fourier
transform is not among the engine's operations. `agent.engines.backends.torch_cuda` has it on the device.

The library and the CUDA runtime are arguments, so that tests can put a machine there that computes with NumPy. **No
part of this file has ever run on a GPU**: see the README for the one command that does.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import structlog

from agent.core.bundle.manifest import Engine, Flavour
from agent.core.ecg import LEADS, FloatArray
from agent.core.preprocessing import prepare
from agent.engines.base import EngineError, in_buckets
from agent.engines.bundles.bundle import Bundle

log = structlog.get_logger()

_MODULES: Mapping[str, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "pip install 'deepecg-bedside[gpu]' where NVIDIA's package host can be reached"),
    "tensorrt-rtx": ("tensorrt_rtx", "pip install 'deepecg-bedside[gpu-rtx]'"),
}
_REBUILD = "compile it here: deepecg-agent rebuild"
_DIAGNOSES: Mapping[str, str] = {
    "MALFORMED_ENGINE": f"the file is no engine of this library; {_REBUILD}",
    "VERSION_MISMATCH": f"another version of the library compiled it; {_REBUILD}",
    "UNSUPPORTED_CC": f"it was compiled for GPUs of another compute capability; {_REBUILD}",
    "OLD_CUDA_DRIVER": "the GPU's driver is too old for it; install a newer driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it; install the version that the library asks for",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little free memory for it; end what else uses that GPU",
    "CUDA_ERROR": "CUDA does not work on this machine; install or repair NVIDIA's driver",
}
"""Sentences of TensorRT for RTX's diagnostics, the most telling first: several may be set."""
_MESSAGES: Mapping[str, str] = {
    "not compatible with this version of TensorRT": _DIAGNOSES["VERSION_MISMATCH"],
    "incompatible serialization version": _DIAGNOSES["VERSION_MISMATCH"],
    "generated on an incompatible device": _DIAGNOSES["UNSUPPORTED_CC"],
    "cudaError 35": "there is no NVIDIA driver, or one too old; install a newer driver",
    "out of memory": _DIAGNOSES["INSUFFICIENT_GPU_MEMORY"],
}
"""The same for what the libraries only write to their log."""


def tensorrt_library(flavour: Flavour) -> Any:
    """The flavour's Python module.

    Raises:
        EngineError: it is not installed, or does not load.
    """
    name, remedy = _MODULES[flavour]
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library of it is missing
        raise EngineError(f"{flavour} does not load ({_short(error)}); install it: {remedy}.") from error


def cuda_library() -> Any:
    """NVIDIA's binding of the CUDA runtime: 31 MB, and the runtime inside, where torch would bring gigabytes.

    Raises:
        EngineError: it is not installed.
    """
    try:
        return import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise EngineError(
            f"the CUDA binding does not load ({_short(error)}); install it: pip install 'deepecg-bedside[gpu-rtx]'."
        ) from error


class Log:
    """What a TensorRT library writes: its errors are kept, because its calls return None and tell nothing."""

    errors: list[str]

    @staticmethod
    def of(trt: Any) -> Any:
        """A logger for the library's calls: `Log`'s methods on the library's own class."""

        class Logger(Log, trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.errors = []

            def log(self, severity: Any, message: str) -> None:
                if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
                    self.errors.append(" ".join(message.split()))

        return Logger()

    def last(self) -> str:
        """The first thing that went wrong; what follows is its consequence."""
        return self.errors[0] if self.errors else "it does not say why"

    def sentence(self) -> str:
        """The same in our words where the message is known."""
        text = " ".join(self.errors)
        return next((ours for part, ours in _MESSAGES.items() if part in text), self.last())


class _Cuda:
    """The calls of the CUDA runtime that are needed, each with its error as one sentence."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def __call__(self, name: str, *arguments: Any) -> Any:
        """The call's values, without its status: None, one, or a tuple.

        Raises:
            EngineError: its status is not success.
        """
        status, *values = getattr(self._runtime, name)(*arguments)
        if int(status) != 0:
            _, words = self._runtime.cudaGetErrorString(status)
            text = words.decode() if isinstance(words, bytes) else words
            raise EngineError(f"CUDA's {name} fails: {text} (error {int(status)}); see the GPU's driver and memory.")
        return tuple(values) if len(values) > 1 else (values[0] if values else None)

    def kind(self, name: str) -> Any:
        """A constant, as ``cudaMemcpyKind.cudaMemcpyHostToDevice``."""
        return attrgetter(name)(self._runtime)


class TensorRtEngine:
    """One serialised engine on the first GPU. See `agent.engines.base.Backend`."""

    def __init__(
        self, bundle: Bundle, entry: Engine, *, cache: Path | None = None, trt: Any = None, cuda: Any = None
    ) -> None:
        self._bundle = bundle
        self._entry = entry
        self._cache = cache
        self._trt = trt
        self._cuda_runtime = cuda
        self._resources = ExitStack()
        self._launch: dict[int, Callable[[], None]] = {}
        self._kernels: Any = None

    @property
    def name(self) -> str:
        """As ``tensorrt-rtx-bf16``."""
        return f"{self._entry.flavour}-{self._entry.precision}"

    def __enter__(self) -> Self:
        """Load, lay out the buffers, run every bucket once and capture it.

        Raises:
            EngineError: the library or the GPU is missing, or the engine does not fit them.
            BundleError: the file is no longer the one that was checked.
        """
        with ExitStack() as stack:
            self._open(stack)
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Give the GPU's memory back."""
        self._resources.close()

    def infer(self, x: FloatArray) -> FloatArray:
        """Probabilities (B, n_labels) of prepared windows (B, 12, rate * seconds)."""
        out = np.empty((len(x), len(self._bundle.manifest.labels)), np.float32)
        for part, bucket in in_buckets(len(x), sorted(self._launch)):
            n = part.stop - part.start
            self._input[:n] = x[part]
            self._input[n:bucket] = 0.0
            self._launch[bucket]()
            self._cuda("cudaStreamSynchronize", self._stream)
            out[part] = self._output[:n]
        return out

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        """The same of raw windows, filtered on the processor."""
        return self.infer(prepare(windows, rate, self._bundle.manifest.input.preprocessing))

    # ---- on entry ----------------------------------------------------------------------------------------------------

    def _open(self, stack: ExitStack) -> None:
        trt = self._trt or tensorrt_library(self._entry.flavour)
        found = f"{self._entry.flavour} {trt.__version__}"
        if self._entry.library != found:
            raise EngineError(f"{self._entry.library} compiled it, and {found} is installed; {_REBUILD}.")
        self._cuda = _Cuda(self._cuda_runtime or cuda_library())
        try:
            gpus = self._cuda("cudaGetDeviceCount")
        except EngineError as error:
            raise EngineError(f"there is no GPU that CUDA can use: {error}") from error
        if not gpus:
            raise EngineError("there is no GPU that CUDA can use; serve on the processor.")

        # Closed in reverse: graphs, context, engine, runtime, then what they point into. The library's objects are
        # held by attributes alone, because a local variable would outlive its frame in an exception's traceback.
        self._stream = self._cuda("cudaStreamCreateWithFlags", self._cuda.kind("cudaStreamNonBlocking"))
        stack.callback(self._cuda, "cudaStreamDestroy", self._stream)
        self._deserialise(trt, stack)
        x, y = self._tensors(trt)
        buckets = self._buckets(x)
        largest = buckets[-1]
        p = self._bundle.manifest.input.preprocessing
        shape = (largest, len(LEADS), round(p.rate * p.seconds))
        labels = len(self._bundle.manifest.labels)
        self._input, into = self._buffers(stack, shape)
        self._output, out_of = self._buffers(stack, (largest, labels))

        stack.callback(self._drop, "_context")
        self._context = self._new_context(trt)
        if self._context is None:
            raise EngineError(f"{found} cannot run the engine: {self._log.sentence()}.")
        self._context.set_tensor_address(x, into)
        self._context.set_tensor_address(y, out_of)
        stack.callback(self._launch.clear)
        for bucket in reversed(buckets):  # the largest first: what the context allocates is then large enough
            if not self._context.set_input_shape(x, (bucket, *shape[1:])):
                raise EngineError(f"{found} does not take {bucket} windows: {self._log.sentence()}.")
            given = tuple(self._context.get_tensor_shape(y))
            if given != (bucket, labels):
                raise EngineError(
                    f"the engine gives {given} instead of ({bucket}, {labels}); compile the bundle again."
                )
            self._launch[bucket] = self._prepare(stack, bucket, x, into, out_of)
        if self._kernels is not None and self._cache is not None:
            _save_cache(self._kernels, self._cache_file(self._cache))

    def _drop(self, name: str) -> None:
        """Let go of an object of the library: it frees what it holds when its last reference goes."""
        delattr(self, name)

    def _deserialise(self, trt: Any, stack: ExitStack) -> None:
        self._log = Log.of(trt)
        stack.callback(self._drop, "_runtime")
        self._runtime = trt.Runtime(self._log)
        content = self._bundle.read(self._entry.files[0])
        if self._entry.flavour == "tensorrt-rtx":  # which says why
            validity, diagnostics = self._runtime.get_engine_validity(content)
            if validity == trt.EngineValidity.INVALID:
                told = [
                    sentence
                    for name, sentence in _DIAGNOSES.items()
                    if int(diagnostics) & int(getattr(trt.EngineInvalidityDiagnostics, name))
                ]
                raise EngineError(f"engine {self.name} does not fit: {told[0] if told else self._log.sentence()}.")
        stack.callback(self._drop, "_engine")
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineError(f"engine {self.name} does not load: {self._log.sentence()}.")

    def _tensors(self, trt: Any) -> tuple[str, str]:
        """Names of the one input and the one output, both f32."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        singles = all(self._engine.get_tensor_dtype(name) == trt.float32 for name in names)
        if len(inputs) != 1 or len(outputs) != 1 or not singles:
            raise EngineError(f"the engine has not one f32 input and one f32 output, but {names}; compile it again.")
        return inputs[0], outputs[0]

    def _buckets(self, x: str) -> tuple[int, ...]:
        least, _, most = (int(shape[0]) for shape in self._engine.get_tensor_profile_shape(x, 0))
        buckets = tuple(b for b in self._entry.batches if least <= b <= most)
        if not buckets:
            raise EngineError(
                f"the engine takes {least} to {most} windows, and the manifest's batches "
                f"{self._entry.batches} are none of these; compile the bundle again."
            )
        return buckets

    def _buffers(self, stack: ExitStack, shape: tuple[int, ...]) -> tuple[FloatArray, int]:
        """A pinned array on the host, and the address of as much on the device."""
        size = 4 * int(np.prod(shape))
        host = self._cuda("cudaHostAlloc", size, self._cuda.kind("cudaHostAllocDefault"))
        stack.callback(self._cuda, "cudaFreeHost", host)
        device = self._cuda("cudaMalloc", size)
        stack.callback(self._cuda, "cudaFree", device)
        memory = (ctypes.c_float * (size // 4)).from_address(int(host))
        array: FloatArray = np.ctypeslib.as_array(memory).reshape(shape)
        array[:] = 0.0
        return array, int(device)

    def _new_context(self, trt: Any) -> Any:
        if self._entry.flavour != "tensorrt-rtx":
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Kernels for each bucket before the agent says that it is ready, not some time after.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if self._cache is not None:
            self._kernels = config.create_runtime_cache()
            _load_cache(self._kernels, self._cache_file(self._cache))
            config.set_runtime_cache(self._kernels)
        return self._engine.create_execution_context(config)

    def _cache_file(self, folder: Path) -> Path:
        checksum = self._bundle.manifest.files[self._entry.files[0]].sha256
        name = hashlib.sha256(f"{checksum} {self._entry.library}".encode()).hexdigest()[:16]
        return folder / f"{self._entry.flavour}-{name}.cache"

    def _prepare(self, stack: ExitStack, bucket: int, x: str, into: int, out_of: int) -> Callable[[], None]:
        """What computes ``bucket`` windows: host buffer, device, engine, device, host buffer, all on the stream."""
        cuda, stream, shape = self._cuda, self._stream, (bucket, *self._input.shape[1:])
        up, down = bucket * self._input[0].nbytes, bucket * self._output[0].nbytes
        to_device, to_host = (cuda.kind(f"cudaMemcpyKind.cudaMemcpy{k}") for k in ("HostToDevice", "DeviceToHost"))
        source, drain = self._input.ctypes.data, self._output.ctypes.data

        def enqueue() -> None:
            cuda("cudaMemcpyAsync", into, source, up, to_device, stream)
            if not self._context.execute_async_v3(int(stream)):
                raise EngineError(f"the engine stopped: {self._log.sentence()}.")
            cuda("cudaMemcpyAsync", drain, out_of, down, to_host, stream)

        def enqueue_shaped() -> None:
            self._context.set_input_shape(x, shape)
            enqueue()

        enqueue_shaped()  # once before the capture: lazily loaded kernels cannot be loaded within it
        cuda("cudaStreamSynchronize", stream)
        if self._entry.flavour == "tensorrt-rtx":
            return enqueue_shaped
        cuda("cudaStreamBeginCapture", stream, cuda.kind("cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal"))
        try:
            enqueue()
        finally:
            graph = cuda("cudaStreamEndCapture", stream)
        stack.callback(cuda, "cudaGraphDestroy", graph)
        executable = cuda("cudaGraphInstantiate", graph, 0)
        stack.callback(cuda, "cudaGraphExecDestroy", executable)
        return lambda: cuda("cudaGraphLaunch", executable, stream)


def _load_cache(cache: Any, path: Path) -> None:
    try:
        content = path.read_bytes()
    except OSError:
        return  # none yet
    if not cache.deserialize(content):
        log.info("engine_cache_not_used", file=path.name)  # another GPU, driver or version: it is written anew


def _save_cache(cache: Any, path: Path) -> None:
    """Kept only where it says something new: most starts compile nothing."""
    content = bytes(cache.serialize())
    new = path.with_suffix(".new")
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:  # the next start takes longer: no reason not to serve
        log.warning("engine_cache_not_written", reason=error.strerror)


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
