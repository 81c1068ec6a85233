"""The outbox's SQLite file: its schema, its transactions, and what its errors mean for a person.

WAL mode with ``synchronous=FULL``: when `AlertDatabase.commit` has returned, the rows survive kill -9 and a power cut
(SQLite's documentation of PRAGMA synchronous). The file is locked for as long as it is open, so that two agents never
share one. Nothing here waits or knows of a loop: `agent.sinks.outbox` calls it from one thread.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.core.errors import DeepECGError

SCHEMA_VERSION = 1
LONGEST_HOLD = 3600.0
"""Seconds for which an alert may be held back at most."""
PRUNED_AT_ONCE = 500
"""Rows that one transaction of `AlertDatabase.prune` deletes at most: a commit may come between two of them."""
_PAGE = 4096

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


class AlertDatabase:
    """The rows of one outbox. One thread; every method raises `OutboxError` for what SQLite or the disk refuses.

    Args:
        path: The file; it and its folder are made where they are missing, mode 0600.
        max_bytes: Largest size of the file.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_pages = max_bytes // _PAGE
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open or make the file, lock it, and look whether it is whole. Holds of an earlier process are lifted.

        Raises:
            OutboxError: it is damaged, locked, or of a newer agent.
        """
        with _told(self.path):
            db = self._connection()
            try:
                self._prepare(db)
            except (sqlite3.Error, OutboxError):
                self.close()
                raise

    def close(self) -> None:
        """Close and unlock the file."""
        with _told(self.path):
            if self._db is not None:
                self._db.close()
                self._db = None

    def commit(self, alerts: Iterable[Alert], sinks: Iterable[str]) -> int:
        """Write ``alerts`` in one transaction, each to wait for each of ``sinks``; how many were not there already."""
        sinks = tuple(sinks)
        new = 0
        with _told(self.path), _Transaction(self._connection()) as db:
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
                    [(sink, *sequence, alert.alert_id) for sink in sinks],
                )
        return new

    def pending(self, sink: str, now: float, limit: int) -> tuple[Alert, ...]:
        """Of each alert the earliest message that waits for ``sink``, oldest first; ``now`` is epoch seconds."""
        values = {"sink": sink, "now": now, "longest": LONGEST_HOLD, "limit": limit}
        with _told(self.path):
            rows = self._connection().execute(_PENDING, values).fetchall()
        return tuple(alert_from_json(body) for (body,) in rows)

    def waiting(self, sink: str) -> int:
        """How many messages wait for ``sink``."""
        with _told(self.path):
            query = "SELECT count(*) FROM waiting WHERE sink = ?"
            return int(self._connection().execute(query, (sink,)).fetchone()[0])

    def open_alerts(self) -> tuple[Alert, ...]:
        """The last message of every alert that has not ended, in the order of their commits."""
        query = "SELECT a.body FROM open o JOIN alert a USING (sequence) ORDER BY o.sequence"
        with _told(self.path):
            rows = self._connection().execute(query).fetchall()
        return tuple(alert_from_json(body) for (body,) in rows)

    def delivered(self, sink: str, message_id: str) -> None:
        """``sink`` never gets this message again."""
        with _told(self.path), _Unsynchronised(self._connection()) as db:
            db.execute(
                "DELETE FROM waiting WHERE sink = ? AND sequence = (SELECT sequence FROM alert WHERE message_id = ?)",
                (sink, message_id),
            )

    def failed(self, sink: str, message_id: str, reason: str, hold_until: float) -> int:
        """Count a failed attempt and hold the message until then (epoch seconds, 0: not at all); the attempts."""
        with _told(self.path), _Unsynchronised(self._connection()) as db:
            row = db.execute(
                "UPDATE waiting SET attempts = attempts + 1, failure = ?, hold = ? WHERE sink = ? "
                "AND sequence = (SELECT sequence FROM alert WHERE message_id = ?) RETURNING attempts",
                (reason, hold_until, sink, message_id),
            ).fetchone()
        return int(row[0]) if row else 0

    def prune(self, before: float) -> int:
        """Delete up to `PRUNED_AT_ONCE` alerts from before then that wait for nobody and are not open; how many."""
        with _told(self.path):
            return self._connection().execute(_PRUNE, {"before": before, "limit": PRUNED_AT_ONCE}).rowcount

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self.path.chmod(0o600)  # SQLite gives the -wal file the mode of the database
            self._db = sqlite3.connect(self.path, timeout=2.0, isolation_level=None)
        return self._db

    def _prepare(self, db: sqlite3.Connection) -> None:
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


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Every error of SQLite or the file system becomes an `OutboxError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise OutboxError(_sentence(path, error)) from error


class _Unsynchronised:
    """Marks need no fsync of their own: one that a power cut undoes costs a delivery more, which is allowed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> sqlite3.Connection:
        self._db.execute("PRAGMA synchronous = NORMAL")
        return self._db

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._db.execute("PRAGMA synchronous = FULL")


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK where anything raised, COMMIT too (a full disk shows there)."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> sqlite3.Connection:
        self._db.execute("BEGIN IMMEDIATE")
        return self._db

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
