"""OpenVINO against torch, and its refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest

from agent.core.ecg import FloatArray
from agent.core.preprocessing import prepare
from agent.engines.backends.openvino import OpenVinoEngine, _group
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import UNSIGNED, Bundle, default_bundle, open_bundle, open_manifest
from agent.engines.machine import this_machine
from agent.engines.select import misfit, open_backend
from agent.engines.settings import EngineSettings

Rewrite = Callable[..., None]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_gives_what_torch_gives(bundle: Bundle, threads: int) -> None:
    p = bundle.manifest.input.preprocessing
    x = prepare(bundle.golden_windows, p.rate, p)
    with OpenVinoEngine(bundle, bundle.manifest.engines[0], threads=threads) as engine:
        assert engine.name == "openvino-f32"
        found = engine.infer(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, bundle.golden_probabilities, atol=1e-5)


def test_any_layout_gives_the_same_bits(bundle: Bundle, threads: int) -> None:
    x = np.random.default_rng(2).normal(0, 60, (7, 12, 2500)).astype(np.float32)
    before = x.copy()
    with OpenVinoEngine(bundle, bundle.manifest.engines[0], threads=threads) as engine:
        alone = np.concatenate([engine.infer(x[i : i + 1]) for i in range(len(x))])
        np.testing.assert_array_equal(engine.infer(x), alone)
        np.testing.assert_array_equal(engine.infer(np.asfortranarray(x)), alone)
        np.testing.assert_array_equal(engine.infer(x.astype(np.float64)), alone)  # type: ignore[arg-type]
        readonly = x.copy()
        readonly.flags.writeable = False
        np.testing.assert_array_equal(engine.infer(readonly), alone)
        assert engine.infer(x[:0]).shape == (0, 3)
    np.testing.assert_array_equal(x, before)
    assert len(np.unique(alone[:, 0])) == 7


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(default_bundle())


HERE = [e.precision for e in open_manifest(default_bundle()).manifest.engines if not misfit(e, this_machine())]
"""What this processor computes of the shipped bundle: f32 always, bf16 where it has that."""


def test_f32_is_computed_everywhere() -> None:
    assert "f32" in HERE


@pytest.mark.parametrize("precision", HERE)
def test_an_answer_depends_on_no_other_window(shipped: Bundle, precision: str) -> None:
    """The same bits alone, at every place in batches of every size, beside other windows, and by any threads."""
    (entry,) = (e for e in shipped.manifest.engines if (e.flavour, e.precision) == ("openvino", precision))
    p, raw = shipped.manifest.input.preprocessing, shipped.golden_windows[:8]
    x = prepare(raw, p.rate, p)
    alone: FloatArray | None = None
    for threads in (1, 2):
        with OpenVinoEngine(shipped, entry, threads=threads) as engine:
            if alone is None:
                alone = np.concatenate([engine.infer(x[i : i + 1]) for i in range(len(x))])
                assert len(np.unique(alone, axis=0)) == len(alone)
            for size in (2, 3, 8):
                for shift in range(size):
                    order = (np.arange(size) + shift) % size
                    np.testing.assert_array_equal(engine.infer(x[order]), alone[order])
            company = np.concatenate([x[:1], np.full_like(x[:3], 1e4), np.zeros_like(x[:3])])
            np.testing.assert_array_equal(engine.infer(company)[0], alone[0])
            np.testing.assert_array_equal(engine.infer_raw(raw, p.rate), alone)


@pytest.mark.parametrize("batches", [(), (1, 8), (8,)])
def test_not_even_of_a_network_that_sees_its_batch(
    folder: Path, rewrite: Rewrite, threads: int, batches: tuple[int, ...]
) -> None:
    """As a machine's kernels may: this one adds up how many windows it gets together, and their mean."""
    op = openvino.opset13
    x = op.parameter([-1, 12, 2500], np.float32)
    size = op.convert(op.gather(op.shape_of(x), op.constant(0), op.constant(0)), openvino.Type.f32)
    mean = op.reduce_mean(x, op.constant([0, 1, 2]), keep_dims=True)
    answer = op.multiply(op.reduce_mean(x, op.constant([1, 2]), keep_dims=True), op.add(mean, size))
    three = op.concat([op.squeeze(answer, op.constant([2]))] * 3, 1)
    openvino.save_model(openvino.Model([op.sigmoid(three)], [x]), folder / "network.xml", compress_to_fp16=False)
    rewrite(folder, lambda d: d["engines"][0].update(batches=list(batches)))
    bundle = open_bundle(folder, UNSIGNED)
    given = np.random.default_rng(2).normal(0.5, 1, (17, 12, 2500)).astype(np.float32)
    with OpenVinoEngine(bundle, bundle.manifest.engines[0], threads=threads) as engine:
        alone = np.concatenate([engine.infer(given[i : i + 1]) for i in range(len(given))])
        for n in (0, 1, 3, 8, 17):
            np.testing.assert_array_equal(engine.infer(given[:n]), alone[:n])


def test_raw_windows_are_filtered(bundle: Bundle) -> None:
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        found = engine.infer_raw(bundle.golden_windows, bundle.manifest.input.preprocessing.rate)
    np.testing.assert_allclose(found, bundle.golden_probabilities, atol=1e-5)


@pytest.mark.parametrize(("inner", "group"), [((768, 3072, 256), 128), ((192, 768), 64), ((128, 96), 32), ((), 128)])
@pytest.mark.parametrize("transposed", [True, False])
def test_the_group_of_activations_divides_every_product(inner: tuple[int, ...], group: int, transposed: bool) -> None:
    op = openvino.opset15
    outputs, inputs = [], []
    for length in inner:
        x = op.parameter([1, length], openvino.Type.f32)
        q = np.ones((8, length) if transposed else (length, 8), np.int8)
        weight = op.multiply(op.convert(op.constant(q), openvino.Type.f32), op.constant(np.float32(0.5)))
        outputs.append(op.matmul(x, weight, False, transposed))
        inputs.append(x)
    x = op.parameter([1, 7], openvino.Type.f32)  # one whose weights are as they were
    outputs.append(op.matmul(x, op.constant(np.ones((7, 2), np.float32)), False, False))
    assert _group(openvino.Model(outputs, [*inputs, x], "products")) == group


def test_output_is_the_caller_s_own(bundle: Bundle) -> None:
    x = np.random.default_rng(3).normal(0, 60, (1, 12, 2500)).astype(np.float32)
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        first = engine.infer(x)
        kept = first.copy()
        engine.infer(-x)
        np.testing.assert_array_equal(first, kept)


def test_cache_is_filled_and_used(bundle: Bundle, tmp_path: Path) -> None:
    answers = []
    for _ in range(2):
        with OpenVinoEngine(bundle, bundle.manifest.engines[0], cache=tmp_path) as engine:
            answers.append(engine.infer(np.ones((1, 12, 2500), np.float32)))
    assert list(tmp_path.iterdir())
    np.testing.assert_array_equal(answers[0], answers[1])


def test_without_the_library(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with (
        pytest.raises(EngineError, match=r"OpenVINO does not load .* pip install openvino"),
        OpenVinoEngine(bundle, bundle.manifest.engines[0]),
    ):
        pytest.fail("entered")


@pytest.mark.parametrize(
    ("name", "content"),
    [("network.xml", b"<net"), ("network.xml", b""), ("network.bin", b"\0" * 64)],
)
def test_an_ir_that_does_not_load(folder: Path, rewrite: Rewrite, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    rewrite(folder)
    bundle = open_bundle(folder, UNSIGNED)
    with (
        pytest.raises(EngineError, match=r"cannot load network\.xml") as info,
        OpenVinoEngine(bundle, bundle.manifest.engines[0]),
    ):
        pytest.fail("entered")
    assert "\n" not in str(info.value)


def test_an_engine_of_other_labels(folder: Path, rewrite: Rewrite) -> None:
    np.save(folder / "golden_probabilities.npy", np.full((5, 2), 0.5, np.float32))
    rewrite(folder, lambda d: d["labels"].pop())
    bundle = open_bundle(folder, UNSIGNED)
    with (
        pytest.raises(EngineError, match=r"gives \(1, 3\) instead of \(1, 2\)"),
        OpenVinoEngine(bundle, bundle.manifest.engines[0]),
    ):
        pytest.fail("entered")


def test_an_engine_without_its_weights(folder: Path, rewrite: Rewrite) -> None:
    rewrite(folder, lambda d: d["engines"][0].update(files=["network.xml"]))
    bundle = open_bundle(folder, UNSIGNED)
    with pytest.raises(EngineError, match="two files"), OpenVinoEngine(bundle, bundle.manifest.engines[0]):
        pytest.fail("entered")


def test_the_shipped_engine_passes_its_self_test(shipped: Bundle) -> None:
    with open_backend(shipped, EngineSettings()) as backend:
        assert backend.name.startswith("openvino-")


def test_the_library_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    """As it comes it tells Google Analytics at its import, where no file in the home directory forbids that."""
    script = """
import os, signal, sys, time
def audit(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo"}:
        os.write(2, repr(arguments).encode())
        os.killpg(0, signal.SIGABRT)
sys.addaudithook(audit)
from agent.engines.backends.openvino import openvino_library
openvino_library().Core()
time.sleep(0.5)
"""
    root = Path(__file__).parents[4]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # there it does not
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(root)}
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60, start_new_session=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir()), "nor does it leave anything there"
