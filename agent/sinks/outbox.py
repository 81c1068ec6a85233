"""The outbox: an alert is on the disk before anything is sent, and stays there until every sink was acknowledged.

SQLite in WAL mode with ``synchronous=FULL``: when `Outbox.commit` has returned, the rows survive kill -9 and a power
cut. One thread owns the connection (SQLite's calls block, the loop must not), and the file is locked for as long as it
is open, so that two agents never share one outbox. Delivery is at least once and in order within an alert; the receiver
de-duplicates by ``message_id``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, Field

from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.core.errors import DeepECGError

log = structlog.get_logger()

SCHEMA_VERSION = 1
_PAGE = 4096
_LONGEST_HOLD = 3600.0
_PRUNED_AT_ONCE = 500
_T = TypeVar("_T")

# What waits and what is open have tables of their own, which stay small however many delivered alerts are kept.
_SCHEMA = """
CREATE TABLE alert (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL UNIQUE,
    alert_id   TEXT NOT NULL,
    created    REAL NOT NULL,
    body       TEXT NOT NULL
) STRICT;
CREATE INDEX alert_age ON alert (created);
CREATE TABLE open (
    alert_id TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL REFERENCES alert (sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX open_sequence ON open (sequence);
CREATE TABLE waiting (
    sink     TEXT NOT NULL,
    sequence INTEGER NOT NULL REFERENCES alert (sequence),
    alert_id TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    failure  TEXT NOT NULL DEFAULT '',
    hold     REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (sink, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX waiting_order ON waiting (sink, alert_id, sequence);
CREATE INDEX waiting_alert ON waiting (sequence);
"""

# One message per alert, the earliest that waits: what comes after it must not overtake it, while it is held back too.
# A hold further off than the longest that we set was written before the clock was set back, so it counts for nothing.
_PENDING = """
SELECT a.body FROM waiting w JOIN alert a USING (sequence)
WHERE w.sink = :sink AND NOT (w.hold > :now AND w.hold <= :now + :longest)
  AND NOT EXISTS (SELECT 1 FROM waiting e INDEXED BY waiting_order
                  WHERE e.sink = w.sink AND e.alert_id = w.alert_id AND e.sequence < w.sequence)
ORDER BY w.sequence LIMIT :limit
"""

_PRUNE = """
DELETE FROM alert WHERE sequence IN (
    SELECT a.sequence FROM alert a WHERE a.created < :before
      AND NOT EXISTS (SELECT 1 FROM waiting w WHERE w.sequence = a.sequence)
      AND NOT EXISTS (SELECT 1 FROM open o WHERE o.sequence = a.sequence)
    LIMIT :limit)
"""


class OutboxError(DeepECGError):
    """The outbox cannot hold or give its alerts: disk full, damaged, locked. One sentence, free of patient data."""


class OutboxSettings(BaseModel):
    """Where alerts are kept, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    path: Path = Path("outbox.sqlite")
    """The SQLite file; relative to the agent's state directory. It holds patient data: mode 0600, local disk only."""
    keep_days: float = Field(default=30.0, gt=0)
    """Alerts that every sink delivered are deleted after this many days; undelivered ones never are."""
    max_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Largest size of the file; when it is reached the agent reports itself unhealthy."""
    backlog: int = Field(default=10_000, ge=1)
    """Alert messages held in memory while the disk refuses them; beyond that the oldest are lost, with an error."""


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
        self._max_pages = max_bytes // _PAGE
        self._limit = backlog
        self._backlog: list[Alert] = []
        self._lock = asyncio.Lock()
        self._events = {sink: asyncio.Event() for sink in sinks}
        self._thread: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None
        self._problem: str | None = None
        self._acknowledged: deque[tuple[str, str]] = deque(maxlen=1000)

    @property
    def problem(self) -> str | None:
        """What keeps alerts from being committed, for /healthz; None while all is well."""
        return self._problem

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        try:
            await self._call(self._open)
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
            await self._call(self._close)
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
                count = await self._call(lambda db: self._commit(db, batch))
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
        values = {"sink": sink, "now": time.time(), "longest": _LONGEST_HOLD, "limit": limit}
        rows: list[tuple[str]] = await self._call(lambda db: db.execute(_PENDING, values).fetchall())
        return tuple(alert_from_json(body) for (body,) in rows)

    async def wait(self, sink: str, seconds: float) -> None:
        """Return when something was committed since the last call, or after ``seconds`` (holds may be over)."""
        event = self._events[sink]
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)
        event.clear()

    async def delivered(self, sink: str, message_id: str) -> None:
        """The receiver acknowledged this message: ``sink`` never gets it again."""
        await self._call(lambda db: self._delivered(db, sink, message_id))
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
        return await self._call(lambda db: self._fail(db, sink, message_id, reason, min(hold, _LONGEST_HOLD)))

    async def undelivered(self, sink: str) -> int:
        """How many messages wait for ``sink``."""
        query = "SELECT count(*) FROM waiting WHERE sink = ?"
        return int(await self._call(lambda db: db.execute(query, (sink,)).fetchone()[0]))

    async def open_alerts(self) -> tuple[Alert, ...]:
        """The last message of every alert that has not ended: what `Alerting` starts from after a restart."""
        query = "SELECT a.body FROM open o JOIN alert a USING (sequence) ORDER BY o.sequence"
        rows: list[tuple[str]] = await self._call(lambda db: db.execute(query).fetchall())
        return tuple(alert_from_json(body) for (body,) in rows)

    async def prune(self) -> int:
        """Delete alerts older than ``keep_days`` that every sink delivered and that are not open; returns how many."""
        values = {"before": time.time() - self._keep, "limit": _PRUNED_AT_ONCE}
        total = 0
        while True:  # in small transactions: a commit may come between two of them
            count = await self._call(lambda db: db.execute(_PRUNE, values).rowcount)
            total += count
            if count < _PRUNED_AT_ONCE:
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

    async def _call(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run ``work`` in the outbox's thread; every error of SQLite or the file system becomes an `OutboxError`."""
        if self._thread is None:
            raise OutboxError("the outbox is closed; open it with `async with` first")

        def guarded() -> _T:
            try:
                return work(self._db or self._connect())
            except (sqlite3.Error, OSError) as error:
                raise OutboxError(_sentence(self.path, error)) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        self.path.chmod(0o600)  # SQLite gives the -wal file the mode of the database
        self._db = sqlite3.connect(self.path, timeout=2.0, isolation_level=None)
        return self._db

    def _open(self, db: sqlite3.Connection) -> None:
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute(f"PRAGMA max_page_count = {self._max_pages}")
            db.execute("BEGIN IMMEDIATE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise OutboxError(
                    f"{self.path.name} was written by a newer agent (schema {version}, not {SCHEMA_VERSION}); "
                    "install that version again, or move the file aside once its alerts are delivered"
                )
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute("UPDATE waiting SET hold = 0 WHERE hold > 0")
            db.execute("COMMIT")
            if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(f"quick_check: {found}")
        except (sqlite3.Error, OutboxError):
            self._close(db)
            raise

    def _close(self, db: sqlite3.Connection) -> None:
        self._db = None
        db.close()

    def _commit(self, db: sqlite3.Connection, alerts: Iterable[Alert]) -> int:
        new = 0
        with _Transaction(db):
            for alert in alerts:
                row = (alert.message_id, alert.alert_id, alert.created, json_from_alert(alert))
                sequence = db.execute(
                    "INSERT INTO alert (message_id, alert_id, created, body) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (message_id) DO NOTHING RETURNING sequence",
                    row,
                ).fetchone()
                if sequence is None:
                    continue
                new += 1
                if alert.active:
                    db.execute("INSERT OR REPLACE INTO open VALUES (?, ?)", (alert.alert_id, *sequence))
                else:
                    db.execute("DELETE FROM open WHERE alert_id = ?", (alert.alert_id,))
                db.executemany(
                    "INSERT INTO waiting (sink, sequence, alert_id) VALUES (?, ?, ?)",
                    [(sink, *sequence, alert.alert_id) for sink in self.sinks],
                )
        return new

    @staticmethod
    def _delivered(db: sqlite3.Connection, sink: str, message_id: str) -> None:
        with _Unsynchronised(db):
            db.execute(
                "DELETE FROM waiting WHERE sink = ? AND sequence = (SELECT sequence FROM alert WHERE message_id = ?)",
                (sink, message_id),
            )

    @staticmethod
    def _fail(db: sqlite3.Connection, sink: str, message_id: str, reason: str, hold: float) -> int:
        with _Unsynchronised(db):
            row = db.execute(
                "UPDATE waiting SET attempts = attempts + 1, failure = ?, hold = ? WHERE sink = ? "
                "AND sequence = (SELECT sequence FROM alert WHERE message_id = ?) RETURNING attempts",
                (reason, time.time() + hold if hold > 0 else 0.0, sink, message_id),
            ).fetchone()
        return int(row[0]) if row else 0


class _Unsynchronised:
    """Marks need no fsync of their own: one that a power cut undoes costs a delivery more, which is allowed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("PRAGMA synchronous = NORMAL")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._db.execute("PRAGMA synchronous = FULL")


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK where anything raised, COMMIT too (a full disk shows there)."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self._roll_back()
                raise
        else:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def json_from_alert(alert: Alert) -> str:
    """The alert as one line of JSON; `alert_from_json` gives an equal one back."""
    return json.dumps(dataclasses.asdict(alert), separators=(",", ":"))


def alert_from_json(text: str) -> Alert:
    """The alert of a row. `OutboxError` where the row is damaged or was written by an agent of another vocabulary."""
    try:
        known = {field.name for field in dataclasses.fields(Alert)}
        values = {name: value for name, value in json.loads(text).items() if name in known}
        if (encounter := values["encounter"]) is not None:
            encounter = Encounter(**{**encounter, "patient_ids": tuple(encounter["patient_ids"])})
        values |= {
            "priority": Priority(values["priority"]),
            "phase": Phase(values["phase"]),
            "encounter": encounter,
        }
        return Alert(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutboxError(
            f"a row of the outbox is not an alert ({type(error).__name__}); "
            "it was written by another version: install that one again until its alerts are delivered"
        ) from None


def _sentence(path: Path, error: Exception) -> str:
    """What is wrong and how to mend it. SQLite's own texts hold no row data, the file's folder is left out."""
    name = path.name
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    if primary == sqlite3.SQLITE_FULL:
        return f"the disk of {name} is full or the file has reached its largest size; make room or raise max_bytes"
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return f"{name} is locked by another process; stop the other agent, or give this one a path of its own"
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or "quick_check" in str(error):
        return f"{name} is damaged; move it aside, keep it for its undelivered alerts, and restart"
    if primary == sqlite3.SQLITE_READONLY or isinstance(error, PermissionError):
        return f"{name} cannot be written; give the agent's user the file and its folder"
    if primary in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN} or isinstance(error, OSError):
        return f"{name} cannot be read or written ({type(error).__name__}); look after its disk"
    kind = getattr(error, "sqlite_errorname", type(error).__name__)
    return f"{name} failed ({kind}); restart the agent, and report it if it stays"
