"""Windows in, predictions out: the models that are served, and the engine thread behind them.

`Batcher.submit` is called on the asyncio loop and never blocks. Each model has a lane; `agent.engines.serving.schedule`
says whose windows are next, the engine thread filters and infers them together and posts the predictions to the loop.
When it cannot keep up, further models wait before the first does, and each bed loses its own oldest windows first.

The first model is what the agent is for: what goes wrong with its engine ends the process. What goes wrong with a
further model's engine, or with a canary, ends that model or canary, is said, and costs nothing else.

Another engine of a model can be tried beside the one that serves (`Batcher.shadow`) and change places with it between
two batches (`Batcher.exchange`). Whether and when that is done is for others to decide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from agent.core.ecg import Prediction, Window
from agent.engines.base import EngineError
from agent.engines.serving.keeper import Keeper, OpenEngine, Opener
from agent.engines.serving.model import Model, ModelState, Served, Shadow, Tally
from agent.engines.serving.queue import Dropped, DropReason, Job, WindowQueue
from agent.engines.serving.schedule import Lane, Schedule
from agent.engines.serving.settings import ServingSettings
from agent.engines.serving.worker import Answer, Ended, Gone, Lost, Replaced, Worker
from agent.engines.settings import EngineSettings
from agent.ops.metrics import Metrics

log = structlog.get_logger()

_TICK = 1.0
"""Seconds between two looks at how long the present batch takes."""
_SHADOW = ":shadow"
"""What is appended to a model's name for the lane of its canary; no name has a colon."""


class Batcher:
    """An async context manager, and an async iterator of predictions for one reader.

    Entering it opens the first model's engine and returns after its self-test; what goes wrong there is raised there.
    Further models' engines are opened afterwards, one by one, beside the work. What goes wrong with the first model
    later, a batch past its deadline included, is raised by the iterator: nothing can bring a hung engine back but a
    new process, so the daemon exits and the service manager starts it again.

    All methods are the loop's.
    """

    def __init__(
        self, models: Sequence[Model], engine: EngineSettings, serving: ServingSettings, metrics: Metrics
    ) -> None:
        """The first of the models gets every window, the others what their settings say; no two have one name."""
        self._settings = engine
        self._serving = serving
        self._metrics = metrics
        self._models = {
            model.name: Served(model, metrics, (model.settings or serving).answer_within) for model in models
        }
        if len(self._models) < len(models):
            raise ValueError("two models have the same name; serve each bundle once")
        self._first = next(iter(self._models.values()))
        self._keepers: list[Keeper] = []
        self._reading: Answer | None = None
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._failure: EngineError | None = None

    async def __aenter__(self) -> Self:
        first, s = self._first, self._settings
        engine = await self._open(first, first.opener, probe=False)
        lane = self._lane(first.answer_within)
        schedule = Schedule(s.max_batch, s.max_wait, self._serving.expire_after, first.name, lane)
        first.is_served_by(engine)
        self._worker = Worker(schedule, first.manifest, engine)
        self._tasks = [
            asyncio.create_task(self._watch_deadline(), name="engine-deadline"),
            asyncio.create_task(self._open_others(), name="engine-opening"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._drop(self._worker.close())
        if self._failure is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.deadline):
                    await self._worker.ended.wait()
        for keeper in self._keepers:
            keeper.retire()
        if self._worker.ended.is_set():
            await asyncio.gather(*(keeper.closed(self._settings.deadline) for keeper in self._keepers))
        for served in self._models.values():
            if served.shadow is not None:
                served.shadow.end()
        self._worker.outcomes.put_nowait(Ended())

    @property
    def engine(self) -> str:
        """Flavour and precision of the engine that serves the first model, as ``openvino-f32``."""
        return self._first.state().engine

    @property
    def progress(self) -> int:
        """Grows while the engine thread lives, with every batch and with every idle second: food for a watchdog."""
        return self._worker.progress

    def states(self) -> tuple[ModelState, ...]:
        """Every model, the first one first, and what serves it."""
        return tuple(served.state() for served in self._models.values())

    # Windows in

    def submit(self, window: Window) -> None:
        """Hand in a window, for every model that wants it; never blocks."""
        now = time.monotonic()
        for served in self._models.values():
            if not served.wants(window):
                continue
            if (reason := served.unfit(window)) is not None:
                served.count(reason)
                continue
            served.given(window)
            self._unanswered += 1
            if (dropped := self._worker.push(served.name, Job(window, now))) is not None:
                self._drop([(served.name, dropped)])
        self._metrics.queue.set(len(self._worker))

    def request(self, bed: str, model: str) -> None:
        """A further model shall look at the bed's next good window, whatever it has looked at before."""
        served = self._models.get(model)
        if served is not None and served.cadence is not None:
            served.cadence.request(bed)

    def forget(self, bed: str) -> None:
        """The bed is there no more."""
        for served in self._models.values():
            if served.cadence is not None:
                served.cadence.forget(bed)

    async def drain(self, waiting: int = 0) -> None:
        """Wait until at most ``waiting`` windows are without an answer that the reader is done with.

        A window is done with when the reader asks for the batch after its own. For recordings, which can wait and
        shall lose nothing; a live feed never calls it.

        Raises:
            EngineError: the engine failed or missed its deadline.
        """
        while self._unanswered > waiting:
            if self._failure is not None:
                raise self._failure
            self._answered.clear()
            await self._answered.wait()

    # Predictions out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Prediction, ...]:
        """The predictions of the next batch, all of one model, oldest window first, never empty.

        Raises:
            EngineError: the engine failed or missed its deadline.
        """
        if self._reading is not None:
            self._done(self._reading)
            self._reading = None
        while True:
            outcome = await self._worker.outcomes.get()
            match outcome:
                case Answer() if outcome.is_canary:
                    self._models[outcome.lane.removesuffix(_SHADOW)].compared(outcome)
                case Answer():
                    self._metrics.queue.set(len(self._worker))
                    if predictions := self._models[outcome.lane].answered(outcome):
                        self._reading = outcome
                        return predictions
                    self._done(outcome)
                case Gone(dropped):
                    self._drop(dropped)
                case Lost():
                    self._lose(outcome)
                case Replaced():
                    self._replace(outcome)
                case Ended(error):
                    self._worker.outcomes.put_nowait(outcome)  # whoever asks again is told again
                    if error is None:
                        raise StopAsyncIteration
                    self._fail(error)
                    raise self._failure or error

    def _done(self, answer: Answer) -> None:
        self._unanswered -= len(answer.jobs)
        self._answered.set()
        self._worker.release()

    def _drop(self, dropped: Iterable[tuple[str, Dropped]]) -> None:
        """Windows that waited and get no answer."""
        for lane, one in dropped:
            served = self._models[lane.removesuffix(_SHADOW)]
            if one.job.reference is not None:
                served.count_shadow(one.reason)
            else:
                served.lost(one.job.window, one.reason)
                self._unanswered -= 1
        self._answered.set()

    # Engines

    async def shadow(self, model: str, opener: Opener, *, stands_by: bool = False) -> Shadow:
        """Try another engine of a model on copies of its live windows; the comparisons, for one reader.

        It gets only time that no model wants; windows that wait too long for it or for the reader are dropped and
        counted. It ends by `unshadow`, with the batcher, or by an error of its own, which the reader is told. But it
        computes in the same thread: if it hangs, the process ends as with any other engine.

        ``stands_by``: when the engine that serves raises or gives answers that are not finite, this one takes its
        place with the very batch that failed, and no window is lost.

        Raises:
            EngineError: it does not open, or there is another canary.
            KeyError: there is no such model.
        """
        served = self._models[model]
        async with served.changing:
            if served.shadow is not None:
                raise EngineError(f"{served.shadow.engine.name} is on trial for {model} already; end that trial first.")
            engine = await self._open(served, opener)
            served.shadow = Shadow(engine, self._serving.shadow_queue)
            lane = self._lane(self._serving.expire_after, self._serving.shadow_queue)
            self._worker.shadow(model + _SHADOW, model, lane, served.manifest, engine, stands_by=stands_by)
            log.info("shadow_started", model=served.manifest.model_id, engine=engine.name)
            return served.shadow

    def exchange(self, model: str) -> Shadow:
        """Serve a model with the canary, from one batch to the next; the engine that served takes its place and stands
        by. The reader of the comparisons until now gets the end of them.

        Raises:
            EngineError: there is no canary any more.
            KeyError: there is no such model.
        """
        served = self._models[model]
        old, before = served.shadow, served.engine
        waiting = self._worker.exchange(model)
        if old is None or before is None or waiting is None:
            raise EngineError(f"no engine is on trial for {model} any more.")
        self._drop((model + _SHADOW, Dropped(job, DropReason.SHUTDOWN)) for job in waiting)
        served.is_served_by(old.engine)
        served.shadow = Shadow(before, self._serving.shadow_queue)
        old.end()
        self._metrics.swaps.labels(model, "done").inc()
        log.info("engine_swapped", model=served.manifest.model_id, before=before.name, engine=old.engine.name)
        return served.shadow

    def serving(self, model: str) -> OpenEngine | None:
        """The engine that serves a model; None: it has none (yet).

        Raises:
            KeyError: there is no such model.
        """
        return self._models[model].engine

    def tally(self, model: str) -> Tally:
        """What became of the windows that the model's present engine was given.

        Raises:
            KeyError: there is no such model.
        """
        return self._models[model].tally

    def unshadow(self, model: str) -> None:
        """Send a model's canary away, if there is one; its reader gets what is there, and then the end.

        Raises:
            KeyError: there is no such model.
        """
        self._end_shadow(self._models[model])

    async def _open(self, served: Served, opener: Opener, *, probe: bool = True) -> OpenEngine:
        keeper = Keeper(opener, served.manifest)
        self._keepers = [*(known for known in self._keepers if not known.is_closed), keeper]
        return await keeper.open(self._settings.start_deadline, probe=probe)

    async def _open_others(self) -> None:
        for served in list(self._models.values())[1:]:
            async with served.changing:
                try:
                    engine = await self._open(served, served.opener)
                except EngineError as error:
                    self._say_lost(served, error)
                    continue
                self._serve(served, engine)
            log.info("model_ready", model=served.manifest.model_id, engine=engine.name, seconds=engine.seconds)

    def _serve(self, served: Served, engine: OpenEngine) -> None:
        self._worker.serve(served.name, self._lane(served.answer_within), served.manifest, engine)
        served.is_served_by(engine)

    def _lane(self, answer_within: float, queue: int | None = None) -> Lane:
        return Lane(WindowQueue(self._settings.queue_per_bed, queue or self._settings.queue), answer_within)

    def _lose(self, lost: Lost) -> None:
        """A further model is served no more, or a canary has failed."""
        served = self._models[lost.lane.removesuffix(_SHADOW)]
        if served.shadow is not None and served.shadow.engine is lost.engine:
            self._end_shadow(served, f"{lost.engine.name} has failed on trial ({lost.error}).")
        elif served.engine is lost.engine:
            served.is_served_by(None)
            self._say_lost(served, lost.error)

    def _replace(self, replaced: Replaced) -> None:
        """The engine that stood by serves."""
        served = self._models[replaced.lane]
        shadow, served.shadow = served.shadow, None
        served.is_served_by(replaced.by)
        if shadow is not None:
            shadow.stood_in = True
            shadow.end(f"{replaced.engine.name} has failed while serving ({replaced.error}).")
        self._metrics.swaps.labels(served.name, "stood_in").inc()
        log.error(
            "engine_replaced",
            model=served.manifest.model_id,
            before=replaced.engine.name,
            engine=replaced.by.name,
            error=type(replaced.error).__name__,
            reason=str(replaced.error),
        )

    def _say_lost(self, served: Served, error: Exception) -> None:
        served.problem = str(error)
        log.error("model_not_served", model=served.manifest.model_id, error=type(error).__name__, reason=str(error))

    def _end_shadow(self, served: Served, problem: str = "") -> None:
        shadow, served.shadow = served.shadow, None
        if shadow is not None:
            waiting = self._worker.remove(served.name + _SHADOW)
            self._drop((served.name + _SHADOW, Dropped(job, DropReason.SHUTDOWN)) for job in waiting)
            shadow.end(problem)
            log.info("shadow_ended", model=served.manifest.model_id, engine=shadow.engine.name, problem=problem)

    # Failure

    async def _watch_deadline(self) -> None:
        limit = self._settings.deadline
        while True:
            await asyncio.sleep(min(_TICK, limit / 4))
            busy = self._worker.busy
            if busy is not None and time.monotonic() - busy[0] > limit:
                error = EngineError(f"a batch of {busy[1]} took longer than the deadline of {limit:g} s")
                self._worker.outcomes.put_nowait(Ended(error))
                self._fail(error)
                return

    def _fail(self, error: BaseException) -> None:
        """The engine thread is lost."""
        if self._failure is None:
            log.error("engine_failed", error=type(error).__name__)
            self._failure = EngineError(f"the engine stopped ({error}); the agent has to start anew.")
            self._failure.__cause__ = error
            self._answered.set()
