"""The compiler: real engines of every flavour that can be compiled here, and every refusal in one sentence."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch

from agent.core.bundle.derived import Machine
from agent.core.bundle.limits import Parity
from agent.core.ecg import FloatArray
from agent.engines.backends.openvino import GROUP
from agent.engines.base import BUCKETS, EngineError
from agent.engines.bundles.bundle import UNSIGNED, BundleError, open_bundle
from agent.engines.compile import SourceFiles, build, ir_of, read_source
from agent.engines.select import open_backend
from agent.engines.settings import EngineSettings
from training.models.kinds import SSLConfig
from training.models.ssl import DeepECGSSL
from training.publish.export import export, onnx_from, openvino_from

Rewrite = Callable[..., None]
SAMPLES = 640
L4 = Machine(cpu="x", cpu_features=(), gpu="NVIDIA L4", compute_capability="8.9", libraries={})


@pytest.fixture(scope="module")
def ssl() -> DeepECGSSL:
    """Two layers, a third as wide as the published ones."""
    net = DeepECGSSL(SSLConfig(5, 12, (64,) * 4, 256, 2, 4, 1024, position_kernel=32, position_groups=8))
    generator = torch.Generator().manual_seed(0)
    net.initialise(generator)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return net.eval()


@pytest.fixture(scope="module")
def source(ssl: DeepECGSSL) -> SourceFiles:
    program = export(ssl, SAMPLES)
    return SourceFiles(onnx=onnx_from(program), ir=ir_of(openvino_from(program)))


@pytest.fixture(scope="module")
def small(sourced: Path) -> SourceFiles:
    """DeepECG-SL, narrow: convolutions only."""
    return SourceFiles(
        (sourced / "network.onnx").read_bytes(),
        ((sourced / "network.xml").read_bytes(), (sourced / "network.bin").read_bytes()),
    )


@pytest.fixture
def rtx() -> None:
    """TensorRT for RTX compiles without a GPU, so CI does; a checkout without it skips."""
    if find_spec("tensorrt_rtx") is None:
        if os.environ.get("CI"):
            pytest.fail("tensorrt-rtx is not installed: CI must compile real engines")
        pytest.skip("tensorrt-rtx is not installed: pip install 'deepecg-bedside[gpu-rtx]'")


def answers(files: dict[str, bytes], x: FloatArray, **properties: object) -> FloatArray:
    core = openvino.Core()
    xml, weights = files.values()
    model = core.read_model(xml, openvino.Tensor(np.frombuffer(weights, np.uint8)))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **properties})
    return np.array(compiled({0: x})[0], np.float32)


def entry_of(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def windows(n: int = 3) -> FloatArray:
    return np.random.default_rng(0).normal(0, 1, (n, 12, SAMPLES)).astype(np.float32)


def wanted(net: DeepECGSSL, x: FloatArray) -> FloatArray:
    with torch.inference_mode():
        return torch.sigmoid(net(torch.from_numpy(x))).numpy()


# ---- OpenVINO ----------------------------------------------------------------------------------------------------


def test_f32_is_the_source_itself(source: SourceFiles) -> None:
    built = build(source, "openvino", "f32", (1, 4))  # batches are a GPU's
    assert (*built.files.values(),) == source.ir
    assert (built.target.kind, built.target.cpu_features) == ("cpu", ())
    assert built.library == f"openvino {openvino.__version__.split('-')[0]}"
    entry = built.entry(Parity(windows=1, probability_max=0.01))
    assert (entry.files, entry.batches, entry.flavour) == (("model.xml", "model.bin"), (), "openvino")


def test_bf16_has_half_the_bytes_and_is_near(source: SourceFiles, ssl: DeepECGSSL) -> None:
    built = build(source, "openvino", "bf16")
    assert list(built.files) == ["model-bf16.xml", "model-bf16.bin"]
    assert built.target.cpu_features == ("avx512_bf16",)
    assert source.ir is not None
    assert len(built.files["model-bf16.bin"]) < 0.55 * len(source.ir[1])
    x = windows(8)
    hint = "bf16" if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    assert np.abs(answers(built.files, x, INFERENCE_PRECISION_HINT=hint) - wanted(ssl, x)).max() < 0.03


def test_openvino_from_the_onnx_file_alone(source: SourceFiles, ssl: DeepECGSSL) -> None:
    told: list[str] = []
    built = build(SourceFiles(onnx=source.onnx), "openvino", "f32", progress=lambda phase, _: told.append(phase))
    np.testing.assert_allclose(answers(built.files, windows()), wanted(ssl, windows()), atol=1e-5)
    assert told == ["reading", "writing"]
    assert built.size == sum(map(len, built.files.values()))


@pytest.mark.parametrize("group", [0, GROUP])
def test_int8_weights_are_a_quarter_and_near(source: SourceFiles, ssl: DeepECGSSL, group: int) -> None:
    built = build(source, "openvino", "int8w")
    assert list(built.files) == ["model-int8w.xml", "model-int8w.bin"]
    assert source.ir is not None
    assert len(built.files["model-int8w.bin"]) < 0.4 * len(source.ir[1])  # convolutions stay as they are
    x = windows(8)
    off = np.abs(answers(built.files, x, DYNAMIC_QUANTIZATION_GROUP_SIZE=group) - wanted(ssl, x))
    assert 1e-6 < off.max() < 0.03
    # Each weight is within half a step of its own output's scale.
    core = openvino.Core()
    before, after = (
        core.read_model(xml, openvino.Tensor(np.frombuffer(weights, np.uint8)))
        for xml, weights in (source.ir, tuple(built.files.values()))
    )
    compared = 0
    for one in before.get_ordered_ops():
        if one.get_type_name() != "MatMul":
            continue
        node = next(n for n in after.get_ordered_ops() if n.get_friendly_name() == one.get_friendly_name())
        product = node.input_value(1).get_node()
        if product.get_type_name() != "Multiply":
            continue
        q, scale = (product.input_value(i).get_node() for i in range(2))
        q = q.input_value(0).get_node()
        assert q.get_element_type() == openvino.Type.i8
        found = q.data.astype(np.float32) * scale.data
        assert (np.abs(found - one.input_value(1).get_node().data) <= 0.5001 * scale.data).all()
        compared += 1
    assert compared == 2 * 4 + 2  # four in each layer, the projection of the tokens and the head


def test_int8_weights_of_a_network_of_convolutions_are_refused(small: SourceFiles) -> None:
    with pytest.raises(EngineError, match=r"for matrix products, and those hold \d+% of this network's weights"):
        build(small, "openvino", "int8w")


def test_a_weight_row_of_zeros_stays_zero() -> None:
    from agent.engines.compile import _quantise

    weight = np.zeros((2, 3), np.float32)
    weight[1] = (-1.0, 0.5, 1.0)
    q, scale = _quantise(weight, axis=1)
    np.testing.assert_array_equal(q[0], 0)
    np.testing.assert_allclose(q * scale, weight, atol=0.5 / 127)
    assert (q.min(), q.max()) == (-127, 127)


# ---- TensorRT for RTX: real engines ------------------------------------------------------------------------------


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("which", ["small", "source"])
def test_rtx_engines_are_compiled_without_a_gpu(request: pytest.FixtureRequest, which: str, precision: str) -> None:
    files: SourceFiles = request.getfixturevalue(which)
    told: list[tuple[str, float]] = []
    built = build(
        files,
        "tensorrt-rtx",
        precision,  # type: ignore[arg-type]
        capabilities=("8.9",),
        progress=lambda phase, share: told.append((phase, share)),
    )
    (name, content), *_ = built.files.items()
    assert name == f"model-tensorrt-rtx-{precision}.engine"
    assert files.onnx is not None
    assert len(content) > (0.9 if precision == "f32" else 0.45) * len(files.onnx)  # its weights are inside
    assert built.target.model_dump(exclude_defaults=True) == {"kind": "gpu", "compute_capability": "8.9"}
    assert built.library.startswith("tensorrt-rtx 1.")
    assert built.batches == BUCKETS
    assert ("Building engine", 1.0) in told
    assert all(0.0 <= share <= 1.0 for _, share in told)


@pytest.mark.usefixtures("rtx")
def test_tensorrt_takes_the_same_path(small: SourceFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full library cannot be installed here; RTX's has the same interface, so it stands in for it by name."""
    monkeypatch.setitem(sys.modules, "tensorrt", importlib.import_module("tensorrt_rtx"))
    monkeypatch.setattr("agent.engines.compile.this_machine", lambda: L4)
    built = build(small, "tensorrt", "f16", (1, 4), capabilities=("no matter",))
    assert list(built.files) == ["model-tensorrt-f16.engine"]
    assert built.target.model_dump(exclude_defaults=True) == {
        "kind": "gpu",
        "compute_capability": "8.9",
        "gpu": "NVIDIA L4",
    }


@pytest.mark.usefixtures("rtx")
def test_one_rtx_engine_for_several_gpus(small: SourceFiles) -> None:
    built = build(small, "tensorrt-rtx", "f16", (1, 8), capabilities=("7.5", "8.6", "12.0"))
    assert (built.target.kind, built.target.compute_capability, built.batches) == ("gpu", "", (1, 8))


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("precision", "capability", "reason"),
    [
        ("bf16", "7.5", "cannot compile the network in bf16: .*sm75"),  # Turing has none
        ("f16", "9.0", r"has no compute capability 9\.0, only 7\.5, .*12\.0.*; use torch-cuda"),
    ],
)
def test_what_rtx_refuses(small: SourceFiles, precision: str, capability: str, reason: str) -> None:
    with pytest.raises(EngineError, match=reason) as info:
        build(small, "tensorrt-rtx", precision, capabilities=(capability,))  # type: ignore[arg-type]
    assert "\n" not in str(info.value)


@pytest.mark.usefixtures("rtx")
def test_rtx_of_a_file_that_is_none() -> None:
    for precision in ("f32", "f16"):
        with pytest.raises(EngineError, match=r"cannot read the ONNX file|no ONNX file"):
            build(SourceFiles(onnx=b"\x00junk"), "tensorrt-rtx", precision)  # type: ignore[arg-type]


# ---- sources and refusals ----------------------------------------------------------------------------------------


def test_the_source_of_a_bundle(sourced: Path, built: Path) -> None:
    bundle = open_bundle(sourced, UNSIGNED)
    ir = read_source(bundle, "openvino")
    assert (ir.onnx, ir.ir) == (None, tuple((sourced / f"network.{end}").read_bytes() for end in ("xml", "bin")))
    onnx = read_source(bundle, "tensorrt-rtx")
    assert (onnx.onnx, onnx.ir) == ((sourced / "network.onnx").read_bytes(), None)
    with pytest.raises(EngineError, match="bundle small/1 holds nothing that openvino can be compiled from"):
        read_source(open_bundle(built, UNSIGNED), "openvino")
    with pytest.raises(EngineError, match="compiled from an ONNX file, and there is none"):
        build(ir, "torch-cuda", "bf16")


def test_the_source_is_checked_while_it_is_read(sourced: Path, tmp_path: Path) -> None:
    for file in sourced.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    bundle = open_bundle(tmp_path, UNSIGNED)
    content = (tmp_path / "network.onnx").read_bytes()
    (tmp_path / "network.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="checksum"):
        read_source(bundle, "torch-cuda")


def test_what_is_rebuilt_serves(sourced: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    """As the ward does: source out of the bundle, engine beside it, self-test."""
    for file in sourced.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    built = build(read_source(open_bundle(tmp_path, UNSIGNED), "openvino"), "openvino", "f32", (1, 2))
    for name, content in built.files.items():
        (tmp_path / name).write_bytes(content)
    entry = built.entry(Parity(windows=5, probability_max=0.0)).model_dump(mode="json")

    def add(document: dict) -> None:  # type: ignore[type-arg]
        document["engines"] = [entry]
        document["files"].update({name: entry_of(tmp_path / name) for name in built.files})

    rewrite(tmp_path, add)
    with open_backend(open_bundle(tmp_path, UNSIGNED), EngineSettings()) as opened:
        assert (opened.name, opened.skipped) == ("openvino-f32", ())


@pytest.mark.parametrize(
    ("flavour", "precision", "reason"),
    [
        ("openvino", "f16", "openvino has no f16; ask for one of f32, bf16, int8w"),
        ("tensorrt-rtx", "int8w", "tensorrt-rtx has no int8w; ask for one of f32, bf16, f16"),
        ("torch-cuda", "int8w", "torch-cuda has no int8w"),
    ],
)
def test_precisions_that_a_flavour_has_not(source: SourceFiles, flavour: str, precision: str, reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        build(source, flavour, precision)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flavour", "precision", "missing", "reason"),
    [
        ("tensorrt", "f32", "tensorrt", r"tensorrt does not load .*deepecg-bedside\[gpu\]"),
        ("tensorrt-rtx", "f32", "tensorrt_rtx", r"tensorrt-rtx does not load .*deepecg-bedside\[gpu-rtx\]"),
        ("openvino", "int8w", "openvino", "OpenVINO does not load"),
    ],
)
def test_without_the_library(
    source: SourceFiles, flavour: str, precision: str, missing: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EngineError, match=reason):
        build(source, flavour, precision)  # type: ignore[arg-type]


def test_torch_cuda_is_the_onnx_file(source: SourceFiles) -> None:
    built = build(source, "torch-cuda", "bf16")
    assert built.files == {"model.onnx": source.onnx}
    assert (built.target.kind, built.batches) == ("gpu", BUCKETS)


def test_an_ir_that_does_not_read() -> None:
    with pytest.raises(EngineError, match="OpenVINO cannot read the network"):
        build(SourceFiles(ir=(b"<net", b"")), "openvino", "int8w")
