"""A batch through an engine: what is put into it, and what is made of bad windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.core.bundle.manifest import Manifest
from agent.core.ecg import LEADS, FloatArray, Lead, Window
from agent.core.preprocessing import prepare
from agent.engines.backends.openvino import OpenVinoEngine
from agent.engines.base import Backend
from agent.engines.bundles.bundle import Bundle
from agent.engines.serving.compute import Computer

WindowMaker = Callable[..., Window]


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[Backend]:
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        yield engine


class Device:
    """A back-end that filters by itself, as `agent.engines.backends.torch_cuda` does: it keeps what it was given."""

    name = "torch-cuda-f32"

    def __init__(self, manifest: Manifest, inner: Backend) -> None:
        self.manifest = manifest
        self.inner = inner
        self.given: list[tuple[FloatArray, float]] = []

    def infer(self, x: FloatArray) -> FloatArray:
        raise AssertionError("raw windows belong on the device")

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        self.given.append((windows.copy(), rate))
        return self.inner.infer_raw(windows, rate)


def accepting(manifest: Manifest, *leads: Lead) -> Manifest:
    spec = manifest.input.model_copy(update={"accepted_leads": leads, "required_leads": ()})
    return manifest.model_copy(update={"input": spec})


def test_answers_are_the_engine_s_in_the_windows_order(
    bundle: Bundle, engine: Backend, make_window: WindowMaker
) -> None:
    computer, p = Computer(bundle.manifest), bundle.manifest.input.preprocessing
    for n in (1, 5, 3, 8, 1):  # the buffer grows and is used again
        windows = [make_window(seed=10 * n + i) for i in range(n)]
        done = computer.run(engine, windows)
        alone = [engine.infer(prepare(w.samples[np.newaxis], w.rate, p))[0] for w in windows]
        np.testing.assert_allclose(done.probabilities, alone, atol=1e-6)
        assert done.filtered > 0
        assert done.inferred > 0
        with pytest.raises(ValueError, match="read-only"):
            done.probabilities[0, 0] = 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_window_that_is_not_finite_spoils_no_other(
    bundle: Bundle, engine: Backend, make_window: WindowMaker, bad: float
) -> None:
    computer = Computer(bundle.manifest)
    windows = [make_window(seed=i) for i in range(3)]
    wanted = computer.run(engine, windows).probabilities
    samples = windows[1].samples.copy()
    samples[5, 77] = bad
    windows[1] = replace(windows[1], samples=samples)
    found = computer.run(engine, windows).probabilities
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], wanted[[0, 2]], atol=1e-6)
    assert np.isnan(computer.run(engine, [windows[1]]).probabilities).all()


@pytest.mark.parametrize("count", [1, 3])
def test_leads_that_training_left_silent_are_silent(
    bundle: Bundle, engine: Backend, make_window: WindowMaker, count: int
) -> None:
    windows = [make_window(seed=i) for i in range(count)]
    before = [window.samples.copy() for window in windows]
    manifest = accepting(bundle.manifest, Lead.I, Lead.II)
    found = Computer(manifest).run(engine, windows).probabilities
    keep = np.array([lead in {Lead.I, Lead.II} for lead in LEADS], np.float32)[:, np.newaxis]
    silenced = [replace(window, samples=window.samples * keep) for window in windows]
    np.testing.assert_allclose(found, Computer(bundle.manifest).run(engine, silenced).probabilities, atol=1e-6)
    assert np.abs(found - Computer(bundle.manifest).run(engine, windows).probabilities).max() > 1e-4
    for window, samples in zip(windows, before, strict=True):
        np.testing.assert_array_equal(window.samples, samples)


def test_a_device_that_filters_gets_raw_windows(bundle: Bundle, engine: Backend, make_window: WindowMaker) -> None:
    device = Device(bundle.manifest, engine)
    windows = [make_window(seed=i, rate=500.0) for i in range(2)]
    done = Computer(bundle.manifest).run(device, windows)
    ((given, rate),) = device.given
    assert rate == 500.0
    np.testing.assert_array_equal(given, [window.samples for window in windows])
    np.testing.assert_allclose(
        done.probabilities, Computer(bundle.manifest).run(engine, windows).probabilities, atol=1e-6
    )
    assert done.filtered == 0


def test_the_probe_is_the_best_of_some_rounds(bundle: Bundle, engine: Backend) -> None:
    class Slow:
        name = "openvino-f32"
        rounds = 0

        def infer(self, x: FloatArray) -> FloatArray:
            import time

            self.rounds += 1
            time.sleep(0.05 if self.rounds == 1 else 0.0)
            return engine.infer(x)

        def infer_raw(self, *_: Any) -> FloatArray:
            raise AssertionError

    slow = Slow()
    assert 0 < Computer(bundle.manifest).probe(slow) < 0.05
    assert slow.rounds == 3
