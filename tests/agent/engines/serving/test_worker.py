"""The engine thread: what it posts, whose errors it survives, and when an engine is let go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from agent.core.ecg import FloatArray, Window
from agent.engines.bundles.bundle import Bundle
from agent.engines.serving.keeper import Keeper, OpenEngine
from agent.engines.serving.queue import DropReason, Job, WindowQueue
from agent.engines.serving.schedule import Lane, Schedule
from agent.engines.serving.worker import Answer, Ended, Gone, Lost, Worker

WindowMaker = Callable[..., Window]


@dataclass
class Backend:
    """A network that says its own number, and can be held up or made to fail."""

    name: str
    number: float = 0.0
    error: Exception | None = None
    go: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go.set()

    def infer(self, x: FloatArray) -> FloatArray:
        self.entered.set()
        self.go.wait(20)
        if self.error is not None:
            raise self.error
        return np.full((len(x), 3), self.number, np.float32)

    def infer_raw(self, windows: FloatArray, rate: float) -> FloatArray:
        raise AssertionError((windows, rate))


def engine(backend: Backend, bundle: Bundle) -> OpenEngine:
    def opener() -> Any:
        raise AssertionError("it is open already")

    return OpenEngine(backend, Keeper(opener, bundle.manifest), 0.001)


def retired(of: OpenEngine) -> bool:
    return of.keeper._retired.is_set()


def lane() -> Lane:
    return Lane(WindowQueue(64, 1000), 2.0)


@pytest.fixture
def make_job(make_window: WindowMaker) -> Callable[..., Job]:
    def make(bed: str = "a", **changes: Any) -> Job:
        now = time.monotonic()
        return Job(make_window(bed=bed, rate=100.0, received=now, **changes), now)

    return make


@dataclass
class Bench:
    worker: Worker
    first: Backend
    engine: OpenEngine

    async def next(self) -> Any:
        return await asyncio.wait_for(self.worker.outcomes.get(), 20)


@pytest.fixture
async def bench(bundle: Bundle) -> AsyncIterator[Bench]:
    backend = Backend("first", 0.125)
    opened = engine(backend, bundle)
    worker = Worker(Schedule(8, 0.0, 30.0, "first", lane()), bundle.manifest, opened)
    yield Bench(worker, backend, opened)
    backend.go.set()
    worker.close()
    await asyncio.wait_for(worker.ended.wait(), 20)


def promote(bench: Bench, bundle: Bundle, new: OpenEngine) -> None:
    """As a rollout does: beside the one that serves, in its place, and the old one sent away."""
    bench.worker.shadow("first:shadow", "first", lane(), bundle.manifest, new)
    assert bench.worker.exchange("first") == ()
    assert bench.worker.remove("first:shadow") == ()


async def test_a_window_becomes_an_answer(bench: Bench, make_job: Callable[..., Job]) -> None:
    job = make_job()
    assert bench.worker.push("first", job) is None
    answer = await bench.next()
    assert isinstance(answer, Answer)
    assert (answer.lane, answer.jobs, answer.is_canary) == ("first", (job,), False)
    (prediction,) = answer.predictions
    assert prediction is not None
    assert (prediction.model, prediction.engine, prediction.window) == ("small/1", "first", job.window)
    assert job.submitted <= answer.began <= answer.ended == prediction.completed
    assert 0 < answer.seconds <= answer.ended - answer.began
    assert bench.worker.busy is None
    assert bench.worker.progress > 0


async def test_the_thread_ends_when_it_is_told_to(bench: Bench, make_job: Callable[..., Job]) -> None:
    bench.first.go.clear()
    bench.worker.push("first", make_job())
    await asyncio.to_thread(bench.first.entered.wait, 20)
    assert bench.worker.busy is not None
    assert bench.worker.busy[1] == "first"
    waiting = make_job("b")
    bench.worker.push("first", waiting)
    assert len(bench.worker) == 1
    ((name, dropped),) = bench.worker.close()
    assert (name, dropped.job, dropped.reason) == ("first", waiting, DropReason.SHUTDOWN)
    bench.first.go.set()
    assert isinstance(await bench.next(), Answer)
    ended = await bench.next()
    assert isinstance(ended, Ended)
    assert ended.error is None


async def test_an_error_of_the_first_model_s_engine_ends_it(bench: Bench, make_job: Callable[..., Job]) -> None:
    bench.first.error = RuntimeError("the device fell off the bus")
    bench.worker.push("first", make_job())
    ended = await bench.next()
    assert isinstance(ended, Ended)
    assert ended.error is bench.first.error


async def test_an_error_of_another_costs_only_that_one(
    bench: Bench, bundle: Bundle, make_job: Callable[..., Job]
) -> None:
    other = Backend("other", error=ValueError("shapes do not match"))
    opened = engine(other, bundle)
    bench.worker.serve("other", lane(), bundle.manifest, opened)
    other.go.clear()
    jobs = [make_job("a"), make_job("b")]
    bench.worker.push("other", jobs[0])
    await asyncio.to_thread(other.entered.wait, 20)
    bench.worker.push("other", jobs[1])
    other.go.set()
    gone, lost = await bench.next(), await bench.next()
    assert isinstance(gone, Gone)
    assert [(name, d.job, d.reason) for name, d in gone.dropped] == [
        ("other", jobs[0], DropReason.ENGINE),
        ("other", jobs[1], DropReason.ENGINE),
    ]
    assert isinstance(lost, Lost)
    assert (lost.lane, lost.engine, lost.error) == ("other", opened, other.error)
    assert retired(opened)
    dropped = bench.worker.push("other", make_job())
    assert dropped is not None
    assert dropped.reason is DropReason.ENGINE
    bench.worker.push("first", make_job())
    assert isinstance(await bench.next(), Answer)


async def test_an_engine_is_exchanged_between_two_batches_and_let_go_after_its_last(
    bench: Bench, bundle: Bundle, make_job: Callable[..., Job]
) -> None:
    bench.first.go.clear()
    bench.worker.push("first", make_job("a"))
    await asyncio.to_thread(bench.first.entered.wait, 20)
    bench.worker.push("first", make_job("b"))
    new = engine(Backend("new", 0.75), bundle)
    promote(bench, bundle, new)
    assert not retired(bench.engine), "it still computes"
    bench.first.go.set()
    answers = [await bench.next(), await bench.next()]
    assert [(a.predictions[0].engine, a.predictions[0].window.bed) for a in answers] == [("first", "a"), ("new", "b")]
    assert [float(a.predictions[0].probabilities[0]) for a in answers] == [0.125, 0.75]
    assert retired(bench.engine)
    newest = engine(Backend("newest"), bundle)
    promote(bench, bundle, newest)
    assert retired(new), "nothing computes"
    assert not retired(newest)


async def test_the_first_model_s_engine_may_fail_once_another_has_its_place(
    bench: Bench, bundle: Bundle, make_job: Callable[..., Job]
) -> None:
    bench.first.go.clear()
    bench.first.error = RuntimeError("out of memory")
    job = make_job("a")
    bench.worker.push("first", job)
    await asyncio.to_thread(bench.first.entered.wait, 20)
    promote(bench, bundle, engine(Backend("new"), bundle))
    bench.worker.push("first", make_job("b"))
    bench.first.go.set()
    gone = await bench.next()
    assert isinstance(gone, Gone)
    assert [d.job for _, d in gone.dropped] == [job]
    answer = await bench.next()
    assert isinstance(answer, Answer)
    assert retired(bench.engine)


async def test_a_shadow_gets_copies_with_what_they_are_compared_with(
    bench: Bench, bundle: Bundle, make_job: Callable[..., Job]
) -> None:
    trial = engine(Backend("trial", 0.25), bundle)
    bench.worker.shadow("first:shadow", "first", lane(), bundle.manifest, trial)
    job = make_job()
    bench.worker.push("first", job)
    served, tried = await bench.next(), await bench.next()
    assert (served.is_canary, tried.is_canary) == (False, True)
    assert tried.jobs[0].reference is served.predictions[0]
    assert tried.jobs[0].seconds == served.seconds
    assert tried.predictions[0].window is job.window
    assert tried.predictions[0].engine == "trial"
    assert bench.worker.remove("first:shadow") == ()
    assert retired(trial)
    bench.worker.push("first", make_job())
    assert not (await bench.next()).is_canary
    await asyncio.sleep(0.05)
    assert bench.worker.outcomes.empty()


async def test_a_trial_that_fails_ends_and_its_queue_is_bounded(
    bench: Bench, bundle: Bundle, make_job: Callable[..., Job]
) -> None:
    backend = Backend("trial")
    narrow = Lane(WindowQueue(1, 1), 2.0)
    bench.worker.shadow("first:shadow", "first", narrow, bundle.manifest, engine(backend, bundle))
    bench.first.go.clear()
    bench.worker.push("first", make_job("a"))
    await asyncio.to_thread(bench.first.entered.wait, 20)
    for bed in "bcd":
        bench.worker.push("first", make_job(bed))
    bench.first.go.set()
    one, three, gone, tried = [await bench.next() for _ in range(4)]
    assert [len(one.jobs), len(three.jobs)] == [1, 3]
    assert [(name, d.reason) for name, d in gone.dropped] == [("first:shadow", DropReason.QUEUE_FULL)] * 3
    assert [job.window.bed for job in tried.jobs] == ["d"]
    bench.worker.release()
    backend.error = RuntimeError("NaN everywhere")
    bench.worker.push("first", make_job())
    assert isinstance(await bench.next(), Answer)
    gone, lost = await bench.next(), await bench.next()
    assert [(name, d.reason) for name, d in gone.dropped] == [("first:shadow", DropReason.ENGINE)]
    assert (lost.lane, str(lost.error)) == ("first:shadow", "NaN everywhere")
    bench.worker.push("first", make_job())
    assert isinstance(await bench.next(), Answer)


async def test_answers_that_nobody_is_done_with_hold_it_up_but_not_trials(
    bench: Bench, bundle: Bundle, make_job: Callable[..., Job]
) -> None:
    bench.worker.shadow("first:shadow", "first", lane(), bundle.manifest, engine(Backend("trial"), bundle))
    for i in range(4):
        bench.worker.push("first", make_job(f"{i}"))
        assert not (await bench.next()).is_canary
        if i < 3:
            assert (await bench.next()).is_canary
    bench.worker.push("first", make_job("held"))
    await asyncio.sleep(0.1)
    assert bench.worker.outcomes.empty()
    bench.worker.release()
    assert (await bench.next()).jobs[0].window.bed == "held"
