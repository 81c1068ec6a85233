"""The batcher with the real engine under it: windows, drops, failures, further models, engines that change."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from agent.core.bundle.manifest import Manifest
from agent.core.ecg import LEADS, FloatArray, Lead, Prediction, Provenance, Window
from agent.engines.backends.openvino import OpenVinoEngine
from agent.engines.base import Backend, EngineError
from agent.engines.bundles.bundle import Bundle
from agent.engines.select import open_backend
from agent.engines.serving import worker
from agent.engines.serving.batcher import Batcher
from agent.engines.serving.model import Model, Shadow, Tally
from agent.engines.serving.queue import DropReason
from agent.engines.serving.settings import ModelSettings, ServingSettings
from agent.engines.settings import EngineSettings
from agent.ops.metrics import Metrics, totals

WindowMaker = Callable[..., Window]
Sample = Callable[..., float]


class Watched:
    """The real engine, which can be told to wait, to fail or to answer with NaN."""

    name = "openvino-f32"

    def __init__(self, engine: Backend) -> None:
        self.engine = engine
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.returned = threading.Event()
        self.fail = False
        self.nan_row: int | None = None
        self.batches: list[int] = []

    def infer(self, x: FloatArray) -> FloatArray:
        self.batches.append(len(x))
        self.entered.set()
        self.go.wait(20)
        self.returned.set()
        if self.fail:
            raise RuntimeError("the device fell off the bus")
        out = self.engine.infer(x)
        if self.nan_row is not None:
            out[self.nan_row, 0] = np.nan
        return out


class Shared:
    """The real engine, which these tests let several threads use, where each would have its own."""

    name = "openvino-f32"

    def __init__(self, engine: Backend) -> None:
        self.engine = engine
        self.lock = threading.Lock()

    def infer(self, x: FloatArray) -> FloatArray:
        with self.lock:
            return self.engine.infer(x)

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        with self.lock:
            return self.engine.infer_raw(windows, rate)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[Backend]:
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        yield Shared(engine)


@pytest.fixture
def watched(engine: Backend) -> Iterator[Watched]:
    watched = Watched(engine)
    yield watched
    watched.go.set()


def batcher_of(opened: object, bundle: Bundle, settings: EngineSettings, metrics: Metrics) -> Batcher:
    """One model, served by a back-end that is open, or by what an opener opens."""
    opener = opened if callable(opened) else lambda: nullcontext(opened)
    return Batcher([Model(bundle.manifest, opener)], settings, ServingSettings(), metrics)


@pytest.fixture
def make_window(make_window: WindowMaker) -> WindowMaker:
    """Windows that came just now."""

    def make(**values: Any) -> Window:
        return make_window(**{"received": time.monotonic()} | values)

    return make


async def collect(batcher: Batcher, count: int) -> list[Prediction]:
    predictions: list[Prediction] = []
    async with asyncio.timeout(30):
        async for batch in batcher:
            predictions += batch
            if len(predictions) >= count:
                break
    return predictions


# ---- one model ---------------------------------------------------------------------------------------------------


async def test_predictions_of_the_bundle_s_own_engine(bundle: Bundle, make_window: WindowMaker, sample: Sample) -> None:
    metrics = Metrics()
    engine_settings = EngineSettings()
    async with batcher_of(partial(open_backend, bundle, engine_settings), bundle, engine_settings, metrics) as batcher:
        assert batcher.engine == "openvino-f32"
        windows = [
            make_window(bed=f"a/b/{i}", seed=i, rate=250.0, received=time.monotonic(), samples=bundle.golden_windows[i])
            for i in range(5)
        ]
        for window in windows:
            batcher.submit(window)
        predictions = await collect(batcher, 5)
        assert batcher.progress >= 1
    assert [p.window for p in predictions] == windows
    np.testing.assert_allclose([p.probabilities for p in predictions], bundle.golden_probabilities, atol=1e-5)
    for p in predictions:
        assert (p.model, p.engine) == ("small/1", "openvino-f32")
        assert 0 < p.completed - p.window.received < 30
        with pytest.raises(ValueError, match="read-only"):
            p.probabilities[0] = 0
    assert sample(metrics, "deepecg_prediction_latency_seconds_count") == 5
    assert sample(metrics, "deepecg_batch_size_sum") == 5
    assert sample(metrics, "deepecg_queue") == 0


async def test_windows_are_batched_and_the_oldest_goes_first(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    watched.go.clear()
    async with batcher_of(watched, bundle, EngineSettings(max_batch=4), Metrics()) as batcher:
        batcher.submit(make_window(bed="first"))
        await asyncio.to_thread(watched.entered.wait, 10)
        now = time.monotonic()
        for i in (5, 3, 1, 4, 2):
            batcher.submit(make_window(bed=str(i), seed=i, received=now + i / 100))
        watched.go.set()
        predictions = await collect(batcher, 6)
    assert [p.window.bed for p in predictions] == ["first", "1", "2", "3", "4", "5"]
    assert watched.batches == [1, 4, 1]


async def test_a_flooding_bed_loses_its_own_oldest_windows_only(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    metrics = Metrics()
    watched.go.clear()
    async with batcher_of(watched, bundle, EngineSettings(), metrics) as batcher:
        batcher.submit(make_window(bed="first"))
        await asyncio.to_thread(watched.entered.wait, 10)
        quiet = make_window(bed="quiet")
        batcher.submit(quiet)
        flood = [make_window(bed="flood", seed=i, rate=100.0, received=time.monotonic()) for i in range(100)]
        for window in flood:
            batcher.submit(window)
        assert watched.batches == [1], "the engine stands still all the while, and nobody has waited for it"
        watched.go.set()
        predictions = await collect(batcher, 4)
    assert [p.window for p in predictions][1:] == [quiet, *flood[-2:]]
    assert totals(metrics.windows_dropped)[DropReason.OVERLOAD] == 98


async def test_windows_that_the_network_cannot_take(bundle: Bundle, engine: Backend, make_window: WindowMaker) -> None:
    metrics = Metrics()
    provenance = [Provenance.MEASURED] * 12
    provenance[LEADS.index(Lead.II)] = Provenance.MISSING
    nan = make_window().samples.copy()
    nan[3, 7] = np.nan
    limb = tuple(Provenance.DERIVED if i < 6 else Provenance.MISSING for i in range(12))
    async with batcher_of(engine, bundle, EngineSettings(queue_per_bed=9), metrics) as batcher:
        batcher.submit(make_window(provenance=tuple(provenance)))
        batcher.submit(make_window(samples=np.zeros((12, 4999), np.float32)))
        batcher.submit(make_window(samples=np.zeros((11, 5000), np.float32)))
        batcher.submit(make_window(rate=250.5, samples=np.zeros((12, 2505), np.float32)))
        batcher.submit(make_window(samples=nan))
        batcher.submit(make_window(bed="good", provenance=limb))
        (prediction,) = await collect(batcher, 1)
    assert prediction.window.bed == "good"
    assert np.isfinite(prediction.probabilities).all()
    assert totals(metrics.windows_dropped)[DropReason.LEADS] == 1
    assert totals(metrics.windows_dropped)[DropReason.SHAPE] == 3
    assert totals(metrics.windows_dropped)[DropReason.NOT_FINITE] == 1


async def test_an_answer_that_is_not_finite_is_no_prediction(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    metrics = Metrics()
    watched.nan_row = 1
    async with batcher_of(watched, bundle, EngineSettings(max_wait=1.0, max_batch=3), metrics) as batcher:
        now = time.monotonic()
        for i in range(3):
            batcher.submit(make_window(bed=str(i), received=now + i))
        predictions = await collect(batcher, 2)
    assert [p.window.bed for p in predictions] == ["0", "2"]
    assert totals(metrics.windows_dropped)[DropReason.NOT_FINITE] == 1


async def test_a_slow_reader_holds_the_engine_and_the_queue_drops(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    metrics = Metrics()
    async with batcher_of(watched, bundle, EngineSettings(max_batch=1), metrics) as batcher:
        for i in range(20):
            batcher.submit(make_window(seed=i))
            await asyncio.sleep(0.03)
        assert len(watched.batches) == 4
        predictions = await collect(batcher, 6)
    assert [p.window.start for p in predictions] == [0, 1, 2, 3, 18, 19]
    assert totals(metrics.windows_dropped)[DropReason.OVERLOAD] == 14


async def test_drain_waits_for_the_reader_to_be_done(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    engine_settings = EngineSettings(queue_per_bed=64)
    read: list[Prediction] = []

    async def reader() -> None:
        async for batch in batcher:
            await asyncio.sleep(0.02)
            read.extend(batch)

    async with batcher_of(watched, bundle, engine_settings, Metrics()) as batcher:
        await asyncio.wait_for(batcher.drain(), 1)  # nothing to wait for
        task = asyncio.create_task(reader())
        for i in range(30):
            batcher.submit(make_window(seed=i, rate=100.0))
            await asyncio.wait_for(batcher.drain(waiting=12), 10)
            assert len(read) >= i + 1 - 12
        batcher.submit(make_window(samples=np.full((12, 5000), np.nan, np.float32)))  # has no answer
        await asyncio.wait_for(batcher.drain(), 10)
        assert [p.window.start for p in read] == list(range(30))
        watched.fail = True
        batcher.submit(make_window())
        with pytest.raises(EngineError, match="fell off"):
            await asyncio.wait_for(batcher.drain(), 10)
        with pytest.raises(EngineError, match="fell off"):
            await task


async def test_an_engine_that_hangs_is_fatal(bundle: Bundle, watched: Watched, make_window: WindowMaker) -> None:
    watched.go.clear()
    async with batcher_of(watched, bundle, EngineSettings(deadline=0.4), Metrics()) as batcher:
        batcher.submit(make_window())
        for _ in range(2):
            with pytest.raises(EngineError, match=r"longer than the deadline of 0\.4 s"):
                await collect(batcher, 1)
    assert not watched.returned.is_set(), "leaving does not wait for it"


async def test_an_engine_that_fails_is_fatal(bundle: Bundle, watched: Watched, make_window: WindowMaker) -> None:
    watched.fail = True
    async with batcher_of(watched, bundle, EngineSettings(), Metrics()) as batcher:
        batcher.submit(make_window())
        with pytest.raises(EngineError, match="the device fell off the bus"):
            await collect(batcher, 1)


async def test_what_goes_wrong_at_the_start_is_raised_at_the_start(bundle: Bundle) -> None:
    @contextmanager
    def broken() -> Iterator[Backend]:
        raise EngineError("no device")
        yield

    with pytest.raises(EngineError, match="no device"):
        async with batcher_of(broken, bundle, EngineSettings(), Metrics()):
            pytest.fail("entered")


async def test_a_start_past_its_deadline(bundle: Bundle, engine: Backend) -> None:
    go = threading.Event()

    @contextmanager
    def slow() -> Iterator[Backend]:
        go.wait(10)
        yield engine

    with pytest.raises(EngineError, match=r"did not start within 0\.2 s"):
        async with batcher_of(slow, bundle, EngineSettings(start_deadline=0.2), Metrics()):
            pytest.fail("entered")
    go.set()


async def test_leaving_ends_the_thread_and_the_iteration(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    metrics = Metrics()
    before = set(threading.enumerate())
    watched.go.clear()
    async with batcher_of(watched, bundle, EngineSettings(max_batch=1), metrics) as batcher:
        for i in range(3):
            batcher.submit(make_window(bed=str(i)))
        await asyncio.to_thread(watched.entered.wait, 10)
        asyncio.get_running_loop().call_later(0.2, watched.go.set)
    assert totals(metrics.windows_dropped)[DropReason.SHUTDOWN] == 2
    left = [batch async for batch in batcher]
    assert sum(map(len, left)) <= 1
    async with asyncio.timeout(30):  # the engine's own and its keeper's
        while any(t.name.startswith("engine") for t in set(threading.enumerate()) - before):
            await asyncio.sleep(0.01)


async def test_an_idle_thread_makes_progress_a_hung_one_none(
    bundle: Bundle, watched: Watched, make_window: WindowMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_TICK", 0.01)
    async with batcher_of(watched, bundle, EngineSettings(), Metrics()) as batcher:
        async with asyncio.timeout(30):
            while batcher.progress < 2:
                await asyncio.sleep(0.005)
        watched.go.clear()
        batcher.submit(make_window())
        await asyncio.to_thread(watched.entered.wait, 10)
        at = batcher.progress
        await asyncio.sleep(0.1)  # ten ticks
        assert batcher.progress == at
        watched.go.set()
        await collect(batcher, 1)
        assert batcher.progress > at


async def test_what_waited_too_long_is_dropped_and_counted(
    bundle: Bundle, watched: Watched, make_window: WindowMaker, sample: Sample
) -> None:
    metrics = Metrics()
    model = Model(bundle.manifest, lambda: nullcontext(watched))
    patience = ServingSettings(answer_within=0.5, expire_after=5.0)
    async with Batcher([model], EngineSettings(), patience, metrics) as batcher:
        now = time.monotonic()
        batcher.submit(make_window(bed="old", received=now - 5.1))
        batcher.submit(make_window(bed="late", received=now - 1.0))
        batcher.submit(make_window(bed="new"))
        predictions = await collect(batcher, 2)
        await asyncio.wait_for(batcher.drain(waiting=2), 1)
    assert [p.window.bed for p in predictions] == ["late", "new"]
    assert totals(metrics.windows_dropped)[DropReason.EXPIRED] == 1
    assert sample(metrics, "deepecg_model_windows_late_total", model="small") == 1


# ---- several models ----------------------------------------------------------------------------------------------


def named(bundle: Bundle, name: str, **changes: Any) -> Manifest:
    return bundle.manifest.model_copy(update={"name": name, **changes})


EVERY, ONCE = ModelSettings(bundle="x", every=60.0), ModelSettings(bundle="x", once=True)


def ward_of(
    bundle: Bundle, first: Watched, metrics: Metrics, *further: tuple[str, object, ModelSettings], **serving: float
) -> Batcher:
    """The first model and further ones, each with its back-end or opener."""
    models = [Model(bundle.manifest, lambda: nullcontext(first))]
    for name, opened, model in further:
        models.append(Model(named(bundle, name), opened if callable(opened) else partial(nullcontext, opened), model))
    return Batcher(models, EngineSettings(queue_per_bed=64), ServingSettings(**serving), metrics)


async def ready(batcher: Batcher) -> None:
    async with asyncio.timeout(30):
        while not all(state.engine or state.problem for state in batcher.states()):
            await asyncio.sleep(0.005)


async def test_each_model_gets_the_windows_that_it_wants(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker, sample: Sample
) -> None:
    metrics = Metrics()
    async with ward_of(bundle, watched, metrics, ("ssl", engine, EVERY), ("lvef", engine, ONCE)) as batcher:
        await ready(batcher)
        for i in range(26):
            batcher.submit(make_window(seed=5 * i, generation=i // 20))
        predictions = await collect(batcher, 26 + 3 + 2)
    starts = {name: sorted(p.window.start for p in predictions if p.model == f"{name}/1") for name in ("ssl", "lvef")}
    assert starts == {"ssl": [0, 60, 100], "lvef": [0, 100]}, "each patient is looked at anew"
    assert len(predictions) == 31
    assert sample(metrics, "deepecg_model_windows_total", model="small") == 26
    assert sample(metrics, "deepecg_model_windows_total", model="lvef") == 2
    assert sample(metrics, "deepecg_prediction_latency_seconds_count") == 26


async def test_a_look_can_be_asked_for(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker
) -> None:
    metrics = Metrics()
    async with ward_of(bundle, watched, metrics, ("lvef", engine, ONCE)) as batcher:
        await ready(batcher)
        batcher.submit(make_window(seed=0))
        await collect(batcher, 2)
        batcher.submit(make_window(seed=5))
        batcher.request("a/b/1", "lvef")
        batcher.request("a/b/1", "small")  # it looks at everything
        batcher.request("a/b/1", "nothing of the kind")
        for start in (10, 15):
            batcher.submit(make_window(seed=start))
        predictions = await collect(batcher, 4)
    assert [p.window.start for p in predictions if p.model == "lvef/1"] == [10]


async def test_the_first_model_is_served_before_others(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker
) -> None:
    async with ward_of(bundle, watched, Metrics(), ("ssl", engine, ModelSettings(bundle="x", every=1.0))) as batcher:
        await ready(batcher)
        watched.go.clear()
        for i in range(20):
            batcher.submit(make_window(bed=str(i)))
            await asyncio.to_thread(watched.entered.wait, 10)
        watched.go.set()
        predictions = await collect(batcher, 40)
    models = [p.model for p in predictions]
    assert models[1:20] == ["small/1"] * 19
    assert models.count("ssl/1") == 20


async def test_a_further_model_that_does_not_open_costs_only_itself(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker
) -> None:
    @contextmanager
    def broken() -> Iterator[Backend]:
        raise EngineError("no GPU for it")
        yield

    metrics = Metrics()
    async with ward_of(bundle, watched, metrics, ("ssl", broken, EVERY), ("lvef", engine, ONCE)) as batcher:
        await ready(batcher)
        small, ssl, lvef = batcher.states()
        assert (small.engine, ssl.engine, lvef.engine) == ("openvino-f32", "", "openvino-f32")
        assert ssl.problem == "no GPU for it"
        batcher.submit(make_window())
        assert {p.model for p in await collect(batcher, 2)} == {"small/1", "lvef/1"}


async def test_a_further_model_that_fails_costs_only_itself(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker, sample: Sample
) -> None:
    metrics, failing = Metrics(), Watched(engine)
    async with ward_of(bundle, watched, metrics, ("ssl", failing, EVERY)) as batcher:
        await ready(batcher)
        failing.fail = True
        reader = asyncio.create_task(collect(batcher, 3))
        batcher.submit(make_window())
        async with asyncio.timeout(10):
            while not batcher.states()[1].problem:
                await asyncio.sleep(0.005)
        assert "fell off the bus" in batcher.states()[1].problem
        for start in (60, 120):
            batcher.submit(make_window(seed=start))
        assert [p.model for p in await reader] == ["small/1"] * 3
    assert sample(metrics, "deepecg_model_windows_dropped_total", model="ssl", reason="engine") == 1
    assert sample(metrics, "deepecg_model_engine", model="ssl", engine="openvino-f32") == 0


def test_two_models_of_one_name_cannot_be_told_apart(bundle: Bundle, watched: Watched) -> None:
    with pytest.raises(ValueError, match="two models have the same name"):
        ward_of(bundle, watched, Metrics(), ("small", watched, ONCE))


# ---- engines that change -----------------------------------------------------------------------------------------


class Named(Watched):
    """The real engine under another name."""

    def __init__(self, engine: Backend, name: str) -> None:
        super().__init__(engine)
        self.name = name  # type: ignore[misc]


async def promote(batcher: Batcher, model: str, opener: Callable[[], Any]) -> None:
    """As a rollout does: opened beside the one that serves, in its place, and the old one sent away."""
    await batcher.shadow(model, opener)
    batcher.exchange(model)
    batcher.unshadow(model)


async def test_engines_are_promoted_while_windows_come(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker, sample: Sample
) -> None:
    """Ten promotions under load: each window is answered once, in order, by some engine, with the same answer."""
    metrics, closed = Metrics(), list[str]()

    @contextmanager
    def opener(name: str) -> Iterator[Backend]:
        yield Named(engine, name)
        closed.append(name)

    found: list[Prediction] = []
    async with ward_of(bundle, watched, metrics) as batcher:

        async def read() -> None:
            async for predictions in batcher:
                found.extend(predictions)

        async def look(waiting: int) -> None:
            nonlocal sent
            for bed in range(3):
                batcher.submit(make_window(bed=str(bed), seed=sent, rate=100.0))
            sent += 1
            await batcher.drain(waiting)

        reader, sent = asyncio.create_task(read()), 0
        for i in range(10):
            opening = asyncio.create_task(batcher.shadow("small", partial(opener, f"engine-{i}")))
            while not opening.done():
                await look(waiting=30)
                await asyncio.sleep(0.001)
            await look(waiting=2)  # so that each engine answers something
            await look(waiting=5)
            batcher.exchange("small")
            batcher.unshadow("small")
            assert batcher.engine == f"engine-{i}"
        await look(waiting=0)
        reader.cancel()
    assert [p.window.start for p in found if p.window.bed == "1"] == list(range(sent))
    assert len(found) == 3 * sent
    names = [p.engine for p in found]
    assert len(set(names)) == 11, "every engine served"
    assert sorted(names, key=lambda n: int(n.removeprefix("engine-")) if "-" in n[:7] else -1) == names
    alone = engine.infer_raw(np.stack([p.window.samples for p in found]), 100.0)
    np.testing.assert_array_equal([p.probabilities for p in found], alone)
    assert closed == [f"engine-{i}" for i in range(10)]
    assert sample(metrics, "deepecg_engine_swaps_total", model="small", outcome="done") == 10


async def test_an_engine_that_does_not_open_leaves_the_old_one(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    @contextmanager
    def broken() -> Iterator[Backend]:
        raise EngineError("the GPU's driver is too old; install a newer one.")
        yield

    metrics = Metrics()
    async with ward_of(bundle, watched, metrics) as batcher:
        with pytest.raises(EngineError, match="driver is too old"):
            await batcher.shadow("small", broken)
        with pytest.raises(KeyError):
            await batcher.shadow("other", broken)
        batcher.submit(make_window())
        assert [p.engine for p in await collect(batcher, 1)] == ["openvino-f32"]
        assert (batcher.states()[0].problem, batcher.states()[0].shadow) == ("", "")


async def test_an_engine_of_other_weights_is_not_taken(bundle: Bundle, watched: Watched) -> None:
    other = replace(bundle, manifest=named(bundle, "small", weights_sha256="1" * 64))
    async with ward_of(bundle, watched, Metrics()) as batcher:
        with pytest.raises(EngineError, match="is an engine of small/1, not of small/1"):
            await batcher.shadow("small", partial(open_backend, other, EngineSettings()))


async def test_a_shadow_is_compared_and_never_heard(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker, sample: Sample
) -> None:
    metrics, began = Metrics(), time.monotonic()
    async with ward_of(bundle, watched, metrics) as batcher:
        shadow = await batcher.shadow("small", lambda: nullcontext(Named(engine, "openvino-bf16")))
        with pytest.raises(EngineError, match="on trial for small already"):
            await batcher.shadow("small", lambda: nullcontext(Named(engine, "third")))
        assert batcher.states()[0].shadow == "openvino-bf16"
        for i in range(6):
            batcher.submit(make_window(bed=str(i % 2), seed=i))
        predictions = await collect(batcher, 6)
        reader = asyncio.create_task(collect(batcher, 1))  # trials reach their reader through whoever reads answers
        comparisons = [await asyncio.wait_for(anext(shadow), 10) for _ in range(6)]
        batcher.unshadow("small")
        batcher.unshadow("small")
        assert batcher.states()[0].shadow == ""
        with pytest.raises(StopAsyncIteration):
            await anext(shadow)
        batcher.submit(make_window(seed=9))
        assert [p.engine for p in await reader] == ["openvino-f32"]
    assert {p.engine for p in predictions} == {"openvino-f32"}
    assert [c.served for c in comparisons] == predictions
    whole = time.monotonic() - began
    for c in comparisons:
        assert (c.shadow.engine, c.shadow.window) == ("openvino-bf16", c.served.window)
        np.testing.assert_allclose(c.shadow.probabilities, c.served.probabilities, atol=1e-6)
        assert 0 < c.served_seconds < whole
        assert 0 < c.shadow_seconds < whole
    assert sample(metrics, "deepecg_shadow_windows_total", model="small") == 6
    assert sample(metrics, "deepecg_model_windows_total", model="small") == 7


async def test_a_shadow_that_fails_is_told_to_its_reader_and_nobody_else(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker, sample: Sample
) -> None:
    metrics, trial = Metrics(), Named(engine, "openvino-bf16")
    async with ward_of(bundle, watched, metrics) as batcher:
        shadow = await batcher.shadow("small", lambda: nullcontext(trial))
        trial.fail = True
        reader = asyncio.create_task(collect(batcher, 2))
        batcher.submit(make_window())
        with pytest.raises(EngineError, match=r"openvino-bf16 has failed on trial .*fell off the bus"):
            await asyncio.wait_for(anext(shadow), 10)
        batcher.submit(make_window(seed=1))
        assert len(await reader) == 2
        again = await batcher.shadow("small", lambda: nullcontext(Named(engine, "again")))
    with pytest.raises(StopAsyncIteration):
        await anext(again)
    assert sample(metrics, "deepecg_shadow_windows_dropped_total", model="small", reason="engine") == 1


async def test_the_engine_on_trial_and_the_one_that_serves_change_places(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker, sample: Sample
) -> None:
    """Twenty exchanges under load: each window is answered once, in order, and is compared with the other engine's."""
    metrics, found, comparisons = Metrics(), list[Prediction](), list[tuple[str, str]]()
    async with ward_of(bundle, watched, metrics) as batcher:
        shadow = await batcher.shadow("small", lambda: nullcontext(Named(engine, "openvino-bf16")))

        async def read() -> None:
            async for predictions in batcher:
                found.extend(predictions)

        async def compare(shadow: Shadow) -> None:
            async for c in shadow:
                comparisons.append((c.served.engine, c.shadow.engine))

        tasks = [asyncio.create_task(read()), asyncio.create_task(compare(shadow))]
        for i in range(20):
            for bed in range(3):
                batcher.submit(make_window(bed=str(bed), seed=i, rate=100.0))
            if i % 3:
                await asyncio.sleep(0.03)
            shadow = batcher.exchange("small")
            tasks.append(asyncio.create_task(compare(shadow)))
            serves = "openvino-f32" if i % 2 else "openvino-bf16"
            assert batcher.states()[0].engine == serves == batcher.engine
            assert batcher.states()[0].shadow != serves
        await batcher.drain()
        await asyncio.sleep(0.1)
        batcher.unshadow("small")
        with pytest.raises(EngineError, match="no engine is on trial for small any more"):
            batcher.exchange("small")
        tasks[0].cancel()
        await asyncio.gather(*tasks[1:])
    assert [p.window.start for p in found if p.window.bed == "1"] == list(range(20))
    assert len(found) == 60
    assert {p.engine for p in found} == {"openvino-f32", "openvino-bf16"}
    assert comparisons
    assert all(served != shadow for served, shadow in comparisons)
    assert sample(metrics, "deepecg_engine_swaps_total", model="small", outcome="done") == 20


@pytest.mark.parametrize("fault", ["raises", "not finite"])
async def test_the_engine_that_stands_by_takes_the_batch_that_failed(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker, fault: str, sample: Sample
) -> None:
    metrics, new = Metrics(), Named(engine, "openvino-bf16")
    async with ward_of(bundle, watched, metrics) as batcher:
        first = await batcher.shadow("small", lambda: nullcontext(new))
        shadow = batcher.exchange("small")
        with pytest.raises(StopAsyncIteration):
            await anext(first)
        new.fail, new.nan_row = fault == "raises", 0
        for i in range(3):
            batcher.submit(make_window(bed=str(i), seed=i))
        predictions = await collect(batcher, 3)
        assert {p.engine for p in predictions} == {"openvino-f32"}
        reader = asyncio.create_task(collect(batcher, 1))
        with pytest.raises(EngineError, match="openvino-bf16 has failed while serving"):
            async with asyncio.timeout(10):
                async for _ in shadow:
                    pass
        assert shadow.stood_in
        assert (batcher.states()[0].engine, batcher.states()[0].shadow) == ("openvino-f32", "")
        batcher.submit(make_window(seed=3))
        assert len(await reader) == 1
    assert b"deepecg_windows_dropped_total{" not in metrics.render()
    assert sample(metrics, "deepecg_engine_swaps_total", model="small", outcome="stood_in") == 1


async def test_an_engine_on_trial_does_not_stand_by_before_it_has_served(
    bundle: Bundle, engine: Backend, watched: Watched, make_window: WindowMaker
) -> None:
    async with ward_of(bundle, watched, Metrics()) as batcher:
        await batcher.shadow("small", lambda: nullcontext(Named(engine, "untested")))
        watched.fail = True
        batcher.submit(make_window())
        with pytest.raises(EngineError, match="fell off the bus"):
            await collect(batcher, 1)


async def test_answers_that_are_not_finite_are_counted(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    bad = make_window(seed=1)
    bad.samples[3, 7] = np.nan
    async with ward_of(bundle, watched, Metrics()) as batcher:
        reader = asyncio.create_task(collect(batcher, 1))
        batcher.submit(bad)  # not the engine's fault
        await asyncio.sleep(0.2)
        assert batcher.tally("small").wrong == 0
        watched.nan_row = 0
        batcher.submit(make_window(seed=2))
        async with asyncio.timeout(10):
            while not batcher.tally("small").wrong:
                await asyncio.sleep(0.01)
        watched.nan_row = None
        batcher.submit(make_window(seed=3))
        await reader
        assert batcher.tally("small") == Tally(answered=1, wrong=1)
        assert batcher.serving("small") is not None


async def test_leaving_closes_every_engine(bundle: Bundle, engine: Backend, watched: Watched) -> None:
    closed: list[str] = []

    @contextmanager
    def opener(name: str) -> Iterator[Backend]:
        yield Named(engine, name)
        closed.append(name)

    metrics = Metrics()
    async with ward_of(bundle, watched, metrics, ("ssl", partial(opener, "ssl"), EVERY)) as batcher:
        await ready(batcher)
        await promote(batcher, "small", partial(opener, "small"))
        await batcher.shadow("small", partial(opener, "trial"))
    assert sorted(closed) == ["small", "ssl", "trial"]
