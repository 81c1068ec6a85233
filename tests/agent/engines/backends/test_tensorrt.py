# ruff: noqa: N802, N815  the names are NVIDIA's
"""Both TensorRT flavours without a GPU: the real library's refusals here, and a machine of NumPy behind its API.

The machine is at the boundary that the back-end calls: the library's module and the CUDA runtime's. Its stream works
only when it is waited for, its memory is poisoned when it is freed, and its engine is the bundle's own network, so that
what is copied where, when, and in which shape shows in the answers.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agent.core.bundle.derived import Machine
from agent.core.bundle.manifest import Engine, FileEntry, Target
from agent.core.ecg import FloatArray
from agent.engines.backends.tensorrt import TensorRtEngine, cuda_library, tensorrt_library
from agent.engines.backends.torch_cuda import network_from_onnx
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import UNSIGNED, Bundle, open_bundle
from agent.engines.compile import build, read_source
from agent.engines.machine import this_machine
from agent.engines.select import open_backend, self_test
from agent.engines.settings import EngineSettings

BATCHES = (1, 2, 4)


# ---- a GPU of NumPy ----------------------------------------------------------------------------------------------


class Status(int):
    """cudaError_t."""


def call(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A function of the CUDA runtime: its status comes first, and is the error that the test wishes for."""

    @wraps(function)
    def called(self: Cuda, *arguments: Any) -> tuple[Any, ...]:
        self.calls.append(function.__name__)
        if (error := self.fails.get(function.__name__)) is not None:
            self.queue.clear()  # a stream in error does no more work
            return Status(error), None
        return Status(0), *function(self, *arguments)

    return called


@dataclass
class Cuda:
    """The CUDA runtime's functions, as NVIDIA's binding has them. A stream's work is done when it is waited for."""

    gpus: int = 1
    fails: dict[str, int] = field(default_factory=dict)
    """Function to the error that it returns."""
    memory: dict[int, Any] = field(default_factory=dict)
    queue: list[Callable[[], None]] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None
    graphs: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    STREAM = 77

    def enqueue(self, work: Callable[[], None]) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def at(self, address: int, count: int) -> FloatArray:
        """Memory by address; what was freed or never allocated is not there."""
        assert any(start <= address and address + 4 * count <= start + 4 * len(a) for start, a in self.memory.items())
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))

    def _allocate(self, size: int) -> tuple[int]:
        array = np.full(size // 4, np.nan, np.float32)
        self.memory[array.ctypes.data] = array
        return (array.ctypes.data,)

    def _free(self, address: int) -> tuple[()]:
        self.memory.pop(address)[:] = np.nan
        return ()

    def cudaGetErrorString(self, status: int) -> tuple[Status, bytes]:
        return Status(0), {2: b"out of memory", 35: b"CUDA driver version is insufficient"}[int(status)]

    @call
    def cudaGetDeviceCount(self) -> tuple[int]:
        return (self.gpus,)

    @call
    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int]:
        assert flags == self.cudaStreamNonBlocking
        self.alive.add("stream")
        return (self.STREAM,)

    @call
    def cudaStreamDestroy(self, stream: int) -> tuple[()]:
        assert self.alive == {"stream"}, "something outlives its stream"
        self.alive.clear()
        return ()

    @call
    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int]:
        return self._allocate(size)

    @call
    def cudaMalloc(self, size: int) -> tuple[int]:
        return self._allocate(size)

    @call
    def cudaFreeHost(self, address: int) -> tuple[()]:
        assert "context" not in self.alive, "memory is freed that the context still points to"
        return self._free(address)

    @call
    def cudaFree(self, address: int) -> tuple[()]:
        assert "context" not in self.alive
        return self._free(address)

    @call
    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[()]:
        assert stream == self.STREAM
        assert kind in {1, 2}

        def copy() -> None:
            self.at(to, size // 4)[:] = self.at(source, size // 4)

        self.enqueue(copy)
        return ()

    @call
    def cudaStreamSynchronize(self, stream: int) -> tuple[()]:
        assert self.captured is None, "no stream can be waited for while it is captured"
        work, self.queue = self.queue, []
        for step in work:
            step()
        return ()

    @call
    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[()]:
        assert not self.queue, "work of before would be lost"
        self.captured = []
        return ()

    @call
    def cudaStreamEndCapture(self, stream: int) -> tuple[int]:
        assert self.captured is not None
        number = 1000 + len(self.graphs)
        self.graphs[number], self.captured = self.captured, None
        self.alive.add(f"graph {number}")
        return (number,)

    @call
    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int]:
        self.alive.add(f"executable {graph}")
        return (graph,)

    @call
    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[()]:
        assert f"executable {executable}" in self.alive
        self.queue += self.graphs[executable]
        return ()

    @call
    def cudaGraphExecDestroy(self, executable: int) -> tuple[()]:
        self.alive.remove(f"executable {executable}")
        return ()

    @call
    def cudaGraphDestroy(self, graph: int) -> tuple[()]:
        self.alive.remove(f"graph {graph}")
        self.graphs[graph].clear()
        return ()


class Logger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)

    def __init__(self) -> None: ...


@dataclass
class TensorRt:
    """The library's module. Its engines are ONNX files."""

    cuda: Cuda
    diagnostics: int = 0
    message: str = ""
    """What it logs instead of loading an engine."""
    batches: tuple[int, int] = (1, 4)
    labels: int = 3
    cached: bytes = b"kernels"
    configs: list[Any] = field(default_factory=list)

    __version__ = "9.9"
    ILogger = Logger
    float32 = "f32"
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    EngineValidity = SimpleNamespace(VALID=0, INVALID=2)
    EngineInvalidityDiagnostics = SimpleNamespace(
        VERSION_MISMATCH=1,
        UNSUPPORTED_CC=2,
        OLD_CUDA_DRIVER=4,
        OLD_CUDA_RUNTIME=8,
        INSUFFICIENT_GPU_MEMORY=16,
        MALFORMED_ENGINE=32,
        CUDA_ERROR=64,
    )
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def Runtime(self, logger: Any) -> Any:
        return LoadedRuntime(self, logger)


class LoadedRuntime:
    def __init__(self, trt: TensorRt, logger: Any) -> None:
        self.trt, self.logger = trt, logger

    def get_engine_validity(self, content: bytes) -> tuple[int, int]:
        return (2 if self.trt.diagnostics else 0), self.trt.diagnostics

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        if self.trt.message:
            self.logger.log(Logger.WARNING, "nothing of interest")
            self.logger.log(Logger.ERROR, self.trt.message)
            return None
        return LoadedEngine(self.trt, network_from_onnx(torch, content, "cpu"))


class LoadedEngine:
    num_io_tensors = 2

    def __init__(self, trt: TensorRt, network: Any) -> None:
        self.trt, self.network = trt, network
        trt.cuda.alive.add("engine")

    def __del__(self) -> None:
        self.trt.cuda.alive.discard("engine")

    def get_tensor_name(self, i: int) -> str:
        return ("windows", "probabilities")[i]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "windows" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "f32"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        least, most = self.trt.batches
        return [(least, 12, 2500), (least, 12, 2500), (most, 12, 2500)]

    def create_runtime_config(self) -> Any:
        self.trt.configs.append(RuntimeConfig(self.trt))
        return self.trt.configs[-1]

    def create_execution_context(self, config: Any = None) -> Any:
        return Context(self)


class RuntimeConfig:
    def __init__(self, trt: TensorRt) -> None:
        self.trt, self.cache, self.loaded = trt, None, b""

    def create_runtime_cache(self) -> Any:
        return self

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True

    def deserialize(self, content: bytes) -> bool:
        assert self.cache is None, "filled before it is set"
        self.loaded = content
        return content == self.trt.cached

    def serialize(self) -> bytes:
        return self.trt.cached


class Context:
    def __init__(self, engine: LoadedEngine) -> None:
        self.engine, self.cuda = engine, engine.trt.cuda
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.cuda.alive.add("context")

    def __del__(self) -> None:
        self.cuda.alive.discard("context")

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.cuda.captured is None
        least, most = self.engine.trt.batches
        self.shape = shape
        return least <= shape[0] <= most

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], self.engine.trt.labels)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self.cuda.STREAM
        shape, network, out = self.shape, self.engine.network, (self.shape[0], self.engine.trt.labels)

        def compute() -> None:
            x = self.cuda.at(self.addresses["windows"], int(np.prod(shape))).reshape(shape)
            with torch.inference_mode():
                y = network(torch.from_numpy(x.copy())).numpy()
            self.cuda.at(self.addresses["probabilities"], y.size).reshape(out)[:] = y

        self.cuda.enqueue(compute)
        return True


@pytest.fixture
def cuda() -> Cuda:
    return Cuda()


@pytest.fixture
def trt(cuda: Cuda) -> TensorRt:
    return TensorRt(cuda)


@pytest.fixture(scope="module")
def bundle(sourced: Path) -> Bundle:
    return open_bundle(sourced, UNSIGNED)


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def entry(request: pytest.FixtureRequest, bundle: Bundle) -> Engine:
    document = bundle.manifest.engines[1].model_dump()
    changes = {"flavour": request.param, "library": f"{request.param} 9.9", "batches": BATCHES}
    return Engine.model_validate(document | changes)


def noise(n: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(0, 60, (n, 12, 2500)).astype(np.float32)


def test_the_network_s_answers_and_nothing_left_behind(bundle: Bundle, entry: Engine, trt: TensorRt) -> None:
    with TensorRtEngine(bundle, entry, trt=trt, cuda=trt.cuda) as engine:
        assert engine.name == f"{entry.flavour}-f32"
        assert self_test(engine, bundle, 4, entry) < 1e-5
        found = engine.infer_raw(bundle.golden_windows, bundle.manifest.input.preprocessing.rate)
        np.testing.assert_allclose(found, bundle.golden_probabilities, atol=1e-5)
    del engine
    assert not trt.cuda.memory
    assert not trt.cuda.alive


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 11])
def test_any_number_of_windows_in_order_whatever_is_left_in_the_buffers(
    bundle: Bundle, entry: Engine, trt: TensorRt, n: int
) -> None:
    x = noise(n)
    with TensorRtEngine(bundle, entry, trt=trt, cuda=trt.cuda) as engine:
        alone = [engine.infer(x[i : i + 1])[0] for i in range(n)]
        engine.infer(np.full((4, 12, 2500), np.nan, np.float32))
        found = engine.infer(x)
        kept = found.copy()
        engine.infer(-x)
    assert found.shape == (n, 3)
    np.testing.assert_allclose(found, np.array(alone).reshape(n, 3), atol=1e-5)
    np.testing.assert_array_equal(found, kept)  # the caller's own


def test_one_graph_for_each_bucket_and_no_allocation_per_batch(bundle: Bundle, entry: Engine, trt: TensorRt) -> None:
    cuda = trt.cuda
    with TensorRtEngine(bundle, entry, trt=trt, cuda=cuda) as engine:
        graphs = len(BATCHES) if entry.flavour == "tensorrt" else 0  # RTX captures its own
        assert len(cuda.graphs) == graphs
        assert all(len(steps) == 3 for steps in cuda.graphs.values())  # to the device, the network, back
        cuda.calls.clear()
        for n in (1, 3, 4, 6):
            engine.infer(noise(n))
    launched = cuda.calls.count("cudaGraphLaunch")
    assert launched == (5 if graphs else 0)  # 1; 3 in 4; 4; 4 and 2
    assert not {"cudaMalloc", "cudaHostAlloc"} & set(
        cuda.calls[: cuda.calls.index("cudaGraphExecDestroy") if graphs else 5]
    )
    if not graphs:
        (config,) = trt.configs
        assert (config.cuda_graph_strategy, config.dynamic_shapes_kernel_specialization_strategy) == ("whole", "eager")


def test_kernels_are_kept_for_the_next_start(bundle: Bundle, entry: Engine, trt: TensorRt, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for _ in range(2):
        with TensorRtEngine(bundle, entry, cache=folder, trt=trt, cuda=trt.cuda):
            pass
    if entry.flavour == "tensorrt":
        assert not folder.exists()
        return
    (file,) = folder.iterdir()
    assert file.read_bytes() == trt.cached
    assert [config.loaded for config in trt.configs] == [b"", trt.cached]
    trt.cached = b"of a newer driver"
    with TensorRtEngine(bundle, entry, cache=folder, trt=trt, cuda=trt.cuda):
        pass
    assert file.read_bytes() == b"of a newer driver"
    other = entry.model_copy(update={"library": "tensorrt-rtx 10.0"})
    trt.__class__ = type("Newer", (TensorRt,), {"__version__": "10.0"})
    with TensorRtEngine(bundle, other, cache=folder, trt=trt, cuda=trt.cuda):
        pass
    assert len(list(folder.iterdir())) == 2  # another library's kernels are not mistaken for these


def test_a_cache_that_cannot_be_written_does_not_matter(
    bundle: Bundle, entry: Engine, trt: TensorRt, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with TensorRtEngine(bundle, entry, cache=tmp_path / "file" / "cache", trt=trt, cuda=trt.cuda) as engine:
        assert self_test(engine, bundle, 4, entry) < 1e-5


# ---- refusals ----------------------------------------------------------------------------------------------------


def refusal(bundle: Bundle, entry: Engine, trt: TensorRt) -> str:
    with pytest.raises(EngineError) as info, TensorRtEngine(bundle, entry, trt=trt, cuda=trt.cuda):
        pytest.fail("entered")
    assert not trt.cuda.memory
    assert not trt.cuda.alive
    sentence = str(info.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("diagnostics", "reason"),
    [
        (1, "another version of the library compiled it; compile it here: deepecg-agent rebuild"),
        (2, "GPUs of another compute capability"),
        (4, "driver is too old"),
        (4 | 1, "another version of the library"),
        (8, "CUDA runtime is too old"),
        (16, "too little free memory"),
        (32, "no engine of this library"),
        (64, "install or repair NVIDIA's driver"),
    ],
)
def test_rtx_says_why_an_engine_does_not_fit(bundle: Bundle, trt: TensorRt, diagnostics: int, reason: str) -> None:
    document = bundle.manifest.engines[1].model_dump()
    entry = Engine.model_validate(document | {"flavour": "tensorrt-rtx", "library": "tensorrt-rtx 9.9"})
    trt.diagnostics = diagnostics
    sentence = refusal(bundle, entry, trt)
    assert sentence.startswith("engine tensorrt-rtx-f32 does not fit: ")
    assert reason in sentence


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "The engine plan file is not compatible with this version of TensorRT, expecting version 11.1 got 11.0",
            "another version of the library compiled it; compile it here: deepecg-agent rebuild",
        ),
        (
            "The engine plan file is generated on an incompatible device, expecting compute 8.9 got 7.5",
            "another compute",
        ),
        (
            "Serialization assertion failed. incompatible serialization version (1 != 2)",
            "another version of the library",
        ),
        ("(cudaError 35: CUDA driver version is insufficient)", "no NVIDIA driver, or one too old"),
        ("something\nunheard of", "does not load: something unheard of"),
    ],
)
def test_an_engine_that_comes_back_as_none(
    bundle: Bundle, entry: Engine, trt: TensorRt, message: str, reason: str
) -> None:
    trt.message = message
    assert reason in refusal(bundle, entry, trt)


def test_another_version_is_refused_before_the_file_is_read(bundle: Bundle, entry: Engine, trt: TensorRt) -> None:
    name = entry.flavour
    missing = entry.model_copy(update={"library": f"{name} 9.8", "files": ("not there",)})
    assert refusal(bundle, missing, trt) == (
        f"{name} 9.8 compiled it, and {name} 9.9 is installed; compile it here: deepecg-agent rebuild."
    )


def test_no_gpu(bundle: Bundle, entry: Engine, trt: TensorRt) -> None:
    trt.cuda.gpus = 0
    assert "no GPU that CUDA can use" in refusal(bundle, entry, trt)
    trt.cuda.fails["cudaGetDeviceCount"] = 35
    assert "no GPU that CUDA can use: CUDA's cudaGetDeviceCount fails: CUDA driver" in refusal(bundle, entry, trt)


@pytest.mark.parametrize(
    "call", ["cudaStreamCreateWithFlags", "cudaHostAlloc", "cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"]
)
def test_a_cuda_call_that_fails_leaves_nothing_behind(bundle: Bundle, entry: Engine, trt: TensorRt, call: str) -> None:
    trt.cuda.fails[call] = 2
    assert f"CUDA's {call} fails: out of memory (error 2)" in refusal(bundle, entry, trt)


def test_a_capture_that_fails_is_ended(bundle: Bundle, trt: TensorRt) -> None:
    document = bundle.manifest.engines[1].model_dump()
    entry = Engine.model_validate(document | {"flavour": "tensorrt", "library": "tensorrt 9.9", "batches": BATCHES})
    trt.cuda.fails["cudaGraphInstantiate"] = 2
    refusal(bundle, entry, trt)
    assert trt.cuda.captured is None


def test_an_engine_of_other_labels_or_batches(bundle: Bundle, entry: Engine, trt: TensorRt) -> None:
    trt.labels = 5
    assert "gives (4, 5) instead of (4, 3)" in refusal(bundle, entry, trt)
    trt.labels, trt.batches = 3, (8, 16)
    assert "takes 8 to 16 windows, and the manifest's batches (1, 2, 4)" in refusal(bundle, entry, trt)


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_without_the_libraries(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, flavour.replace("-", "_"), None)
    with pytest.raises(
        EngineError, match=rf"{flavour} does not load .*; install it: pip install 'deepecg-bedside\[gpu"
    ):
        tensorrt_library(flavour)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(EngineError, match=r"CUDA binding does not load .*; install it: pip install"):
        cuda_library()


# ---- the real libraries, on a machine without a GPU --------------------------------------------------------------


@pytest.fixture(scope="module")
def real(sourced: Path) -> tuple[Bundle, Engine]:
    """A bundle with a real RTX engine, compiled here and now."""
    for module in ("tensorrt_rtx", "cuda.bindings"):
        if find_spec(module.partition(".")[0]) is None:
            if os.environ.get("CI"):
                pytest.fail(f"{module} is not installed: CI must meet the real library")
            pytest.skip(f"{module} is not installed: pip install 'deepecg-bedside[gpu-rtx]'")
    bundle = open_bundle(sourced, UNSIGNED)
    built = build(read_source(bundle, "tensorrt-rtx"), "tensorrt-rtx", "f16", BATCHES, capabilities=("8.6",))
    (name, content), *_ = built.files.items()
    return with_file(bundle, name, content), built.entry(bundle.manifest.engines[0].parity)


def with_file(bundle: Bundle, name: str, content: bytes) -> Bundle:
    (bundle.path / name).write_bytes(content)
    files = bundle.manifest.files | {name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))}
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"files": files}))


def has_gpu() -> bool:
    status, count = cuda_library().cudaGetDeviceCount()
    return int(status) == 0 and count > 0


@pytest.mark.gpu
def test_a_real_engine_on_a_real_gpu(sourced: Path, tmp_path: Path) -> None:
    """Compiled for it, held against the golden windows, twice, so that the kernels are found again."""
    assert has_gpu()
    bundle = open_bundle(sourced, UNSIGNED)
    for flavour in ("tensorrt-rtx", "tensorrt"):
        if find_spec(flavour.replace("-", "_")) is None:
            continue
        for precision in ("f32", "f16"):
            capabilities = (this_machine().compute_capability,)
            source = read_source(bundle, flavour)  # type: ignore[arg-type]
            built = build(source, flavour, precision, BATCHES, capabilities=capabilities)  # type: ignore[arg-type]
            (name, content), *_ = built.files.items()
            one, entry = with_file(bundle, name, content), built.entry(bundle.manifest.engines[0].parity)
            for _ in range(2):
                with TensorRtEngine(one, entry, cache=tmp_path) as engine:
                    assert self_test(engine, one, 4, entry) < (1e-4 if precision == "f32" else 0.02)
                    x = noise(11)
                    alone = np.concatenate([engine.infer(x[i : i + 1]) for i in range(11)])
                    np.testing.assert_allclose(engine.infer(x), alone, atol=1e-5 if precision == "f32" else 0.01)


def test_a_real_engine_where_there_is_no_gpu(real: tuple[Bundle, Engine]) -> None:
    if has_gpu():
        pytest.skip("this machine has a GPU")
    bundle, entry = real
    with (
        pytest.raises(EngineError, match=r"^there is no GPU that CUDA can use: .*error (35|100)"),
        TensorRtEngine(bundle, entry),
    ):
        pytest.fail("entered")


def test_the_real_library_says_in_one_sentence_why_it_does_not_load(real: tuple[Bundle, Engine]) -> None:
    """Past the check for a GPU, as if one had been unplugged after it."""
    if has_gpu():
        pytest.skip("this machine has a GPU")
    bundle, entry = real
    cuda = Cuda()
    with pytest.raises(EngineError) as info, TensorRtEngine(bundle, entry, cuda=cuda):
        pytest.fail("entered")
    assert str(info.value) == (
        "engine tensorrt-rtx-f16 does not fit: there is no NVIDIA driver, or one too old; install a newer driver."
    )
    assert not cuda.memory
    junk = entry.model_copy(update={"files": ("junk.engine",)})
    other = with_file(bundle, "junk.engine", b"x" * 4096)
    with pytest.raises(EngineError, match="is no engine of this library"), TensorRtEngine(other, junk, cuda=Cuda()):
        pytest.fail("entered")


def test_a_real_machine_is_compared_by_the_manifest_first(real: tuple[Bundle, Engine]) -> None:
    bundle, entry = real
    (own, *_) = bundle.manifest.engines
    both = replace(bundle, manifest=bundle.manifest.model_copy(update={"engines": (entry, own)}))
    turing = Machine(
        cpu="x",
        cpu_features=(),
        gpu="Quadro RTX 4000",
        compute_capability="7.5",
        libraries={"tensorrt-rtx": entry.library.partition(" ")[2]},
    )
    assert entry.target == Target(kind="gpu", compute_capability="8.6")
    with open_backend(both, EngineSettings(), machine=turing) as opened:
        assert opened.name == "openvino-f32"
    assert opened.skipped[0].reason == "it is for compute capability 8.6, and Quadro RTX 4000 has 7.5"
