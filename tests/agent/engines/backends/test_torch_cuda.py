"""torch's back-end on the processor: all of it but pinned memory and the capture of CUDA graphs.

Where there is a GPU, every test of the back-end runs on it too: pytest tests/agent/engines/backends/test_torch_cuda.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.core.bundle.manifest import Engine
from agent.core.ecg import FloatArray
from agent.core.preprocessing import Preprocessing, prepare, steps
from agent.engines.backends.torch_cuda import MAX_RATES, TorchCudaEngine, network_from_onnx, prepare_on
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import UNSIGNED, Bundle, open_bundle
from agent.engines.mixed_precision import in_mixed_precision
from agent.engines.select import self_test
from training.models.ssl import DeepECGSSL
from training.publish.export import export, onnx_from
from training.train.recipes import TINY

Rewrite = Callable[..., None]


@pytest.fixture(scope="module")
def bundle(sourced: Path) -> Bundle:
    return open_bundle(sourced, UNSIGNED)


@pytest.fixture(scope="module")
def entry(bundle: Bundle) -> Engine:
    return bundle.manifest.engines[1]


Open = Callable[[Bundle, Engine], TorchCudaEngine]


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def opened(request: pytest.FixtureRequest) -> Open:
    """Makes a back-end on the processor, and with ``-m gpu`` on the GPU."""
    return partial(TorchCudaEngine, device=request.param)


def noise(shape: tuple[int, ...], scale: float, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def test_it_passes_the_self_test_of_every_engine(bundle: Bundle, entry: Engine, opened: Open) -> None:
    with opened(bundle, entry) as engine:
        assert engine.name == "torch-cuda-f32"
        assert self_test(engine, bundle, 4, entry) < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_half_precision_is_near_and_not_the_same(bundle: Bundle, entry: Engine, opened: Open, precision: str) -> None:
    with opened(bundle, entry.model_copy(update={"precision": precision})) as engine:
        assert 1e-6 < self_test(engine, bundle, 4, entry.model_copy(update={"precision": precision})) < 0.02


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 11])
def test_any_number_of_windows_in_order_whatever_is_left_in_the_buffers(
    bundle: Bundle, entry: Engine, opened: Open, n: int
) -> None:
    x = noise((n, 12, 2500), 60)
    with opened(bundle, entry) as engine:
        engine.infer(np.full((4, 12, 2500), np.nan, np.float32))  # left behind in every row
        found = engine.infer(x)
        alone = [engine.infer(x[i : i + 1])[0] for i in range(n)]
    assert found.shape == (n, 3)
    np.testing.assert_allclose(found, np.array(alone).reshape(n, 3), atol=1e-5)
    assert np.isfinite(found).all()


def test_no_buffer_is_made_after_entry_and_the_answers_are_the_caller_s_own(
    bundle: Bundle, entry: Engine, opened: Open
) -> None:
    x = noise((3, 12, 2500), 60)
    with opened(bundle, entry) as engine:
        before = engine.infer(x)
        kept = before.copy()
        pointers = [t.data_ptr() for t in (engine._input, engine._output, engine._into, engine._out_of)]
        engine.infer(-x)
        assert pointers == [t.data_ptr() for t in (engine._input, engine._output, engine._into, engine._out_of)]
    np.testing.assert_array_equal(before, kept)


@pytest.mark.parametrize("rate", [100.0, 250.0, 360.0, 500.0, 1000.0])
@pytest.mark.parametrize("changes", [{}, {"seconds": 1.0}, {"highpass": 0.0, "notches": (), "gain": 1.0}])
def test_filtering_on_the_device_is_the_filter(rate: float, changes: dict[str, object]) -> None:
    p = Preprocessing().model_copy(update=changes)
    s = steps(round(rate * p.seconds), rate, p)
    windows = noise((3, 12, round(rate * p.seconds)), 0.5) + np.float32(4.0)
    windows[1, 2] = 0.0  # a missing lead
    wanted = prepare(windows, rate, p)
    found = prepare_on(torch, torch.from_numpy(windows), s, torch.from_numpy(s.mask.copy())).numpy()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert (found[1, 2] == 0).all()


def test_raw_windows_of_any_rates_one_with_a_hole(bundle: Bundle, entry: Engine, opened: Open) -> None:
    p = bundle.manifest.input.preprocessing
    with opened(bundle, entry) as engine:
        for i in range(MAX_RATES + 2):  # the last ones are filtered on the processor
            rate = 100.0 + 50 * i
            windows = noise((5, 12, round(10 * rate)), 0.5, seed=i)
            windows[2, 3, 7] = np.nan
            found = engine.infer_raw(windows, rate)
            sound = [0, 1, 3, 4]
            wanted = engine.infer(prepare(windows[sound], rate, p))
            np.testing.assert_allclose(found[sound], wanted, atol=2e-5)
            assert np.isnan(found[2]).all()
        assert len(engine._raw) == MAX_RATES
        with pytest.raises(ValueError, match="samples, not 7"):
            engine.infer_raw(np.zeros((1, 12, 7), np.float32), 101.0)
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_ssl_s_operations_too(head: str) -> None:
    net = DeepECGSSL(replace(TINY, labels=4, head=head))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    net.initialise(generator)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    net.eval()
    content = onnx_from(export(net, 640, "none"))
    x = torch.randn(3, 12, 640, generator=generator)
    with torch.inference_mode():
        wanted = net(x)
        torch.testing.assert_close(network_from_onnx(torch, content, "cpu")(x), wanted, rtol=0, atol=1e-5)
        for precision, most in (("bf16", 0.1), ("f16", 0.02)):
            found = network_from_onnx(torch, in_mixed_precision(content, precision), "cpu")(x)  # type: ignore[arg-type]
            assert found.dtype == torch.float32
            assert 1e-6 < float((found - wanted).abs().max()) < most * float(wanted.abs().max())


def test_an_operation_that_our_networks_have_not(sourced: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string((sourced / "network.onnx").read_bytes())
    model.graph.node[3].op_type = "Tanh"
    with pytest.raises(EngineError, match="operation Tanh, which none of our networks has"):
        network_from_onnx(torch, model.SerializeToString(), "cpu")


def test_what_is_no_network_of_this_bundle(sourced: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    for content, labels, reason in (
        (b"\x00junk", 3, "no ONNX file"),
        ((sourced / "network.onnx").read_bytes(), 2, r"gives \(1, 3\) instead of \(1, 2\)"),
    ):
        folder = tmp_path / str(labels)
        folder.mkdir()
        for file in sourced.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "network.onnx").write_bytes(content)
        np.save(folder / "golden_probabilities.npy", np.full((5, labels), 0.5, np.float32))
        rewrite(folder, lambda d, labels=labels: d.update(labels=d["labels"][:labels]))
        changed = open_bundle(folder, UNSIGNED)
        with (
            pytest.raises(EngineError, match=reason),
            TorchCudaEngine(changed, changed.manifest.engines[1], device="cpu"),
        ):
            pytest.fail("entered")


def test_without_a_gpu(bundle: Bundle, entry: Engine) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="sees no GPU"), TorchCudaEngine(bundle, entry):
        pytest.fail("entered")


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("torch", "torch does not load .* pip install"), ("onnx", "onnx package does not load .* pip")],
)
def test_without_a_library(
    bundle: Bundle, entry: Engine, missing: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EngineError, match=reason), TorchCudaEngine(bundle, entry, device="cpu"):
        pytest.fail("entered")
