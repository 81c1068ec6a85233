"""Who is trained on: a run's folds, the windows that may be used, and how they are divided by patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from training.data import WindowTable
    from training.train.sampling import Index

WHOLE, EACH = "all", "each"
"""Names of folds: the run on every patient, and one run for each fold."""
ABOUT = "run.json"
"""In the folder of a run: its recipe and how many folds its patients are divided into."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Windows of the table by what they are for; no patient is in two of them."""

    train: Index
    validation: Index
    test: Index


def folds_named(text: str, count: int) -> list[str]:
    """The folds that a command names, in order, each once.

    Raises ValueError if one is none.
    """
    found: list[str] = []
    for name in (part.strip() for part in text.split(",") if part.strip()):
        if name == EACH:
            found += map(str, range(count))
        elif name == WHOLE or (name.isdecimal() and int(name) < count):
            found.append(name)
        else:
            raise ValueError(f"there is no fold {name!r}; take 0 to {count - 1}, {EACH} or {WHOLE}")
    return list(dict.fromkeys(found))


def usable(table: WindowTable, sources: str = "", *, share_alike: bool = False) -> NDArray[np.bool_]:
    """(n,) windows of the named sources, or of all; share-alike ones only where that is allowed.

    Raises ValueError for a source that the dataset does not have, or that may not be used.
    """
    names = [name.strip() for name in sources.split(",") if name.strip()]
    if unknown := [name for name in names if name not in table.sources]:
        raise ValueError(f"the dataset has no source {unknown[0]!r}; it has {', '.join(table.sources)}")
    shared = [name for name, licence in zip(table.sources, table.licence, strict=True) if licence.share_alike]
    if not share_alike and (asked := [name for name in names if name in shared]):
        raise ValueError(f"{asked[0]} is under a share-alike licence; pass --share-alike, and do not ship the weights")
    taken = [(not names or name in names) and (share_alike or name not in shared) for name in table.sources]
    use: NDArray[np.bool_] = np.array(taken)[table.source]
    return use


def split_of(table: WindowTable, use: NDArray[np.bool_], folds: int, test: int | None, validate: bool) -> Split:
    """The split whose test fold is ``test`` (None: every patient is trained on), of the windows (n,) in ``use``.

    The fold after the test fold, or the last one, validates where ``validate`` is set.
    """
    fold = np.where(use, table.folds(folds), -1)
    watch = ((test + 1) % folds if test is not None else folds - 1) if validate else None
    held = [one for one in (test, watch) if one is not None]
    return Split(
        train=np.flatnonzero((fold >= 0) & ~np.isin(fold, held)),
        validation=np.flatnonzero(fold == watch) if watch is not None else np.empty(0, np.int64),
        test=np.flatnonzero(fold == test) if test is not None else np.empty(0, np.int64),
    )
