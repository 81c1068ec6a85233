"""Every window of a prepared dataset: for training, for figures, for false alerts per bed-day."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.labels import LABEL_NAMES, LABELS
from agent.core.leads import FROM_I_AND_II, LEAD_INDEX
from agent.core.preprocessing import Preprocessing
from training.data.recording import Licence, fold_of
from training.data.store import FORMAT, SHARDS, TABLE
from training.data.windows import COUNTS_PER_MV

_BITS = 1 << np.arange(len(LEADS))


class Rows(Protocol):
    """Shards by number, each (rows, T) int16 in µV."""

    def __getitem__(self, shard: int, /) -> NDArray[np.int16]: ...


class Shards:
    """A dataset's shards, memory-mapped when they are first asked for; at most ``_OPEN`` at a time, for each is a file.

    Pickles as its folder, so that a worker process maps the files itself.
    """

    _OPEN = 256

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[int, NDArray[np.int16]] = {}

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self._folder,)

    def __getitem__(self, shard: int, /) -> NDArray[np.int16]:
        found = self._open.get(shard)
        if found is None:
            if len(self._open) >= self._OPEN:
                del self._open[next(iter(self._open))]
            mapped = np.load(self._folder / f"{shard:05d}.npy", mmap_mode="r", allow_pickle=False)
            found = self._open[shard] = np.asarray(mapped)  # a plain view: slicing a memmap costs a microsecond more
        return found


@dataclass(frozen=True, slots=True, eq=False)
class WindowTable:
    """All windows. ``n`` windows; the arrays are parallel. Signals stay on the disk until `batch` asks for them."""

    sources: tuple[str, ...]
    licence: tuple[Licence, ...]
    """Of each source."""
    preprocessing: Preprocessing
    """What the stored windows went through: its gain is 1, so they are in mV."""
    step: float
    """Seconds from one window of a long recording to the next."""
    rows: Rows
    shard: NDArray[np.int32]
    """(n,): a window's rows are ``rows[shard][first_row : first_row + lead_mask.sum()]``, in the order of ``LEADS``."""
    first_row: NDArray[np.int32]
    """(n,)"""
    lead_mask: NDArray[np.bool_]
    """(n, 12): measured leads."""
    source: NDArray[np.int16]
    """(n,): index into ``sources``."""
    site: NDArray[np.str_]
    """(n,)"""
    record: NDArray[np.str_]
    """(n,)"""
    patient: NDArray[np.str_]
    """(n,): the unit of every split."""
    age: NDArray[np.float32]
    """(n,): years, NaN = unknown."""
    sex: NDArray[np.str_]
    """(n,): ``M``, ``F`` or empty."""
    start: NDArray[np.float32]
    """(n,): seconds into the recording."""
    labels: NDArray[np.int8]
    """(n, 77): 1, 0 or -1 = unknown."""
    targets: Mapping[str, NDArray[np.float32]]
    """Other tasks' truth by name: (n,), NaN = unknown."""
    continuous: NDArray[np.bool_]
    """(n,): of a continuous recording; each such window stands for ``step`` seconds of bed time."""
    held_out: NDArray[np.bool_]
    """(n,): of a patient whom the demo shows. Never train on these, never choose anything by them."""
    recording: NDArray[np.int32]
    """(n,): number of the recording, over all sources."""
    report_of: Sequence[str] | Path = field(default=())
    """Reports by number of the recording, or the database that has them."""

    def __len__(self) -> int:
        return len(self.first_row)

    def batch(self, index: NDArray[np.int64], derive: bool = True) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Windows (B, 12, T) float32 in mV, preprocessed, and the leads (B, 12) that are in them.

        ``derive`` computes III, aVR, aVL and aVF where I and II are there, as the ward's windows have them
        (preprocessing is linear, so deriving after it is the same). Missing leads are zeros.
        """
        index = np.asarray(index)
        mask = self.lead_mask[index]
        samples = round(self.preprocessing.rate * self.preprocessing.seconds)
        whole = np.asarray(mask.all(axis=1))
        out = np.empty((len(index), len(LEADS), samples), np.float32)
        out[~whole] = 0.0
        shards, first = self.shard[index], self.first_row[index]
        last = first + mask.sum(axis=1)
        for k in np.lexsort((first, shards)).tolist():  # one shard after the other, each from front to back
            rows = self.rows[int(shards[k])][first[k] : last[k]]
            if whole[k]:
                out[k] = rows
            else:
                out[k, mask[k]] = rows
            out[k] *= np.float32(1.0 / COUNTS_PER_MV)  # while it is in the core's cache
        if derive:
            both = mask[:, LEAD_INDEX[Lead.I]] & mask[:, LEAD_INDEX[Lead.II]]
            for lead, (of_i, of_ii) in FROM_I_AND_II.items():
                j = LEAD_INDEX[lead]
                make = both & ~mask[:, j]
                if make.any():
                    out[make, j] = of_i * out[make, 0] + of_ii * out[make, 1]
                    mask[make, j] = True
        return out, mask

    def reports(self, index: NDArray[np.int64]) -> list[str]:
        """Report of each of these windows, read when asked for; empty where there is none."""
        numbers = self.recording[np.asarray(index)].tolist()
        if not isinstance(self.report_of, Path):
            return [self.report_of[i] if self.report_of else "" for i in numbers]
        with _opened(self.report_of) as database:
            query = "SELECT report FROM record WHERE id = ?"
            found = {i: str(database.execute(query, (i,)).fetchone()[0]) for i in set(numbers)}
        return [found[i] for i in numbers]

    def folds(self, n: int) -> NDArray[np.int64]:
        """(n_windows,) fold of each window by its patient; -1 for held-out patients."""
        names, inverse = np.unique(self.patient, return_inverse=True)
        folds = np.array([fold_of(str(name), n) for name in names])[inverse]
        return np.where(self.held_out, -1, folds)

    @classmethod
    def open(cls, dataset: Path) -> Self:
        """The table of a dataset that ``deepecg-train prepare`` has written. Takes some 300 bytes for each window.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not finished, or of another version.
        """
        path = dataset / TABLE
        if not path.is_file():
            raise FileNotFoundError(f"there is no dataset in {dataset}; run: deepecg-train prepare {dataset} FOLDER")
        with _opened(path) as database:
            meta = dict(database.execute("SELECT key, value FROM meta"))
            if meta.get("format") != str(FORMAT):
                raise ValueError(f"{dataset} was prepared by another version; remove it and prepare it again")
            if "inputs" in meta:
                raise ValueError(f"{dataset} is not finished; run its deepecg-train prepare command again to go on")
            about = json.loads(meta["about"])
            sources = database.execute("SELECT name, licence, share_alike FROM source ORDER BY id").fetchall()
            columns = _recordings(database)
            windows = _windows(database)
            targets = _targets(database, len(columns["patient"]))
        of = windows["recording"]
        return cls(
            sources=tuple(name for name, _, _ in sources),
            licence=tuple(Licence(text, bool(share_alike)) for _, text, share_alike in sources),
            preprocessing=Preprocessing(**about["preprocessing"]),
            step=about["step"],
            rows=Shards(dataset / SHARDS),
            report_of=path,
            targets={name: values[of] for name, values in targets.items()},
            **{name: values[of] for name, values in columns.items()},
            **windows,
        )


def _opened(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True))


def _texts(database: sqlite3.Connection, column: str, n: int) -> NDArray[np.str_]:
    """(n,) of a column of the recordings, as wide as its longest."""
    width = database.execute(f"SELECT max(length({column})) FROM record").fetchone()[0] or 1  # noqa: S608
    found = database.execute(f"SELECT {column} FROM record ORDER BY id")  # noqa: S608  (our own names)
    return np.fromiter((text for (text,) in found), f"U{width}", n)


def _recordings(database: sqlite3.Connection) -> dict[str, NDArray[Any]]:
    """Columns that a recording's windows share, (recordings,) each."""
    n = database.execute("SELECT count(*) FROM record").fetchone()[0]
    columns: dict[str, NDArray[Any]] = {
        name: _texts(database, name, n) for name in ("site", "record", "patient", "sex")
    }
    types = np.dtype([("source", "i2"), ("age", "f4"), ("continuous", "?"), ("held_out", "?")])
    query = "SELECT source, ifnull(age, 'nan'), continuous, held_out FROM record ORDER BY id"
    rest = np.fromiter(database.execute(query), types, n)
    return columns | {name: np.ascontiguousarray(rest[name]) for name in types.names or ()}


def _windows(database: sqlite3.Connection) -> dict[str, NDArray[Any]]:
    """The windows' own columns, (windows, …) each."""
    n = database.execute("SELECT count(*) FROM window").fetchone()[0]
    types = np.dtype(
        [
            ("recording", "i4"),
            ("start", "f4"),
            ("lead_mask", "i4"),
            ("shard", "i4"),
            ("first_row", "i4"),
            ("labels", "i1", (len(LABELS),)),
        ]
    )
    found = database.execute("SELECT record, start, lead_mask, shard, first_row, labels FROM window ORDER BY id")
    rows = np.fromiter(((*row[:5], np.frombuffer(row[5], np.int8)) for row in found), types, n)
    columns: dict[str, NDArray[Any]] = {name: np.ascontiguousarray(rows[name]) for name in types.names or ()}
    columns["lead_mask"] = (columns["lead_mask"][:, None] & _BITS) > 0
    return columns


def _targets(database: sqlite3.Connection, n: int) -> dict[str, NDArray[np.float32]]:
    """Target to its values, (recordings,) each."""
    names = [name for (name,) in database.execute("SELECT DISTINCT name FROM target ORDER BY name")]
    out = {name: np.full(n, np.nan, np.float32) for name in names}
    for record, name, value in database.execute("SELECT record, name, value FROM target"):
        out[name][record] = value
    return out


def evidence_counts(table: WindowTable) -> dict[str, dict[str, Any]]:
    """Per label the positive and negative patients that are not held out, in all and by source.

    A patient with a positive window is positive; one is negative who has a negative window and no positive one.
    """
    free, patients = ~table.held_out, table.patient
    out: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(LABEL_NAMES):
        column = table.labels[:, i]
        positive = set(patients[free & (column == 1)])
        negative = set(patients[free & (column == 0)]) - positive
        if not positive and not negative:
            continue
        out[name] = {
            "positive_patients": len(positive),
            "negative_patients": len(negative),
            "positive_windows": int(np.sum(free & (column == 1))),
            "negative_windows": int(np.sum(free & (column == 0))),
            "held_out_positive_patients": len(set(patients[~free & (column == 1)])),
            "positive_patients_by_source": {
                source: len(set(patients[free & (column == 1) & (table.source == k)]))
                for k, source in enumerate(table.sources)
            },
            "continuous_negative_hours": float(np.sum(free & table.continuous & (column == 0))) * table.step / 3600,
        }
    return dict(sorted(out.items(), key=lambda item: -item[1]["positive_patients"]))
