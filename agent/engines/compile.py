"""The one compiler of engines: from a network's ONNX file or IR to what a back-end opens. No torch, no data, no socket.

Training uses it for the bundle that it publishes, `deepecg-agent rebuild` for the machine on the ward:

    built = build(read_source(bundle, "tensorrt-rtx"), "tensorrt-rtx", "bf16", capabilities=("8.9",))
    built.files, built.library, built.target, built.seconds

The source is always the network in f32. What each flavour makes of it:

- **openvino**: f32 is the IR itself. bf16 is asked for when it is loaded; its weights are stored as f16, which is finer
  than bf16 and halves file and memory (DeepECG-SSL 480 MB instead of 650, as fast, as near to f32). int8w has each
  matrix product's weights as int8 with a scale per output; the library quantises the activations while it runs.
  That is what NNCF's ``compress_weights`` makes, without NNCF on the ward. (On DeepECG-SSL it is as fast, and nearer to
  f32: .060 against .090 of a logit at most.)
- **tensorrt-rtx** and **tensorrt**: one path through the API that both share. Networks are strongly typed there: the
  precision is the graph's own, so `in_mixed_precision` writes it. RTX compiles ahead of time, without a GPU, for the
  compute capabilities that are named; TensorRT for the GPU of this machine, whose kernels it times. Neither is made
  version-compatible or hardware-compatible, as both cost speed and an engine that does not fit is compiled again; and
  no timing cache is kept, as it would help only who compiles the same network for the same GPU twice.
- **torch-cuda**: torch runs the ONNX file itself, so there is nothing to compile.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from agent.core.bundle.limits import Parity
from agent.core.bundle.manifest import Engine, Flavour, Precision, Target
from agent.core.ecg import FloatArray
from agent.engines.backends.openvino import openvino_library
from agent.engines.backends.tensorrt import Log, tensorrt_library
from agent.engines.base import BUCKETS, EngineError
from agent.engines.bundles.bundle import Bundle
from agent.engines.machine import library_version, this_machine
from agent.engines.mixed_precision import in_mixed_precision

Model: TypeAlias = Any
Progress: TypeAlias = Callable[[str, float], None]
"""Called with the name of a phase and the share of it that is done; perhaps from another thread."""

ONNX, IR = "model.onnx", ("model.xml", "model.bin")
WORKSPACE = 1 << 30
"""Bytes of GPU memory that a kernel may ask for: the GPU may not be the agent's alone."""
PRECISIONS: Mapping[Flavour, tuple[Precision, ...]] = {
    "openvino": ("f32", "bf16", "int8w"),
    "tensorrt": ("f32", "bf16", "f16"),
    "tensorrt-rtx": ("f32", "bf16", "f16"),
    "torch-cuda": ("f32", "bf16", "f16"),
}
_MOST_WORDS = 300


@dataclass(frozen=True, slots=True, eq=False)
class SourceFiles:
    """The network in f32, weights inside; either may be absent."""

    onnx: bytes | None = None
    ir: tuple[bytes, bytes] | None = None
    """.xml and .bin."""


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """An engine, and what is to be said of it."""

    flavour: Flavour
    precision: Precision
    files: dict[str, bytes]
    """Content by name; the first is the one to open."""
    library: str
    """As ``tensorrt-rtx 1.7.1.116``."""
    target: Target
    batches: tuple[int, ...]
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))

    def entry(self, parity: Parity) -> Engine:
        """The manifest's words for it, once its parity is known."""
        return Engine(
            flavour=self.flavour,
            precision=self.precision,
            library=self.library,
            files=tuple(self.files),
            target=self.target,
            batches=self.batches,
            parity=parity,
        )


def read_source(bundle: Bundle, flavour: Flavour) -> SourceFiles:
    """Of a bundle's sources the one that a flavour is compiled from: reading a large network twice helps nobody.

    Raises:
        EngineError: the bundle has none.
        BundleError: a file is not what the manifest says.
    """
    source = bundle.manifest.source
    if source is not None and source.ir and flavour == "openvino":
        xml, weights = source.ir
        return SourceFiles(ir=(bundle.read(xml), bundle.read(weights)))
    if source is not None and source.onnx:
        return SourceFiles(onnx=bundle.read(source.onnx))
    raise EngineError(
        f"bundle {bundle.manifest.model_id} holds nothing that {flavour} can be compiled from; use one with its source."
    )


def build(
    source: SourceFiles,
    flavour: Flavour,
    precision: Precision,
    batches: Sequence[int] = (),
    *,
    capabilities: Sequence[str] = (),
    progress: Progress | None = None,
) -> Built:
    """Compile.

    Args:
        source: The network in f32.
        flavour: Of the engine.
        precision: One of `PRECISIONS` of the flavour.
        batches: Batch sizes on a GPU, ascending; none: `BUCKETS`. The processor computes window by window.
        capabilities: Compute capabilities, as ``8.9``, that a tensorrt-rtx engine is for; none: all it knows from 8.0.
        progress: Told where it is.

    Raises:
        EngineError: the flavour has no such precision, its library is missing, or it refuses.
    """
    if precision not in PRECISIONS[flavour]:
        raise EngineError(f"{flavour} has no {precision}; ask for one of {', '.join(PRECISIONS[flavour])}.")
    began = time.monotonic()
    tell = progress or (lambda _phase, _share: None)
    match flavour:
        case "openvino":
            batches, files = (), _openvino(source, precision, tell)
            features = ("avx512_bf16",) if precision == "bf16" else ()
            target = Target(kind="cpu", cpu_features=features)
        case "torch-cuda":
            batches = batches or BUCKETS
            files, target = {ONNX: _onnx(source)}, Target(kind="gpu")
        case _:
            batches = batches or BUCKETS
            files, target = _tensorrt(source, flavour, precision, batches, capabilities, tell)
    library = f"{flavour} {library_version(flavour)}".strip()
    return Built(flavour, precision, files, library, target, tuple(batches), time.monotonic() - began)


def _onnx(source: SourceFiles) -> bytes:
    if source.onnx is None:
        raise EngineError("this flavour is compiled from an ONNX file, and there is none; export the network again.")
    return source.onnx


# ---- OpenVINO --------------------------------------------------------------------------------------------------------


def _openvino(source: SourceFiles, precision: Precision, tell: Progress) -> dict[str, bytes]:
    if precision == "f32" and source.ir is not None:
        return dict(zip(IR, source.ir, strict=True))
    openvino = openvino_library()
    tell("reading", 0.0)
    try:
        core = openvino.Core()
        if source.ir is not None:
            xml, weights = source.ir
            model = core.read_model(xml, openvino.Tensor(np.frombuffer(weights, np.uint8)))
        else:
            model = core.read_model(_onnx(source))
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot read the network ({_last_line(error)}); export it again.") from error
    if precision == "int8w":
        tell("quantising", 0.0)
        _compress(openvino, model)
    tell("writing", 0.0)
    names = IR if precision == "f32" else tuple(name.replace("model", f"model-{precision}") for name in IR)
    return dict(zip(names, ir_of(model, f16=precision == "bf16"), strict=True))


def ir_of(model: Model, *, f16: bool = False) -> tuple[bytes, bytes]:
    """.xml and .bin of an OpenVINO model, its constants as they are, or as f16 where that can hold them."""
    with tempfile.TemporaryDirectory(prefix="deepecg-") as folder:  # the library writes to paths only
        path = Path(folder) / IR[0]
        openvino_library().save_model(model, str(path), compress_to_fp16=f16)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _compress(openvino: Any, model: Model) -> None:
    """Each matrix product's constant becomes int8 · scale, one scale per output, symmetric about zero.

    The pattern (int8, Convert, Multiply) is the one that OpenVINO's plug-ins know as compressed weights.

    Raises:
        EngineError: little of the network would be compressed.
    """
    op = openvino.opset15
    products = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            constant = node.input_value(1).get_node()
            if constant.get_type_name() == "Constant" and len(constant.get_output_shape(0)) == 2:
                products.append((node, constant))
    constants = [n for n in model.get_ordered_ops() if n.get_type_name() == "Constant"]
    every = sum(int(np.prod(n.get_output_shape(0))) for n in constants)
    compressed = sum(int(np.prod(constant.get_output_shape(0))) for _, constant in products)
    if 2 * compressed < every:
        raise EngineError(
            f"int8 weights are for matrix products, and those hold {compressed / max(every, 1):.0%} of this network's "
            "weights; compile bf16 or f32."
        )
    for node, constant in products:
        q, scale = _quantise(constant.data, axis=1 if node.get_attributes()["transpose_b"] else 0)
        whole = op.multiply(op.convert(op.constant(q), openvino.Type.f32), op.constant(scale))
        node.input(1).replace_source_output(whole.output(0))
    model.validate_nodes_and_infer_types()


def _quantise(weight: FloatArray, axis: int) -> tuple[Any, FloatArray]:
    """int8 values and the float32 scale of each output, so that their product is nearest to ``weight``."""
    largest = np.abs(weight).max(axis, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


# ---- TensorRT, both flavours -----------------------------------------------------------------------------------------


def _tensorrt(
    source: SourceFiles,
    flavour: Flavour,
    precision: Precision,
    batches: Sequence[int],
    capabilities: Sequence[str],
    tell: Progress,
) -> tuple[dict[str, bytes], Target]:
    trt = tensorrt_library(flavour)
    content = _onnx(source) if precision == "f32" else in_mixed_precision(_onnx(source), precision)
    log = Log.of(trt)
    builder = trt.Builder(log)
    if builder is None:  # TensorRT asks for the GPU already here
        raise EngineError(f"{flavour} finds no GPU to compile for ({log.last()}); run it on the machine that has it.")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content) or network.num_inputs != 1:  # junk may parse as a network of nothing
        raise EngineError(f"{flavour} cannot read the ONNX file ({log.last()}); export the network again.")
    _allow_decomposed_attention(trt, network)

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    config.clear_flag(trt.BuilderFlag.TF32)  # f32 is what is said, not 10 bits of it
    if capabilities and flavour == "tensorrt-rtx":
        config.num_compute_capabilities = len(capabilities)
        for i, capability in enumerate(capabilities):
            config.set_compute_capability(_capability(trt, capability), i)
    config.progress_monitor = _monitor(trt, tell)
    profile = builder.create_optimization_profile()
    x = network.get_input(0)
    tail = tuple(x.shape)[1:]
    # Kernels are chosen for the middle bucket; RTX chooses on the GPU, for each bucket.
    profile.set_shape(x.name, *((n, *tail) for n in (batches[0], batches[len(batches) // 2], batches[-1])))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(f"{flavour} cannot compile the network in {precision}: {log.last()[:_MOST_WORDS]}")
    name = f"model-{flavour}-{precision}.engine"
    return {name: bytes(engine)}, _gpu_target(flavour, capabilities)


def _gpu_target(flavour: Flavour, capabilities: Sequence[str]) -> Target:
    if flavour == "tensorrt-rtx":
        return Target(kind="gpu", compute_capability=capabilities[0] if len(capabilities) == 1 else "")
    machine = this_machine()
    return Target(kind="gpu", compute_capability=machine.compute_capability, gpu=machine.gpu)


def _capability(trt: Any, text: str) -> Any:
    known = {name: value for name, value in vars(trt.ComputeCapability).items() if name.startswith("SM")}
    name = f"SM{text.replace('.', '')}"
    if name not in known:
        there = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in sorted(known, key=lambda n: int(n[2:])))
        raise EngineError(f"tensorrt-rtx has no compute capability {text}, only {there}; use torch-cuda on that GPU.")
    return known[name]


def _allow_decomposed_attention(trt: Any, network: Any) -> None:
    """Where no fused kernel fits (none does in f32), attention may be taken apart instead of refused."""
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # the binding's way to get at a layer's own properties
            layer.attention.decomposable = True


def _monitor(trt: Any, tell: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self._steps[phase] = max(steps, 1)
            tell(phase, 0.0)

        def step_complete(self, phase: str, step: int) -> bool:
            tell(phase, min(1.0, (step + 1) / self._steps.get(phase, 1)))
            return True

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)
            tell(phase, 1.0)

    return Monitor()


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]
