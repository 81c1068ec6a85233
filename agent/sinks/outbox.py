"""The outbox: an alert is on the disk before anything is sent, and stays there until every sink was acknowledged.

One thread owns the database (`agent.sinks.database`: SQLite's calls block, the loop must not). Delivery is at least
once and in order within an alert; the receiver de-duplicates by ``message_id``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import structlog

from agent.core.ecg import Alert
from agent.sinks.database import LONGEST_HOLD, PRUNED_AT_ONCE, AlertDatabase, OutboxError

log = structlog.get_logger()

_T = TypeVar("_T")


class Outbox:
    """Alerts on the disk, and which sink has delivered which.

    ``async with Outbox(path, ("hl7", "mqtt")) as outbox:`` opens the file (`OutboxError` where it cannot). `run`
    retries what the disk refused and deletes what is old: the daemon keeps it running beside the sinks.

    Rows of a sink that is no longer configured stay undelivered until it is configured again. A newly configured sink
    gets what is committed from then on; the periodic ``continue`` messages tell it of the alerts already open.
    """

    def __init__(
        self,
        path: Path,
        sinks: tuple[str, ...],
        *,
        keep_days: float = 30.0,
        max_bytes: int = 1 << 30,
        backlog: int = 10_000,
    ) -> None:
        self.path = path
        self.sinks = sinks
        self._keep = keep_days * 86400.0
        self._database = AlertDatabase(path, max_bytes)
        self._limit = backlog
        self._backlog: list[Alert] = []
        self._lock = asyncio.Lock()
        self._events = {sink: asyncio.Event() for sink in sinks}
        self._thread: ThreadPoolExecutor | None = None
        self._problem: str | None = None
        self._acknowledged: deque[tuple[str, str]] = deque(maxlen=1000)

    @property
    def problem(self) -> str | None:
        """What keeps alerts from being committed, for /healthz; None while all is well."""
        return self._problem

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        try:
            await self._call(self._database.open)
        except BaseException:  # reason: `__aexit__` never runs after this; raised again
            self._thread.shutdown()
            raise
        for event in self._events.values():
            event.set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        try:
            if self._backlog:
                with suppress(OutboxError):
                    await self.commit(())
            if self._backlog:
                log.error("outbox_alerts_lost", count=len(self._backlog), why="the disk refused them until the end")
            await self._call(self._database.close)
        finally:
            self._thread.shutdown()
            self._thread = None

    async def commit(self, alerts: Sequence[Alert]) -> int:
        """Write ``alerts`` in one transaction, wake the sinks, and return how many were new.

        A ``message_id`` that is there already is passed over. On `OutboxError` nothing was written; the alerts are
        kept in memory and go first, in order, with the next commit (or by `run`), and `problem` says why.
        """
        self._backlog.extend(alerts)  # before the first wait: a caller that is cancelled there has lost nothing
        async with self._lock:
            if not self._backlog:
                return 0
            batch = tuple(self._backlog)
            try:
                count = await self._call(lambda: self._database.commit(batch, self.sinks))
            except OutboxError as error:
                self._failed(str(error))
                raise
            del self._backlog[: len(batch)]
            if self._problem is not None:
                log.warning("outbox_recovered", committed=len(batch))
                self._problem = None
        for event in self._events.values():
            event.set()
        return count

    async def pending(self, sink: str, limit: int = 32) -> tuple[Alert, ...]:
        """What ``sink`` shall send now, oldest first: of each alert the earliest undelivered message, none on hold.

        The next message of an alert comes only when the one before it was delivered, so a batch may be sent in any
        order or all at once.
        """
        return await self._call(lambda: self._database.pending(sink, time.time(), limit))

    async def wait(self, sink: str, seconds: float) -> None:
        """Return when something was committed since the last call, or after ``seconds`` (holds may be over)."""
        event = self._events[sink]
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)
        event.clear()

    async def delivered(self, sink: str, message_id: str) -> None:
        """The receiver acknowledged this message: ``sink`` never gets it again."""
        await self._call(lambda: self._database.delivered(sink, message_id))
        self._acknowledged.append((sink, message_id))

    def take_delivered(self) -> tuple[tuple[str, str], ...]:
        """Sink and message id of what was acknowledged since the last call (the latest thousand), for the page."""
        taken = tuple(self._acknowledged)
        self._acknowledged.clear()
        return taken

    async def failed(self, sink: str, message_id: str, reason: str, hold: float = 0.0) -> int:
        """Count a failed attempt, keep this alert from `pending` for ``hold`` seconds (≤ 3600); returns the attempts.

        Holds do not outlive a restart: a new process tries everything once more.
        """
        until = time.time() + min(hold, LONGEST_HOLD) if hold > 0 else 0.0
        return await self._call(lambda: self._database.failed(sink, message_id, reason, until))

    async def undelivered(self, sink: str) -> int:
        """How many messages wait for ``sink``."""
        return await self._call(lambda: self._database.waiting(sink))

    async def open_alerts(self) -> tuple[Alert, ...]:
        """The last message of every alert that has not ended: what `Alerting` starts from after a restart."""
        return await self._call(self._database.open_alerts)

    async def prune(self) -> int:
        """Delete alerts older than ``keep_days`` that every sink delivered and that are not open; returns how many."""
        before = time.time() - self._keep
        total = 0
        while True:  # in small transactions: a commit may come between two of them
            count = await self._call(lambda: self._database.prune(before))
            total += count
            if count < PRUNED_AT_ONCE:
                return total

    async def run(self) -> None:
        """Forever: retry within a second what the disk refused, and prune every hour."""
        due = 0.0
        while True:
            with suppress(OutboxError):  # `_failed` has said it already
                await self.commit(())
            if time.monotonic() >= due:
                due = time.monotonic() + 3600.0
                try:
                    if count := await self.prune():
                        log.info("outbox_pruned", count=count)
                except OutboxError as error:
                    log.warning("outbox_prune_failed", problem=str(error))
            await asyncio.sleep(1.0)

    def _failed(self, problem: str) -> None:
        if self._problem != problem:
            log.error("outbox_failed", problem=problem, waiting=len(self._backlog))
        self._problem = problem
        if (lost := len(self._backlog) - self._limit) > 0:
            del self._backlog[:lost]
            log.error("outbox_alerts_lost", count=lost, why="the disk refuses them and the backlog is full")

    async def _call(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` in the outbox's thread."""
        if self._thread is None:
            raise OutboxError("the outbox is closed; open it with `async with` first")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
