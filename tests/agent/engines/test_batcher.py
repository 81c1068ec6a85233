"""The queue by its rules, and the batcher with the real engine under it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.ecg import LEADS, FloatArray, Lead, Prediction, Provenance, Window
from agent.engines.backend import Backend, EngineError, EngineSettings, open_backend
from agent.engines.batcher import Batcher, DropReason, WindowQueue
from agent.engines.bundle import Bundle
from agent.engines.openvino import OpenVinoEngine
from agent.metrics import Metrics

WindowMaker = Callable[..., Window]


class Watched:
    """The real engine, which can be told to wait, to fail or to answer with NaN."""

    name = "openvino-f32"

    def __init__(self, engine: Backend) -> None:
        self.engine = engine
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.fail = False
        self.nan_row: int | None = None
        self.batches: list[int] = []

    def infer(self, x: FloatArray) -> FloatArray:
        self.batches.append(len(x))
        self.entered.set()
        self.go.wait(20)
        if self.fail:
            raise RuntimeError("the device fell off the bus")
        out = self.engine.infer(x)
        if self.nan_row is not None:
            out[self.nan_row, 0] = np.nan
        return out


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[Backend]:
    with OpenVinoEngine(bundle, bundle.manifest.engines[0]) as engine:
        yield engine


@pytest.fixture
def watched(engine: Backend) -> Iterator[Watched]:
    watched = Watched(engine)
    yield watched
    watched.go.set()


def opener(backend: object) -> Callable[[], AbstractContextManager[Backend]]:
    return lambda: nullcontext(backend)  # type: ignore[arg-type]


def dropped(metrics: Metrics, reason: DropReason) -> float:
    return metrics.registry.get_sample_value("deepecg_windows_dropped_total", {"reason": reason.value}) or 0.0


async def collect(batcher: Batcher, count: int) -> list[Prediction]:
    predictions: list[Prediction] = []
    async with asyncio.timeout(30):
        async for batch in batcher:
            predictions += batch
            if len(predictions) >= count:
                break
    return predictions


# ---- the queue ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 20)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 8),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_queue_keeps_the_newest_of_each_bed_oldest_first(
    make_window: WindowMaker, arrivals: list[tuple[str, int]], per_bed: int, total: int
) -> None:
    queue = WindowQueue(per_bed, total)
    pushed, reasons = [], Counter[DropReason | None]()
    for bed, received in arrivals:
        window = make_window(bed=bed, received=float(received), rate=1.0)
        pushed.append(window)
        before = len(queue)
        reason = queue.push(window)
        reasons[reason] += 1
        assert len(queue) == before + (reason is None)
    assert len(queue) <= total
    left = queue.take(len(queue))
    assert len(left) == len(pushed) - reasons[DropReason.OVERLOAD] - reasons[DropReason.QUEUE_FULL]
    assert [w.received for w in left] == sorted(w.received for w in left)
    assert all(n <= per_bed for n in Counter(w.bed for w in left).values())
    if not reasons[DropReason.QUEUE_FULL]:
        for bed in "abcd":
            mine = sorted((w for w in pushed if w.bed == bed), key=lambda w: w.received)
            assert [w.received for w in left if w.bed == bed] == [w.received for w in mine[-per_bed:]]
    assert len(queue) == 0
    assert queue.push(make_window(rate=1.0)) is None  # nothing is remembered of beds that were taken


def test_a_full_queue_drops_from_the_bed_with_the_most(make_window: WindowMaker) -> None:
    queue = WindowQueue(per_bed=3, total=4)
    for bed, received in (("quiet", 0.0), ("loud", 1.0), ("loud", 2.0), ("loud", 3.0)):
        assert queue.push(make_window(bed=bed, received=received, rate=1.0)) is None
    assert queue.push(make_window(bed="new", received=4.0, rate=1.0)) is DropReason.QUEUE_FULL
    assert [w.received for w in queue.take(9)] == [0.0, 2.0, 3.0, 4.0]


# ---- the batcher -------------------------------------------------------------------------------------------------


async def test_predictions_of_the_bundle_s_own_engine(bundle: Bundle, make_window: WindowMaker) -> None:
    metrics = Metrics()
    engine_settings = EngineSettings()
    async with Batcher(
        partial(open_backend, bundle, engine_settings), bundle.manifest, engine_settings, metrics
    ) as batcher:
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
    assert metrics.registry.get_sample_value("deepecg_prediction_latency_seconds_count") == 5
    assert metrics.registry.get_sample_value("deepecg_batch_size_sum") == 5
    assert metrics.registry.get_sample_value("deepecg_queue") == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from((0.0, 0.0, 0.0, 0.005))), min_size=1, max_size=24))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bed_s_windows_touch_another_s(
    bundle: Bundle, engine: Backend, make_window: WindowMaker, order: list[tuple[int, float]]
) -> None:
    """Any interleaving of four beds at four rates gives each bed what it gets alone."""
    rates = (100.0, 250.0, 500.0, 1000.0)
    engine_settings = EngineSettings(queue_per_bed=64)

    async def run(sequence: Sequence[tuple[int, float]]) -> list[tuple[int, float, FloatArray]]:
        seen = Counter[int]()
        async with Batcher(opener(engine), bundle.manifest, engine_settings, Metrics()) as batcher:
            for bed, pause in sequence:
                window = make_window(
                    bed=str(bed), seed=100 * bed + seen[bed], rate=rates[bed], received=time.monotonic()
                )
                seen[bed] += 1
                batcher.submit(window)
                await asyncio.sleep(pause)
            predictions = await collect(batcher, len(sequence))
        return [(int(p.window.bed), p.window.start, p.probabilities) for p in predictions]

    together = asyncio.run(run(order))
    assert len(together) == len(order)
    for bed in {bed for bed, _ in order}:
        alone = asyncio.run(run([step for step in order if step[0] == bed]))
        mine = [item for item in together if item[0] == bed]
        assert [item[1] for item in mine] == [item[1] for item in alone]
        np.testing.assert_allclose([item[2] for item in mine], [item[2] for item in alone], atol=1e-5)


async def test_windows_are_batched_and_the_oldest_goes_first(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    watched.go.clear()
    async with Batcher(opener(watched), bundle.manifest, EngineSettings(max_batch=4), Metrics()) as batcher:
        batcher.submit(make_window(bed="first"))
        await asyncio.to_thread(watched.entered.wait, 10)
        for i in (5, 3, 1, 4, 2):
            batcher.submit(make_window(bed=str(i), seed=i, received=float(i)))
        watched.go.set()
        predictions = await collect(batcher, 6)
    assert [p.window.bed for p in predictions] == ["first", "1", "2", "3", "4", "5"]
    assert watched.batches == [1, 4, 1]


async def test_a_flooding_bed_loses_its_own_oldest_windows_only(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    metrics = Metrics()
    watched.go.clear()
    async with Batcher(opener(watched), bundle.manifest, EngineSettings(), metrics) as batcher:
        batcher.submit(make_window(bed="first"))
        await asyncio.to_thread(watched.entered.wait, 10)
        quiet = make_window(bed="quiet", received=1.0)
        batcher.submit(quiet)
        began = time.monotonic()
        flood = [make_window(bed="flood", seed=i, rate=100.0, received=2.0 + i) for i in range(100)]
        for window in flood:
            batcher.submit(window)
        assert time.monotonic() - began < 2.0  # the engine stands still all the while
        watched.go.set()
        predictions = await collect(batcher, 4)
    assert [p.window for p in predictions][1:] == [quiet, *flood[-2:]]
    assert dropped(metrics, DropReason.OVERLOAD) == 98


async def test_windows_that_the_network_cannot_take(bundle: Bundle, engine: Backend, make_window: WindowMaker) -> None:
    metrics = Metrics()
    provenance = [Provenance.MEASURED] * 12
    provenance[LEADS.index(Lead.II)] = Provenance.MISSING
    nan = make_window().samples.copy()
    nan[3, 7] = np.nan
    limb = tuple(Provenance.DERIVED if i < 6 else Provenance.MISSING for i in range(12))
    async with Batcher(opener(engine), bundle.manifest, EngineSettings(queue_per_bed=9), metrics) as batcher:
        batcher.submit(make_window(provenance=tuple(provenance)))
        batcher.submit(make_window(samples=np.zeros((12, 4999), np.float32)))
        batcher.submit(make_window(samples=np.zeros((11, 5000), np.float32)))
        batcher.submit(make_window(rate=250.5, samples=np.zeros((12, 2505), np.float32)))
        batcher.submit(make_window(samples=nan))
        batcher.submit(make_window(bed="good", provenance=limb, received=1.0))
        (prediction,) = await collect(batcher, 1)
    assert prediction.window.bed == "good"
    assert np.isfinite(prediction.probabilities).all()
    assert dropped(metrics, DropReason.LEADS) == 1
    assert dropped(metrics, DropReason.SHAPE) == 3
    assert dropped(metrics, DropReason.NOT_FINITE) == 1


async def test_an_answer_that_is_not_finite_is_no_prediction(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    metrics = Metrics()
    watched.nan_row = 1
    async with Batcher(opener(watched), bundle.manifest, EngineSettings(max_wait=1.0, max_batch=3), metrics) as batcher:
        now = time.monotonic()
        for i in range(3):
            batcher.submit(make_window(bed=str(i), received=now + i))
        predictions = await collect(batcher, 2)
    assert [p.window.bed for p in predictions] == ["0", "2"]
    assert dropped(metrics, DropReason.NOT_FINITE) == 1


async def test_a_slow_reader_holds_the_engine_and_the_queue_drops(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    metrics = Metrics()
    async with Batcher(opener(watched), bundle.manifest, EngineSettings(max_batch=1), metrics) as batcher:
        for i in range(20):
            batcher.submit(make_window(seed=i, received=float(i)))
            await asyncio.sleep(0.03)
        assert len(watched.batches) == 4
        predictions = await collect(batcher, 6)
    assert [p.window.start for p in predictions] == [0, 1, 2, 3, 18, 19]
    assert dropped(metrics, DropReason.OVERLOAD) == 14


async def test_drain_waits_for_the_reader_to_be_done(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    engine_settings = EngineSettings(queue_per_bed=64)
    read: list[Prediction] = []

    async def reader() -> None:
        async for batch in batcher:
            await asyncio.sleep(0.02)
            read.extend(batch)

    async with Batcher(opener(watched), bundle.manifest, engine_settings, Metrics()) as batcher:
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
    began = time.monotonic()
    async with Batcher(opener(watched), bundle.manifest, EngineSettings(deadline=0.4), Metrics()) as batcher:
        batcher.submit(make_window())
        for _ in range(2):
            with pytest.raises(EngineError, match=r"longer than the deadline of 0\.4 s"):
                await collect(batcher, 1)
    assert time.monotonic() - began < 3.0  # leaving does not wait for it


async def test_an_engine_that_fails_is_fatal(bundle: Bundle, watched: Watched, make_window: WindowMaker) -> None:
    watched.fail = True
    async with Batcher(opener(watched), bundle.manifest, EngineSettings(), Metrics()) as batcher:
        batcher.submit(make_window())
        with pytest.raises(EngineError, match="the device fell off the bus"):
            await collect(batcher, 1)


async def test_what_goes_wrong_at_the_start_is_raised_at_the_start(bundle: Bundle) -> None:
    @contextmanager
    def broken() -> Iterator[Backend]:
        raise EngineError("no device")
        yield

    with pytest.raises(EngineError, match="no device"):
        async with Batcher(broken, bundle.manifest, EngineSettings(), Metrics()):
            pytest.fail("entered")


async def test_a_start_past_its_deadline(bundle: Bundle, engine: Backend) -> None:
    go = threading.Event()

    @contextmanager
    def slow() -> Iterator[Backend]:
        go.wait(10)
        yield engine

    with pytest.raises(EngineError, match=r"did not start within 0\.2 s"):
        async with Batcher(slow, bundle.manifest, EngineSettings(start_deadline=0.2), Metrics()):
            pytest.fail("entered")
    go.set()


async def test_leaving_ends_the_thread_and_the_iteration(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    metrics = Metrics()
    threads = threading.active_count()
    watched.go.clear()
    async with Batcher(opener(watched), bundle.manifest, EngineSettings(max_batch=1), metrics) as batcher:
        for i in range(3):
            batcher.submit(make_window(bed=str(i)))
        await asyncio.to_thread(watched.entered.wait, 10)
        asyncio.get_running_loop().call_later(0.2, watched.go.set)
    assert dropped(metrics, DropReason.SHUTDOWN) == 2
    left = [batch async for batch in batcher]
    assert sum(map(len, left)) <= 1
    for _ in range(100):
        if not any(t.name == "engine" and t.is_alive() for t in threading.enumerate()):
            break
        await asyncio.sleep(0.01)
    assert threading.active_count() <= threads + 1  # to_thread's worker


async def test_an_idle_thread_makes_progress_a_hung_one_none(
    bundle: Bundle, watched: Watched, make_window: WindowMaker
) -> None:
    async with Batcher(opener(watched), bundle.manifest, EngineSettings(), Metrics()) as batcher:
        await asyncio.sleep(1.3)
        assert batcher.progress >= 1
        watched.go.clear()
        batcher.submit(make_window())
        await asyncio.to_thread(watched.entered.wait, 10)
        at = batcher.progress
        await asyncio.sleep(1.3)
        assert batcher.progress == at
        watched.go.set()
        await collect(batcher, 1)
        assert batcher.progress > at
