"""What is counted of a model, and the comparisons of an engine on trial."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agent.core.ecg import Prediction, Provenance, Window
from agent.engines.base import EngineError
from agent.engines.bundles.bundle import Bundle
from agent.engines.serving.keeper import OpenEngine
from agent.engines.serving.model import Comparison, Model, Served, Shadow
from agent.engines.serving.queue import DropReason, Job
from agent.engines.serving.settings import ModelSettings
from agent.engines.serving.worker import Answer
from agent.ops.metrics import Metrics

WindowMaker = Callable[..., Window]
Sample = Callable[..., float]


class _Backend:
    name = "openvino-bf16"


def engine(name: str = "openvino-bf16") -> OpenEngine:
    backend: Any = _Backend()
    backend.name = name
    keeper: Any = None
    return OpenEngine(backend, keeper, 0.01)


def served(bundle: Bundle, metrics: Metrics, settings: ModelSettings | None = None) -> Served:
    def opener() -> Any:
        raise AssertionError

    return Served(Model(bundle.manifest, opener, settings), metrics, 2.0)


def predicted(window: Window, by: str = "openvino-f32", completed: float = 101.0) -> Prediction:
    return Prediction(window, "small/1", by, np.full(3, 0.25, np.float32), completed)


def test_answers_are_counted_by_model_and_stage(bundle: Bundle, make_window: WindowMaker, sample: Sample) -> None:
    metrics = Metrics()
    model = served(bundle, metrics)
    windows = [make_window(bed=f"{i}", rate=1.0, received=100.0 - 2 * i) for i in range(3)]
    jobs = tuple(Job(window, window.received + 0.125) for window in windows)
    predictions = (predicted(windows[0]), predicted(windows[1]), None)
    found = model.answered(Answer("small", jobs, predictions, 100.5, 101.0, 0.125, 0.25, engine()))
    assert found == predictions[:2]
    assert sample(metrics, "deepecg_model_windows_total", model="small") == 2
    assert sample(metrics, "deepecg_model_windows_late_total", model="small") == 1, "three seconds, two allowed"
    assert sample(metrics, "deepecg_model_windows_dropped_total", model="small", reason="not_finite") == 1
    assert sample(metrics, "deepecg_windows_dropped_total", reason="not_finite") == 1
    for stage, count, total in (("queue", 3, 0.375 + 2.375 + 4.375), ("filter", 1, 0.125), ("inference", 1, 0.25)):
        assert sample(metrics, "deepecg_stage_seconds_count", model="small", stage=stage) == count
        assert sample(metrics, "deepecg_stage_seconds_sum", model="small", stage=stage) == total
    assert sample(metrics, "deepecg_stage_seconds_sum", model="small", stage="total") == 1.0 + 3.0
    assert sample(metrics, "deepecg_prediction_latency_seconds_count") == 2
    assert sample(metrics, "deepecg_inference_seconds_sum") == 0.375
    assert sample(metrics, "deepecg_batch_size_sum") == 3


def test_a_further_model_s_numbers_are_its_own(bundle: Bundle, make_window: WindowMaker, sample: Sample) -> None:
    """What is known of windows, drops and latencies by their old names stays the first model's."""
    metrics = Metrics()
    model = served(bundle, metrics, ModelSettings(bundle="x", once=True))
    window = make_window(rate=1.0, received=100.0)
    model.given(window)
    answer = Answer("small", (Job(window, 100.0),), (predicted(window),), 100.5, 101.0, 0.1, 0.2, engine())
    assert model.answered(answer)
    model.count(DropReason.LEADS)
    assert sample(metrics, "deepecg_model_windows_total", model="small") == 1
    assert sample(metrics, "deepecg_model_windows_dropped_total", model="small", reason="leads") == 1
    for name in ("deepecg_prediction_latency_seconds_count", "deepecg_batch_size_count"):
        assert sample(metrics, name) == 0
    assert sample(metrics, "deepecg_windows_dropped_total", reason="leads") == 0


def test_what_it_cannot_look_at(bundle: Bundle, make_window: WindowMaker) -> None:
    first = served(bundle, Metrics())
    once = served(bundle, Metrics(), ModelSettings(bundle="x", once=True))
    good = make_window()
    assert not first.wants(good), "it has no engine yet"
    first.engine = once.engine = engine()
    assert first.wants(good)
    assert once.wants(good)
    assert first.unfit(good) is None
    derived = make_window(provenance=(Provenance.DERIVED,) * 12)
    assert (first.unfit(derived), once.unfit(derived)) == (None, DropReason.LEADS)
    assert first.unfit(make_window(provenance=(Provenance.MISSING,) * 12)) is DropReason.LEADS
    assert first.unfit(make_window(samples=np.zeros((12, 4999), np.float32))) is DropReason.SHAPE
    once.given(good)
    assert not once.wants(good)


def test_the_engine_that_serves_is_told(bundle: Bundle, sample: Sample) -> None:
    metrics = Metrics()
    model = served(bundle, metrics)
    assert model.state().engine == ""
    model.problem = "lost"
    model.is_served_by(engine("openvino-f32"))
    model.is_served_by(engine("tensorrt-bf16"))
    assert (model.state().engine, model.state().problem) == ("tensorrt-bf16", "")
    assert sample(metrics, "deepecg_model_engine", model="small", engine="tensorrt-bf16") == 1
    assert sample(metrics, "deepecg_model_engine", model="small", engine="openvino-f32") == 0
    model.is_served_by(None)
    assert b"deepecg_model_engine{" not in metrics.render()


def compared(bundle: Bundle, make_window: WindowMaker, model: Served, *starts: int) -> None:
    windows = [make_window(seed=s, rate=1.0) for s in starts]
    jobs = tuple(Job(w, 1.0, predicted(w), 0.02) for w in windows)
    new = tuple(predicted(w, "openvino-bf16") for w in windows)
    canary = model.shadow.engine if model.shadow is not None else engine()
    model.compared(Answer("small:shadow", jobs, new, 1.0, 2.0, 0.125, 0.125 * (2 * len(jobs) - 1), canary))


async def test_comparisons_reach_their_reader_and_too_many_are_counted(
    bundle: Bundle, make_window: WindowMaker, sample: Sample
) -> None:
    metrics = Metrics()
    model = served(bundle, metrics)
    model.shadow = shadow = Shadow(engine(), 3)
    compared(bundle, make_window, model, 0, 1)
    first = await anext(shadow)
    assert isinstance(first, Comparison)
    assert first.served.window is first.shadow.window
    assert (first.served.engine, first.shadow.engine) == ("openvino-f32", "openvino-bf16")
    assert (first.served_seconds, first.shadow_seconds) == (0.02, 0.25)
    compared(bundle, make_window, model, 2, 3, 4)
    assert sample(metrics, "deepecg_shadow_windows_total", model="small") == 4
    assert sample(metrics, "deepecg_shadow_windows_dropped_total", model="small", reason="unread") == 1
    shadow.end()
    assert [c.served.window.start for c in [item async for item in shadow]] == [1, 2, 3]
    with pytest.raises(StopAsyncIteration):
        await anext(shadow)
    model.shadow = None
    compared(bundle, make_window, model, 5)
    assert sample(metrics, "deepecg_shadow_windows_dropped_total", model="small", reason="unread") == 2


async def test_a_reader_hears_why_a_trial_ended(bundle: Bundle, make_window: WindowMaker) -> None:
    shadow = Shadow(engine(), 1)
    assert shadow.add(Comparison(predicted(make_window(rate=1.0)), predicted(make_window(rate=1.0)), 1.0, 1.0))
    shadow.end("openvino-bf16 has failed on trial.")
    shadow.end()
    await anext(shadow)
    for _ in range(2):
        with pytest.raises(EngineError, match="failed on trial"):
            await asyncio.wait_for(anext(shadow), 1)


def test_answers_that_are_not_finite_are_the_engine_s_that_gave_them(bundle: Bundle, make_window: WindowMaker) -> None:
    model, present, before = served(bundle, Metrics()), engine("present"), engine("before")
    model.is_served_by(present)
    window = make_window(rate=1.0)
    for by in (present, before):
        model.answered(Answer("small", (Job(window, 1.0),), (None,), 1.0, 2.0, 0.1, 0.1, by, wrong=1))
    assert (model.tally.answered, model.tally.wrong) == (0, 1)
    model.is_served_by(before)
    assert model.tally.wrong == 0


def test_a_comparison_by_an_engine_that_is_on_trial_no_more_is_none(
    bundle: Bundle, make_window: WindowMaker, sample: Sample
) -> None:
    metrics = Metrics()
    model = served(bundle, metrics)
    model.shadow = Shadow(engine(), 3)
    window = make_window(rate=1.0)
    job = Job(window, 1.0, predicted(window), 0.02)
    model.compared(Answer("small:shadow", (job,), (predicted(window),), 1.0, 2.0, 0.1, 0.1, engine(), wrong=1))
    assert model.shadow.wrong == 0
    assert sample(metrics, "deepecg_shadow_windows_dropped_total", model="small", reason="unread") == 1
