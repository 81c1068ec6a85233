"""Windows in, predictions out: the one engine thread, and the queue in front of it.

`Batcher.submit` is called on the asyncio loop and never blocks. The engine thread takes the windows that have waited
longest, filters and infers them together, and posts the predictions back to the loop. When it cannot keep up, each bed
loses its own oldest windows first: a bed that sends too fast costs its neighbours nothing but the shared time.
"""

from __future__ import annotations

import asyncio
import bisect
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

import numpy as np
import structlog

from agent.core.ecg import LEADS, FloatArray, Prediction, Provenance, Window
from agent.core.filters import prepare
from agent.core.manifest import Manifest
from agent.engines.backend import Backend, EngineError, EngineSettings
from agent.metrics import Metrics

log = structlog.get_logger()

_TICK = 1.0
"""Seconds after which an idle engine thread counts progress, so that a quiet ward does not look like a dead thread."""
_HELD = 4
"""Batches of predictions that may be unread or in the reader's hands; then the thread waits and the queue drops."""


class DropReason(StrEnum):
    """Why a window gave no prediction: the label of `Metrics.windows_dropped`, so the list is closed."""

    OVERLOAD = "overload"  # the bed had newer windows waiting
    QUEUE_FULL = "queue_full"  # the ward had too many
    LEADS = "leads"  # a lead that the network requires is missing
    SHAPE = "shape"  # not the network's length, or not at a whole rate
    NOT_FINITE = "not_finite"  # NaN or infinity, before or after the network
    SHUTDOWN = "shutdown"


class WindowQueue:
    """The windows that wait, oldest arrival first. Not locked: its owner is."""

    def __init__(self, per_bed: int, total: int) -> None:
        self._per_bed = per_bed
        self._total = total
        self._waiting: list[Window] = []
        self._beds: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> Window:
        """The window that has waited longest; the queue must not be empty."""
        return self._waiting[0]

    def push(self, window: Window) -> DropReason | None:
        """Add a window; why another one (or this one, if it is the oldest) had to go, or None."""
        bisect.insort_right(self._waiting, window, key=_arrival)  # equal arrivals keep their order
        self._beds[window.bed] += 1
        if self._beds[window.bed] > self._per_bed:
            self._drop_oldest_of(window.bed)
            return DropReason.OVERLOAD
        if len(self._waiting) > self._total:
            most = max(self._beds.values())
            self._drop_oldest_of(next(w.bed for w in self._waiting if self._beds[w.bed] == most))
            return DropReason.QUEUE_FULL
        return None

    def take(self, most: int) -> list[Window]:
        """Remove and return the oldest windows, at most ``most``."""
        taken, self._waiting = self._waiting[:most], self._waiting[most:]
        self._beds -= Counter(window.bed for window in taken)
        return taken

    def _drop_oldest_of(self, bed: str) -> None:
        del self._waiting[next(i for i, window in enumerate(self._waiting) if window.bed == bed)]
        self._beds -= Counter((bed,))


def _arrival(window: Window) -> float:
    return window.received


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the engine thread made of one batch."""

    windows: int
    predictions: tuple[Prediction, ...]
    """Fewer than ``windows`` where some were not finite."""


class Batcher:
    """Owns the engine thread. An async context manager, and an async iterator of predictions for one reader.

    Entering it opens the back-end in that thread and returns after its self-test; what goes wrong there is raised
    there. What goes wrong later, a batch past its deadline included, is raised by the iterator: nothing can bring a
    hung engine back but a new process, so the daemon exits and the service manager starts it again.
    """

    def __init__(
        self,
        open_backend: Callable[[], AbstractContextManager[Backend]],
        manifest: Manifest,
        settings: EngineSettings,
        metrics: Metrics,
    ) -> None:
        self._open = open_backend
        self._manifest = manifest
        self._settings = settings
        self._metrics = metrics
        self._required = tuple(LEADS.index(lead) for lead in manifest.input.required_leads)
        # Shared with the engine thread, under the condition's lock.
        self._changed = threading.Condition()
        self._queue = WindowQueue(settings.queue_per_bed, settings.queue)
        self._held = 0
        self._closing = False
        self._batch_began: float | None = None
        self._progress = 0
        # The loop's own.
        self._results: asyncio.Queue[_Answer | None] = asyncio.Queue()
        self._reading: _Answer | None = None
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._failure: BaseException | None = None
        self._ended = asyncio.Event()
        self._engine = ""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[str] = loop.create_future()
        # A daemon thread: an engine that hangs in native code must not keep the process from exiting.
        threading.Thread(target=self._work, args=(loop,), name="engine", daemon=True).start()
        try:
            async with asyncio.timeout(self._settings.start_deadline):
                self._engine = await self._started
        except TimeoutError as error:
            self._close()
            raise EngineError(
                f"the engine did not start within {self._settings.start_deadline:g} s; "
                "raise start_deadline if this machine is that slow."
            ) from error
        except BaseException:  # reason: `__aexit__` never runs after this; raised again
            self._close()
            raise
        self._watch = asyncio.create_task(self._watch_deadline(), name="engine-deadline")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.cancel()
        self._close()
        if self._failure is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.deadline):
                    await self._ended.wait()
        self._results.put_nowait(None)

    @property
    def engine(self) -> str:
        """Flavour and precision of the engine that serves, as ``openvino-f32``."""
        return self._engine

    @property
    def progress(self) -> int:
        """Grows while the engine thread lives, with every batch and with every idle second: food for a watchdog."""
        return self._progress

    def submit(self, window: Window) -> None:
        """Hand in a window; never blocks. On the loop's thread only."""
        p = self._manifest.input.preprocessing
        if any(window.provenance[i] is Provenance.MISSING for i in self._required):
            self._drop(DropReason.LEADS)
        elif window.rate % 1 or window.samples.shape != (len(LEADS), window.rate * p.seconds):
            self._drop(DropReason.SHAPE)
        else:
            with self._changed:
                dropped = self._queue.push(window)
                self._metrics.queue.set(len(self._queue))
                self._changed.notify()
            if dropped is None:
                self._unanswered += 1
            else:
                self._drop(dropped)

    async def drain(self, waiting: int = 0) -> None:
        """Wait until at most ``waiting`` windows are without an answer that the reader is done with.

        A window is done with when the reader asks for the batch after its own. For recordings, which can wait and
        shall lose nothing; a live feed never calls it.

        Raises:
            EngineError: the engine failed or missed its deadline.
        """
        while self._unanswered > waiting:
            if self._failure is not None:
                raise self._stopped()
            self._answered.clear()
            await self._answered.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Prediction, ...]:
        """The predictions of the next batch, oldest window first, never empty.

        Raises:
            EngineError: the engine failed or missed its deadline.
        """
        if self._reading is not None:
            self._done(self._reading)
            self._reading = None
        answer = None if self._failure is not None else await self._results.get()
        if answer is None:
            self._results.put_nowait(None)
            if self._failure is None:
                raise StopAsyncIteration
            raise self._stopped()
        self._reading = answer
        return answer.predictions

    def _done(self, answer: _Answer) -> None:
        self._unanswered -= answer.windows
        self._answered.set()
        with self._changed:
            self._held -= 1
            self._changed.notify()

    def _stopped(self) -> EngineError:
        error = EngineError(f"the engine stopped ({self._failure}); the agent has to start anew.")
        error.__cause__ = self._failure
        return error

    def _drop(self, reason: DropReason, count: int = 1) -> None:
        self._metrics.windows_dropped.labels(reason=reason.value).inc(count)

    def _close(self) -> None:
        with self._changed:
            self._closing = True
            left = len(self._queue.take(len(self._queue)))
            self._changed.notify()
        if left:
            self._unanswered -= left
            self._drop(DropReason.SHUTDOWN, left)

    async def _watch_deadline(self) -> None:
        while self._failure is None:
            await asyncio.sleep(min(_TICK, self._settings.deadline / 4))
            began = self._batch_began
            if began is not None and time.monotonic() - began > self._settings.deadline:
                self._fail(EngineError(f"a batch took longer than the deadline of {self._settings.deadline:g} s"))

    def _fail(self, error: BaseException) -> None:
        """On the loop: the engine is lost."""
        self._ended.set()
        if not self._started.done():
            self._started.set_exception(error)
        elif self._failure is None:
            log.error("engine_failed", error=type(error).__name__)
            self._failure = error
            self._answered.set()
            self._results.put_nowait(None)

    def _start(self, engine: str) -> None:
        if not self._started.done():
            self._started.set_result(engine)

    def _deliver(self, answer: _Answer) -> None:
        for prediction in answer.predictions:
            self._metrics.prediction_latency.observe(prediction.completed - prediction.window.received)
        if answer.predictions:
            self._results.put_nowait(answer)
        else:
            self._done(answer)

    # ---- the engine thread -------------------------------------------------------------------------------------

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends, and nobody is left to be told
            try:
                with self._open() as backend:
                    loop.call_soon_threadsafe(self._start, backend.name)
                    while batch := self._take():
                        answer = _Answer(len(batch), self._predict(backend, batch))
                        with self._changed:
                            self._batch_began = None
                            self._progress += 1
                            self._held += 1
                        loop.call_soon_threadsafe(self._deliver, answer)
            except BaseException as error:  # noqa: BLE001  the thread's top: whatever it is, the loop must hear of it
                loop.call_soon_threadsafe(self._fail, error)
            else:
                loop.call_soon_threadsafe(self._ended.set)

    def _take(self) -> list[Window]:
        """The next batch; waits for it. Empty at the end."""
        most = self._settings.max_batch
        with self._changed:
            while not self._closing:
                if not len(self._queue) or self._held >= _HELD:
                    if not self._changed.wait(_TICK) and self._held < _HELD:
                        self._progress += 1
                    continue
                patience = self._queue.oldest.received + self._settings.max_wait - time.monotonic()
                if len(self._queue) < most and patience > 0:
                    self._changed.wait(patience)
                    continue
                self._batch_began = time.monotonic()
                batch = self._queue.take(most)
                self._metrics.queue.set(len(self._queue))
                return batch
            return []

    def _predict(self, backend: Backend, batch: Sequence[Window]) -> tuple[Prediction, ...]:
        began = time.monotonic()
        x = prepare_windows(batch, self._manifest)
        sound = np.isfinite(x).all(axis=(1, 2))
        probabilities = np.full((len(batch), len(self._manifest.labels)), np.nan, np.float32)
        if sound.any():
            probabilities[sound] = backend.infer(x[sound])
        probabilities.flags.writeable = False
        completed = time.monotonic()
        self._metrics.batch_size.observe(len(batch))
        self._metrics.inference.observe(completed - began)
        predictions = []
        for window, p in zip(batch, probabilities, strict=True):
            if not np.isfinite(p).all():
                self._drop(DropReason.NOT_FINITE)
                continue
            predictions.append(Prediction(window, self._manifest.model_id, backend.name, p, completed))
        return tuple(predictions)


def prepare_windows(batch: Sequence[Window], manifest: Manifest) -> FloatArray:
    """The network's input (B, 12, rate * seconds) of windows of any rates, filtered together where rates agree."""
    p = manifest.input.preprocessing
    x = np.empty((len(batch), len(LEADS), round(p.rate * p.seconds)), np.float32)
    rates = np.array([window.rate for window in batch])
    for rate in np.unique(rates):
        same = rates == rate
        x[same] = prepare(np.stack([window.samples for window in batch if window.rate == rate]), float(rate), p)
    return x
