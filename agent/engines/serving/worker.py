"""The engine thread: takes the next batch, computes it, posts what became of it. One thread, one device, many engines.

Everything that it shares with the loop is in here, under one lock that is never held while anything is computed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from agent.core.bundle.manifest import Manifest
from agent.core.ecg import Prediction
from agent.engines.base import EngineError
from agent.engines.serving.compute import Computed, Computer
from agent.engines.serving.keeper import OpenEngine
from agent.engines.serving.queue import Dropped, DropReason, Job
from agent.engines.serving.schedule import Lane, Schedule

_TICK = 1.0
"""Seconds after which an idle engine thread counts progress, so that a quiet ward does not look like a dead thread."""
_HELD = 4
"""Batches of predictions that may be unread or in the reader's hands; then the thread waits and the queue drops."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A batch has been computed."""

    lane: str
    jobs: tuple[Job, ...]
    predictions: tuple[Prediction | None, ...]
    """One for each job; None where window or answer is not finite."""
    began: float
    """Monotonic seconds, as ``ended``."""
    ended: float
    filtered: float
    """Seconds of them that filtering took."""
    inferred: float
    """And the network."""
    engine: OpenEngine
    """Which computed it."""
    wrong: int = 0
    """Windows that are finite and got an answer that is not."""

    @property
    def seconds(self) -> float:
        """What one window took: its share of the batch."""
        return (self.filtered + self.inferred) / len(self.jobs)

    @property
    def is_canary(self) -> bool:
        """Whether it is to be compared with what another engine has answered."""
        return self.jobs[0].reference is not None


@dataclass(frozen=True, slots=True)
class Gone:
    """Windows that will not be answered, by lane."""

    dropped: tuple[tuple[str, Dropped], ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """An engine has failed, and its lane is gone."""

    lane: str
    engine: OpenEngine
    error: Exception


@dataclass(frozen=True, slots=True)
class Replaced:
    """An engine has failed, and the one that stood by for it has taken its place and its windows."""

    lane: str
    engine: OpenEngine
    by: OpenEngine
    error: Exception


@dataclass(frozen=True, slots=True)
class Ended:
    """The thread has ended: it was told to, or by an error of the first model's engine or of its own."""

    error: BaseException | None = None


Outcome: TypeAlias = Answer | Gone | Lost | Replaced | Ended


@dataclass(slots=True, eq=False)
class _Seat:
    """What computes a lane's windows."""

    model_id: str
    computer: Computer
    engine: OpenEngine
    shadow: str = ""
    """The lane that gets its answers to compare; empty: none."""
    stands_by: bool = False
    """Whether that lane's engine takes this one's place when it fails."""


class Worker:
    """The engine thread and its schedule. Its methods are the loop's.

    ``outcomes`` has what became of every window, in order, for one reader, who says of each `Answer` of a model when it
    is done with it (`release`): with `_HELD` of them about, the thread waits.
    """

    def __init__(self, schedule: Schedule, manifest: Manifest, engine: OpenEngine) -> None:
        self._schedule = schedule
        self._seats = {schedule.first: _Seat(manifest.model_id, Computer(manifest), engine)}
        self._changed = threading.Condition()
        self._in_use: OpenEngine | None = None
        self._replaced: list[OpenEngine] = []
        self._held = 0
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self.outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.busy: tuple[float, str] | None = None
        """When the batch that is being computed began, and its lane."""
        self.progress = 0
        """Grows while the thread lives, with every batch and with every idle second."""
        # A daemon thread: an engine that hangs in native code must not keep the process from exiting.
        threading.Thread(target=self._work, name="engine", daemon=True).start()

    def __len__(self) -> int:
        """Windows that wait."""
        with self._changed:
            return len(self._schedule)

    def push(self, lane: str, job: Job) -> Dropped | None:
        """A window for a lane; which one had to go for it."""
        with self._changed:
            found = self._schedule.find(lane)
            if found is None:  # its engine has failed, and the loop is about to hear of it
                return Dropped(job, DropReason.ENGINE)
            dropped = found.queue.push(job)
            self._changed.notify()
            return dropped

    def release(self) -> None:
        """The reader is done with an answer."""
        with self._changed:
            self._held -= 1
            self._changed.notify()

    def serve(self, name: str, lane: Lane, manifest: Manifest, engine: OpenEngine) -> None:
        """From the next batch on this engine computes a further model's windows, in a lane of their own."""
        with self._changed:
            self._begin(name, lane, manifest, engine)

    def shadow(
        self, name: str, of: str, lane: Lane, manifest: Manifest, engine: OpenEngine, *, stands_by: bool = False
    ) -> None:
        """From the next batch on this engine computes what another lane's engine has, in the time that all leave.

        ``stands_by``: and takes its place when it raises, or gives answers that are not finite.
        """
        with self._changed:
            self._begin(name, lane, manifest, engine, canary=True)
            if (seat := self._seats.get(of)) is not None:
                seat.shadow, seat.stands_by = name, stands_by

    def exchange(self, name: str) -> tuple[Job, ...] | None:
        """From the next batch on a lane's engine and the canary beside it have each other's place, and the one
        that served stands by. The windows that waited to be compared; None: there are no two.
        """
        with self._changed:
            seat, lane = self._seats.get(name), self._schedule.find(name)
            canary = self._seats.get(seat.shadow) if seat is not None else None
            canary_lane = self._schedule.find(seat.shadow) if seat is not None else None
            if seat is None or lane is None or canary is None or canary_lane is None:
                return None
            seat.engine, canary.engine = canary.engine, seat.engine
            seat.stands_by = True
            now = time.monotonic()
            lane.pace.restart(seat.engine.seconds, now)
            canary_lane.pace.restart(canary.engine.seconds, now)
            return tuple(canary_lane.queue.clear())

    def remove(self, name: str) -> tuple[Job, ...]:
        """Serve a lane no more; the windows that waited there."""
        with self._changed:
            return self._remove(name)

    def close(self) -> list[tuple[str, Dropped]]:
        """End the thread after the present batch; the windows that waited, by lane."""
        with self._changed:
            self._closing = True
            self._changed.notify()
            return self._schedule.clear()

    # Under the lock

    def _begin(self, name: str, lane: Lane, manifest: Manifest, engine: OpenEngine, *, canary: bool = False) -> None:
        lane.pace.restart(engine.seconds, time.monotonic())
        self._seats[name] = _Seat(manifest.model_id, Computer(manifest), engine)
        self._schedule.add(name, lane, canary=canary)

    def _remove(self, name: str) -> tuple[Job, ...]:
        seat, lane = self._seats.pop(name, None), self._schedule.remove(name)
        if seat is not None:
            self._retire(seat.engine)
        for other in self._seats.values():
            if other.shadow == name:
                other.shadow, other.stands_by = "", False
        return tuple(lane.queue.clear()) if lane is not None else ()

    def _retire(self, engine: OpenEngine) -> None:
        """Close it once the thread does not use it."""
        if engine is self._in_use:
            self._replaced.append(engine)
        else:
            engine.keeper.retire()

    def _free(self) -> None:
        """The batch is done."""
        self._in_use = self.busy = None
        self.progress += 1
        for engine in self._replaced:
            engine.keeper.retire()
        self._replaced.clear()

    # The thread

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            while (taken := self._take()) is not None:
                self._compute(*taken)
        except BaseException as found:  # noqa: BLE001  the thread's top: whatever it is, the loop must hear of it
            error = found
        self._post(Ended(error))
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.ended.set)

    def _post(self, outcome: Outcome) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends, and nobody is left to be told
            self._loop.call_soon_threadsafe(self.outcomes.put_nowait, outcome)

    def _take(self) -> tuple[str, tuple[Job, ...], _Seat, OpenEngine] | None:
        """The next batch; waits for it. None at the end."""
        with self._changed:
            while not self._closing:
                if self._held >= _HELD:
                    self._changed.wait(_TICK)
                    continue
                now = time.monotonic()
                pick = self._schedule.next(now)
                if pick.dropped:
                    self._post(Gone(pick.dropped))
                if pick.jobs:
                    seat = self._seats[pick.lane]
                    self._in_use, self.busy = seat.engine, (now, pick.lane)
                    return pick.lane, pick.jobs, seat, seat.engine
                if not self._changed.wait(min(pick.wait, _TICK)):
                    self.progress += 1
            return None

    def _compute(self, lane: str, jobs: tuple[Job, ...], seat: _Seat, engine: OpenEngine) -> None:
        began = time.monotonic()
        done: Computed | None = None
        problem: Exception | None = None
        try:
            done = seat.computer.run(engine.backend, [job.window for job in jobs])
        except Exception as error:  # noqa: BLE001  whatever a library raises: the first model must not suffer by others
            problem = error
        if done is not None and done.wrong:
            problem = EngineError(f"{engine.name} gives answers that are not finite.")
        if problem is not None and (by := self._stand_in(lane, seat, engine, problem)) is not None:
            self._compute(lane, jobs, seat, by)
            return
        if done is None:
            self._fail(lane, jobs, seat, engine, problem or EngineError("no answer"))
            return
        ended = time.monotonic()
        finite = np.all(np.isfinite(done.probabilities), axis=1)
        predictions = tuple(
            Prediction(job.window, seat.model_id, engine.name, p, ended) if sound else None
            for job, p, sound in zip(jobs, done.probabilities, finite, strict=True)
        )
        answer = Answer(lane, jobs, predictions, began, ended, done.filtered, done.inferred, engine, done.wrong)
        dropped: list[tuple[str, Dropped]] = []
        with self._changed:
            self._free()
            self._schedule.done(lane, jobs, began, ended)
            self._held += not answer.is_canary
            shadow = self._schedule.find(seat.shadow) if seat.shadow and seat.engine is engine else None
            for prediction in predictions if shadow is not None else ():
                if prediction is not None and shadow is not None:
                    one = shadow.queue.push(Job(prediction.window, ended, prediction, answer.seconds))
                    dropped += [(seat.shadow, one)] if one is not None else []
        self._post(answer)
        if dropped:
            self._post(Gone(tuple(dropped)))

    def _stand_in(self, lane: str, seat: _Seat, engine: OpenEngine, error: Exception) -> OpenEngine | None:
        """Put the engine that stands by in the failed one's place; None: there is none."""
        with self._changed:
            by = self._seats.get(seat.shadow) if seat.stands_by else None
            if by is None or seat.engine is not engine:
                return None
            name = seat.shadow
            seat.engine, by.engine = by.engine, engine  # so that removing the other lane retires the failed one
            waiting = self._remove(name)
            if (known := self._schedule.find(lane)) is not None:
                known.pace.restart(seat.engine.seconds, time.monotonic())
            self._in_use = seat.engine
            replaced = Replaced(lane, engine, seat.engine, error)
        self._post(Gone(tuple((name, Dropped(job, DropReason.ENGINE)) for job in waiting)))
        self._post(replaced)
        return replaced.by

    def _fail(self, lane: str, jobs: tuple[Job, ...], seat: _Seat, engine: OpenEngine, error: Exception) -> None:
        """An engine raised: fatal if it is the first model's, unless another has just taken its place."""
        with self._changed:
            replaced = seat.engine is not engine or self._seats.get(lane) is not seat
            if lane == self._schedule.first and not replaced:
                raise error
            waiting = () if replaced else self._remove(lane)
            self._free()
        self._post(Gone(tuple((lane, Dropped(job, DropReason.ENGINE)) for job in (*jobs, *waiting))))
        if not replaced:
            self._post(Lost(lane, engine, error))
