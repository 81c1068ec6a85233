"""The dataset on disk while it is written: int16 shards and one SQLite table, whole at any moment.

``DATASET/shards/00000.npy`` … are rows of measured leads, in µV; ``DATASET/table.sqlite`` tells of every window, of
every recording and of every one that was refused. SQLite, because it does all of this at once: it streams to disk, a
shard and its rows become one transaction (so a killed run goes on at the last whole shard), duplicates are looked up in
it by index, and anything reads it (``pandas.read_sql("SELECT * FROM windows", …)``). It is in WAL mode while it is
written and a plain file afterwards, so that a finished dataset can lie on a read-only share.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data import duplicates
from training.data.recording import Licence, Recording, Rejected, Source
from training.data.windows import PreparedWindow

FORMAT = 2
TABLE, SHARDS, SALT = "table.sqlite", "shards", "salt"
SHARD_BYTES = 64 * 2**20
"""About a thousand twelve-lead windows: what a run that was killed does again, and what it holds in memory."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE source (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, format TEXT NOT NULL, licence TEXT NOT NULL,
  share_alike INTEGER NOT NULL);
CREATE TABLE record (id INTEGER PRIMARY KEY, source INTEGER NOT NULL, site TEXT NOT NULL, record TEXT NOT NULL,
  patient TEXT NOT NULL, age REAL, sex TEXT NOT NULL, rate REAL NOT NULL, seconds REAL NOT NULL, report TEXT NOT NULL,
  continuous INTEGER NOT NULL, held_out INTEGER NOT NULL, notes TEXT NOT NULL);
CREATE TABLE target (record INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (record, name))
  WITHOUT ROWID;
CREATE TABLE window (id INTEGER PRIMARY KEY, record INTEGER NOT NULL, start REAL NOT NULL, lead_mask INTEGER NOT NULL,
  shard INTEGER NOT NULL, first_row INTEGER NOT NULL, labels BLOB NOT NULL, flat INTEGER NOT NULL,
  saturated INTEGER NOT NULL, missing INTEGER NOT NULL, clipped INTEGER NOT NULL, noise REAL NOT NULL, einthoven REAL);
CREATE TABLE rejected (source TEXT NOT NULL, record TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL);
CREATE VIEW windows AS SELECT window.id, source.name AS source, site, record.record, patient, age, sex, start,
  lead_mask, labels, report, continuous, held_out, flat, saturated, missing, clipped, noise, einthoven, shard,
  first_row, (SELECT json_group_object(name, value) FROM target WHERE target.record = record.id) AS targets
  FROM window JOIN record ON record.id = window.record JOIN source ON source.id = record.source;
CREATE TABLE progress (source INTEGER NOT NULL, taken INTEGER NOT NULL, shards INTEGER NOT NULL);
INSERT INTO progress VALUES (0, 0, 0);
"""
"""Ids count from 0 without a gap. Lead sets are bits: bit i is ``LEADS[i]``. ``labels`` are 77 int8."""


def salt_of(folder: Path) -> bytes:
    """The dataset's key for pseudonyms, made where there is none; readable by its owner alone, and in no table.

    Whoever passes the dataset on keeps this file back: with it and a list of all numbers, names can be tried.
    """
    path = folder / SALT
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return bytes.fromhex(path.read_text("ascii"))


class Store:
    """One dataset that is being written. Use it as a context manager."""

    def __init__(self, folder: Path, samples: int, about: dict[str, Any], sources: dict[Source, Licence]) -> None:
        """Open the dataset, new or as far as an earlier run has come.

        Args:
            folder: Of the dataset.
            samples: Per window and lead.
            about: What the dataset depends on (JSON).
            sources: In the order in which they are read.

        Raises:
            ValueError: the folder holds a dataset of other sources or settings, or of another version.
        """
        self.folder, self._samples = folder, samples
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(folder / TABLE, isolation_level=None)
        self._buffer: list[NDArray[np.int16]] = []
        self._rows = 0
        self._ids = {source.name: i for i, source in enumerate(sources)}
        inputs = json.dumps([(s.name, s.format, str(s.folder.resolve())) for s in sources])
        self.prints = duplicates.Fingerprints(self._database)
        if not self._database.execute("SELECT name FROM sqlite_master").fetchone():
            self._create(about, inputs, sources)
        meta = dict(self._database.execute("SELECT key, value FROM meta"))
        if meta.get("format") != str(FORMAT) or json.loads(meta["about"]) != json.loads(json.dumps(about)):
            raise ValueError(
                f"{folder} holds a dataset of other sources or settings; name another folder, or remove it"
            )
        self.complete = "inputs" not in meta
        if not self.complete:
            if meta["inputs"] != inputs:
                raise ValueError(f"{folder} was begun with sources in other folders; name those, or remove it")
            self.source, self.taken, self._shard = self._database.execute("SELECT * FROM progress").fetchone()
            self._flushed = self._shard
            self._windows = self._database.execute("SELECT count(*) FROM window").fetchone()[0]
            self._records = self._database.execute("SELECT count(*) FROM record").fetchone()[0]
            self._begin()

    def _begin(self) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise ValueError(f"{self.folder} is being written by another run; wait for it, or end it") from error

    def _create(self, about: dict[str, Any], inputs: str, sources: dict[Source, Licence]) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.executescript(f"BEGIN; {_SCHEMA} {duplicates.SCHEMA}")
        self._database.executemany(
            "INSERT INTO source VALUES (?, ?, ?, ?, ?)",
            [
                (i, s.name, s.format, licence.text, licence.share_alike)
                for i, (s, licence) in enumerate(sources.items())
            ],
        )
        self._database.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [("format", str(FORMAT)), ("about", json.dumps(about)), ("inputs", inputs)],
        )
        self._database.execute("COMMIT")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()  # what is not committed is done again

    def add(self, recording: Recording) -> None:
        """A recording whose windows follow."""
        self._database.execute(
            "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._records,
                self._ids[recording.source],
                recording.site,
                recording.record,
                recording.patient,
                recording.age,
                recording.sex,
                recording.rate,
                recording.seconds,
                recording.report,
                recording.continuous,
                recording.held_out,
                "; ".join(recording.notes),
            ),
        )
        self._database.executemany(
            "INSERT INTO target VALUES (?, ?, ?)",
            [(self._records, name, value) for name, value in sorted(recording.targets.items())],
        )
        self._records += 1

    def add_window(self, window: PreparedWindow) -> None:
        """A window of the recording that was added last."""
        q = window.quality
        mask = int(window.mask @ (1 << np.arange(len(window.mask))))
        self._database.execute(
            "INSERT INTO window VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._windows,
                self._records - 1,
                window.start,
                mask,
                self._shard,
                self._rows,
                window.labels.tobytes(),
                q.flat,
                q.saturated,
                q.missing,
                q.clipped,
                q.noise,
                q.einthoven,
            ),
        )
        self._windows += 1
        self._buffer.append(window.rows)
        self._rows += len(window.rows)
        if self._rows * self._samples * 2 >= SHARD_BYTES:
            self._flush()

    def reject(self, rejected: Rejected) -> None:
        """List a recording that is not used."""
        self._database.execute(
            "INSERT INTO rejected VALUES (?, ?, ?, ?)",
            (rejected.source, rejected.record, rejected.reason, rejected.detail),
        )

    def done(self, source: int, taken: int) -> None:
        """``taken`` recordings of a source are whole. Commits if a shard was filled since the last time.

        A shard then ends with the recording that filled it: the table never tells of rows that are not on the disk.
        """
        if self._shard > self._flushed:
            self._commit(source, taken)

    def _commit(self, source: int, taken: int) -> None:
        self._flush()
        self._flushed = self._shard
        self._database.execute("UPDATE progress SET source = ?, taken = ?, shards = ?", (source, taken, self._shard))
        self._database.execute("COMMIT")
        self._begin()

    def _flush(self) -> None:
        """Write the rows that are held as a shard; a file of that name is of a run that was killed."""
        if not self._rows:
            return
        path = self.folder / SHARDS / f"{self._shard:05d}.npy"
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            np.lib.format.write_array_header_1_0(  # the rows one by one: no copy of the whole
                file, {"descr": "<i2", "fortran_order": False, "shape": (self._rows, self._samples)}
            )
            for rows in self._buffer:
                file.write(np.ascontiguousarray(rows, "<i2").data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        self._buffer.clear()
        self._rows = 0
        self._shard += 1

    def finish(self, source: int) -> None:
        """Write what is left, give each person one name, and make the table a plain file."""
        self._commit(source, 0)
        duplicates.finish(self._database)
        for table in (*duplicates.TABLES, "progress"):
            self._database.execute(f"DROP TABLE {table}")
        self._database.execute("DELETE FROM meta WHERE key = 'inputs'")
        self._database.execute("COMMIT")
        self.complete = True
        self.tidy()

    def tidy(self) -> None:
        """Write the table anew as a plain file, the same to the byte however it came about, and close it.

        Nothing happens if that is done already; a run that was killed just before it comes here again.
        """
        if self._database.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            new = self.folder / f"{TABLE}.new"
            new.unlink(missing_ok=True)
            self._database.execute("VACUUM INTO ?", (str(new),))
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._database.close()
            for rest in ("-wal", "-shm"):  # first, lest an old log be played into the new file
                (self.folder / f"{TABLE}{rest}").unlink(missing_ok=True)
            new.replace(self.folder / TABLE)
        for stray in (self.folder / SHARDS).glob("*.new"):
            stray.unlink()
