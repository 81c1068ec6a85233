"""torch on the GPU with CUDA graphs: for data-centre GPUs and wherever TensorRT is not.

What is run is the bundle's ONNX file, the very graph that TensorRT engines are compiled from, in the precision that
`agent.engines.mixed_precision` writes into it. Not a ``.pt2`` or TorchScript file: those hold pickles or tie the agent
to one version of torch, and would be a third copy of the weights in the bundle; the two dozen operations of our
networks are each one call of torch. It also means that a GPU's graph can be held against fp32 torch on a machine
without one.

Everything is laid out on entry: pinned host buffers, device buffers, one stream, and one CUDA graph per batch bucket
with its copies to and from the device inside. A batch is written into the pinned buffer, padded up to the next bucket,
and launched; nothing is allocated. Raw windows are filtered on the device (`prepare_on`), by graphs of their own for
each rate, which are captured when a rate is first seen.

With ``device="cpu"`` all of it runs but pinning and capture, which is how it is tested. **Capture and everything on a
GPU have never run where this project is built**: see the README for the one command that does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from agent.core.bundle.manifest import Engine
from agent.core.ecg import LEADS, FloatArray
from agent.core.preprocessing import Steps, prepare, steps
from agent.engines.base import BUCKETS, EngineError, in_buckets
from agent.engines.bundles.bundle import Bundle
from agent.engines.mixed_precision import in_mixed_precision, onnx_library, read_onnx

Tensor: TypeAlias = Any
Torch: TypeAlias = Any
"""torch is imported lazily and only here, so its types are not known to the checker."""

MAX_RATES = 8
"""Rates whose windows are filtered on the device; a ward has two or three. Others are filtered on the processor."""


class TorchCudaEngine:
    """The bundle's ONNX file on one GPU. See `agent.engines.base.Backend`."""

    def __init__(self, bundle: Bundle, entry: Engine, *, device: str = "cuda:0") -> None:
        self._bundle = bundle
        self._entry = entry
        self._device_name = device
        self._buckets = entry.batches or BUCKETS
        self._launch: dict[tuple[float, int], Callable[[], None]] = {}

    @property
    def name(self) -> str:
        """As ``torch-cuda-bf16``."""
        return f"torch-cuda-{self._entry.precision}"

    def __enter__(self) -> Self:
        """Load, lay out the buffers, run every bucket once and capture it.

        Raises:
            EngineError: torch or the GPU is missing, or the file is not of our exporter's kind.
            BundleError: the file is no longer the one that was checked.
        """
        torch = self._torch = torch_library()
        self._device = torch.device(self._device_name)
        self._on_gpu = self._device.type == "cuda"
        if self._on_gpu and not torch.cuda.is_available():
            raise EngineError(
                f"torch {torch.__version__} sees no GPU; install NVIDIA's driver and a torch build for CUDA."
            )
        content = self._bundle.read(self._entry.files[0])
        if self._entry.precision != "f32":
            content = in_mixed_precision(content, self._entry.precision)
        try:
            with torch.inference_mode():
                self._network = network_from_onnx(torch, content, self._device)
                self._lay_out(torch)
        except torch.OutOfMemoryError as error:
            self.__exit__(None, None, None)
            raise EngineError(
                f"the GPU has too little memory for batches of {self._buckets[-1]}; end what else uses it, or "
                "compile smaller batches."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Give the GPU's memory back."""
        self._launch.clear()
        for name in ("_pool", "_network", "_into", "_out_of", "_input", "_output", "_raw"):
            self.__dict__.pop(name, None)
        if self._on_gpu:
            self._torch.cuda.empty_cache()

    def infer(self, x: FloatArray) -> FloatArray:
        """Probabilities (B, n_labels) of prepared windows (B, 12, rate * seconds)."""
        return self._run(x, 0.0, self._input)

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        """The same of raw windows, filtered on the device."""
        p = self._bundle.manifest.input.preprocessing
        if rate not in self._raw:
            if p.bands or len(self._raw) >= MAX_RATES:  # flattening bands is no mask's work
                return self.infer(prepare(windows, rate, p))
            self._add_rate(rate, steps(windows.shape[2], rate, p))
        return self._run(windows, rate, self._raw[rate])

    def _run(self, x: FloatArray, rate: float, staging: Tensor) -> FloatArray:
        out = np.empty((len(x), len(self._bundle.manifest.labels)), np.float32)
        into, drain = staging.numpy(), self._output.numpy()
        for part, bucket in in_buckets(len(x), self._buckets):
            n = part.stop - part.start
            into[:n] = x[part]
            into[n:bucket] = 0.0
            self._launch[rate, bucket]()
            if self._on_gpu:
                self._stream.synchronize()
            out[part] = drain[:n]
        return out

    # ---- on entry ----------------------------------------------------------------------------------------------------

    def _lay_out(self, torch: Torch) -> None:
        p = self._bundle.manifest.input.preprocessing
        most, labels = self._buckets[-1], len(self._bundle.manifest.labels)
        self._stream: Any = torch.cuda.Stream(self._device) if self._on_gpu else None
        self._pool: Any = torch.cuda.graph_pool_handle() if self._on_gpu else None
        self._input, self._into = self._buffers((most, len(LEADS), round(p.rate * p.seconds)))
        self._output, self._out_of = self._buffers((most, labels))
        self._raw: dict[float, Tensor] = {}
        found = tuple(self._network(self._into[:1]).shape)
        if found != (1, labels):
            raise EngineError(
                f"{self._entry.files[0]} gives {found} instead of (1, {labels}) for one window; "
                "compile the bundle again."
            )
        for bucket in reversed(self._buckets):  # the largest first: the others then fit into its memory
            self._launch[0.0, bucket] = self._captured(bucket, self._input, self._into, None)

    def _add_rate(self, rate: float, s: Steps) -> None:
        samples = s.length - 2 * s.pad
        staging, device = self._buffers((self._buckets[-1], len(LEADS), samples))
        mask = self._torch.from_numpy(s.mask.copy()).to(self._device)
        with self._torch.inference_mode():
            for bucket in reversed(self._buckets):
                self._launch[rate, bucket] = self._captured(bucket, staging, device, (s, mask))
        self._raw[rate] = staging

    def _buffers(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """A (pinned) host tensor, and one on the device."""
        host = self._torch.zeros(shape, dtype=self._torch.float32, pin_memory=self._on_gpu)
        return host, self._torch.zeros(shape, dtype=self._torch.float32, device=self._device)

    def _captured(
        self, bucket: int, staging: Tensor, device: Tensor, filtered: tuple[Steps, Tensor] | None
    ) -> Callable[[], None]:
        """What computes ``bucket`` windows: host buffer, device, network, device, host buffer."""
        torch, network, drain, out_of = self._torch, self._network, self._output, self._out_of

        def run() -> None:
            device[:bucket].copy_(staging[:bucket], non_blocking=True)
            x = device[:bucket] if filtered is None else prepare_on(torch, device[:bucket], *filtered)
            out_of[:bucket].copy_(network(x))
            drain[:bucket].copy_(out_of[:bucket], non_blocking=True)

        def run_here() -> None:
            with torch.inference_mode():
                run()

        if not self._on_gpu:
            return run_here
        # Without TF32: f32 is what is said, not 10 bits of it. The choice of kernels is captured with them.
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False),
            torch.cuda.stream(self._stream),
        ):
            for _ in range(3):  # libraries choose kernels and make their plans, which no capture may contain
                run()
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                run()

        def launch() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return launch


def torch_library() -> Torch:
    """torch.

    Raises:
        EngineError: it is not installed, or does not load.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise EngineError(f"torch does not load ({first}); install it: pip install 'deepecg-bedside[gpu]'.") from error
    return torch


def prepare_on(torch: Torch, x: Tensor, s: Steps, mask: Tensor) -> Tensor:
    """`agent.core.preprocessing.prepare` in torch: raw windows (B, 12, samples) in mV to the network's input, on a
    device.

    ``mask`` is the steps' own, on that device.
    """
    n, pad = x.shape[-1], s.pad
    if pad:
        left = 2 * x[..., :1] - x[..., 1 : pad + 1].flip(-1)
        right = 2 * x[..., n - 1 :] - x[..., n - 1 - pad : n - 1].flip(-1)
        x = torch.cat((left, x, right), -1)
    spectrum = torch.fft.rfft(x)[..., : mask.numel()] * mask
    y = torch.fft.irfft(spectrum, n=s.length_out)
    return y[..., s.pad_out : s.pad_out + s.samples_out]


# ---- ONNX to calls of torch ------------------------------------------------------------------------------------------


def network_from_onnx(torch: Torch, content: bytes, device: Any) -> Callable[[Tensor], Tensor]:
    """A function of the one input that runs the ONNX graph's operations in turn.

    Raises:
        EngineError: an operation is not among those of our networks; no partial network is ever run.
    """
    onnx = onnx_library()
    graph = read_onnx(content).graph
    constants: dict[str, Any] = {t.name: _constant(torch, onnx, t, device) for t in graph.initializer}
    if unknown := sorted({node.op_type for node in graph.node} - _OPERATIONS.keys()):
        raise EngineError(f"the ONNX file has the operation {unknown[0]}, which none of our networks has.")
    nodes = [
        (_OPERATIONS[node.op_type], _attributes(onnx, node), tuple(node.input), node.output[0]) for node in graph.node
    ]
    nodes = _with_biases(torch, nodes, constants)
    last = {name: i for i, (_, _, inputs, _) in enumerate(nodes) for name in inputs}
    ends = [
        [n for n in set(inputs) if last[n] == i and n not in constants] for i, (_, _, inputs, _) in enumerate(nodes)
    ]
    source, result = graph.input[0].name, graph.output[0].name

    def run(x: Tensor) -> Tensor:
        values: dict[str, Tensor] = {"": None, source: x}
        for (operation, attributes, inputs, output), done in zip(nodes, ends, strict=True):
            found = [constants[name] if name in constants else values[name] for name in inputs]
            values[output] = operation(torch, attributes, *found)
            for name in done:  # memory of what nobody reads any more is used again
                if name:
                    del values[name]
        return values[result]

    return run


def _constant(torch: Torch, onnx: Any, tensor: Any, device: Any) -> Any:
    """Weights as tensors on the device, whole numbers (axes, shapes) as lists."""
    kinds = onnx.TensorProto
    if tensor.data_type in {kinds.INT64, kinds.INT32}:
        values = onnx.numpy_helper.to_array(tensor)
        return [int(value) for value in np.atleast_1d(values)]
    if tensor.data_type == kinds.BFLOAT16:
        raw = onnx.numpy_helper.to_array(tensor).view(np.int16).copy()
        return torch.from_numpy(raw).view(torch.bfloat16).to(device)
    return torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()).to(device)


_Node: TypeAlias = tuple[Callable[..., Tensor], Mapping[str, Any], tuple[str, ...], str]


def _with_biases(torch: Torch, nodes: Sequence[_Node], constants: dict[str, Any]) -> list[_Node]:
    """Products with a bias added after them as one call, whose kernel adds it for nothing."""
    uses = [name for _, _, inputs, _ in nodes for name in inputs]
    made = {output: i for i, (_, _, _, output) in enumerate(nodes)}
    joined = list(nodes)
    for i, (operation, _, inputs, output) in enumerate(nodes):
        if operation is not _OPERATIONS["Add"]:
            continue
        for product, bias in (inputs, inputs[::-1]):
            j = made.get(product)
            if j is None or nodes[j][0] is not _OPERATIONS["MatMul"] or uses.count(product) != 1:
                continue
            weight: Any = constants.get(nodes[j][2][1])
            vector: Any = constants.get(bias)
            if torch.is_tensor(weight) and weight.ndim == 2 and torch.is_tensor(vector) and vector.ndim == 1:
                joined[i] = (_linear, {}, (nodes[j][2][0], nodes[j][2][1], bias), output)
                joined[j] = (*joined[j][:3], "")
                break
    return [node for node in joined if node[3]]


def _attributes(onnx: Any, node: Any) -> Mapping[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _linear(torch: Torch, _a: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, weight.t(), bias)


def _conv(torch: Torch, a: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.ndim - 2
    pads = a.get("pads", [0] * 2 * rank)
    if pads[:rank] != pads[rank:] or a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise EngineError("the ONNX file has a convolution that is padded at one end only; none of our networks has.")
    call = torch.nn.functional.conv1d if rank == 1 else torch.nn.functional.conv2d
    ones = [1] * rank
    return call(x, weight, bias, a.get("strides", ones), pads[:rank], a.get("dilations", ones), a.get("group", 1))


def _gemm(torch: Torch, a: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if a.get("transA", 0) or a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
        raise EngineError("the ONNX file has a scaled product, which none of our networks has.")
    return torch.nn.functional.linear(x, weight if a.get("transB", 0) else weight.t(), bias)


def _slice(_torch: Torch, _a: Mapping[str, Any], x: Tensor, *bounds: list[int]) -> Tensor:
    starts, ends, *rest = bounds
    axes = rest[0] if rest else list(range(len(starts)))
    strides = rest[1] if len(rest) > 1 else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for axis, first, end, stride in zip(axes, starts, ends, strides, strict=True):
        index[axis] = slice(first, end, stride)
    return x[tuple(index)]


def _reduce(name: str) -> Callable[..., Tensor]:
    def run(_torch: Torch, a: Mapping[str, Any], x: Tensor, axes: list[int]) -> Tensor:
        return getattr(x, name)(axes, keepdim=bool(a.get("keepdims", 1)))

    return run


def _attention(torch: Torch, a: Mapping[str, Any], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scale = a.get("scale", 1.0 / math.sqrt(q.shape[-1]))
    if q.ndim != 4 or a.get("is_causal", 0) or a.get("softcap", 0.0):
        raise EngineError("the ONNX file has another kind of attention than our networks have.")
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)


def _squeeze(_torch: Torch, _a: Mapping[str, Any], x: Tensor, axes: list[int]) -> Tensor:
    return x.squeeze(axes)


def _unsqueeze(_torch: Torch, _a: Mapping[str, Any], x: Tensor, axes: list[int]) -> Tensor:
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def _reshape(_torch: Torch, a: Mapping[str, Any], x: Tensor, shape: list[int]) -> Tensor:
    sizes = shape if a.get("allowzero", 0) else [size or x.shape[i] for i, size in enumerate(shape)]
    return x.reshape(sizes)


def _layer_norm(torch: Torch, a: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if a.get("axis", -1) not in {-1, x.ndim - 1}:
        raise EngineError("the ONNX file has a norm over more than the features, which none of our networks has.")
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, a.get("epsilon", 1e-5))


def _group_norm(torch: Torch, a: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.group_norm(x, a["num_groups"], weight, bias, a.get("epsilon", 1e-5))


def _cast(torch: Torch, a: Mapping[str, Any], x: Tensor) -> Tensor:
    return x.to({1: torch.float32, 10: torch.float16, 16: torch.bfloat16}[a["to"]])  # onnx.TensorProto's numbers


def _gelu(torch: Torch, a: Mapping[str, Any], x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate=a.get("approximate", b"none").decode())


_OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "Add": lambda _t, _a, x, y: x + y,
    "Attention": _attention,
    "Cast": _cast,
    "Conv": _conv,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda t, a, x: t.nn.functional.leaky_relu(x, a.get("alpha", 0.01)),
    "MatMul": lambda _t, _a, x, y: x @ y,
    "Mul": lambda _t, _a, x, y: x * y,
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "Reshape": _reshape,
    "Sigmoid": lambda _t, _a, x: x.sigmoid(),
    "Slice": _slice,
    "Softmax": lambda _t, a, x: x.softmax(a.get("axis", -1)),
    "Squeeze": _squeeze,
    "Transpose": lambda _t, a, x: x.permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""Of opset 23, what our networks' exports consist of."""
