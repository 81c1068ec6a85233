"""Long two-lead recordings with MIT-format rhythm and beat annotations: MIT-BIH Arrhythmia and CPSC 2021."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from training.data.annotations import BEATS, cpsc2021_labels, mitdb_labels
from training.data.readers.files import age, has
from training.data.readers.wfdb_records import headers, signals
from training.data.recording import Annotations, Labels, Pending, Pendings, Recording, Source, Span

Rule = Callable[[Annotations, float, float], Labels]


def recognise_cpsc2021(folder: Path) -> bool:
    """``data_21_8.atr``: patient 21, the eighth piece."""
    return has(folder, "data_*_*.atr")


def recognise_mitdb(folder: Path) -> bool:
    """Numbered records with reference annotations."""
    return has(folder, "[0-9][0-9][0-9].atr") and has(folder, "[0-9][0-9][0-9].hea")


def mitdb(source: Source) -> Pendings:
    """MIT-BIH Arrhythmia Database: 48 half-hours of two leads, 47 patients (201 and 202 are one tape)."""
    for path in headers(source):
        yield Pending(path.name, partial(_mitdb, source, path))


def _mitdb(source: Source, path: Path) -> Recording:
    name = path.name
    leads, signal, rate, notes, comments = signals(path)
    words = comments[0].split()  # "69 M 1085 1629 x1"; age -1 = not known
    return Recording(
        source=source.name,
        record=name,
        patient=f"mitdb/{'201' if name == '202' else name}",
        age=age(words[0]),
        sex=words[1],
        rate=rate,
        leads=leads,
        signal=signal,
        annotations=marks(path, rate, signal.shape[1] / rate, mitdb_labels),
        continuous=True,
        notes=notes,
    )


def cpsc2021(source: Source) -> Pendings:
    """CPSC 2021, paroxysmal AF from Holter recordings, leads I and II; the name's first number is the patient."""
    for path in headers(source):
        yield Pending(path.name, partial(_cpsc2021, source, path))


def _cpsc2021(source: Source, path: Path) -> Recording:
    leads, signal, rate, notes, _ = signals(path)
    return Recording(
        source=source.name,
        record=path.name,
        patient=f"cpsc2021_af/{path.name.split('_')[1]}",
        age=None,
        sex="",
        rate=rate,
        leads=leads,
        signal=signal,
        annotations=marks(path, rate, signal.shape[1] / rate, cpsc2021_labels, before="N"),
        continuous=True,
        notes=notes,
    )


def marks(path: Path, rate: float, seconds: float, rule: Rule, before: str | None = None) -> Annotations:
    """Rhythm spans and beats of ``path.atr``.

    ``before`` is the rhythm up to the first rhythm annotation; None = that annotation's own, which then stands at the
    first beat (MIT-BIH).
    """
    from wfdb.io.annotation import rdann

    read = rdann(str(path), "atr")  # type: ignore[no-untyped-call]
    noted = [
        (int(sample) / rate, note.strip("\x00")[1:])
        for sample, note in zip(read.sample, read.aux_note, strict=True)
        if note.startswith("(")
    ]
    first = before if before is not None else noted[0][1]
    changes = [(0.0, first), *noted]
    ends = [start for start, _ in changes[1:]] + [seconds]
    spans = tuple(
        Span(start, end, rhythm) for (start, rhythm), end in zip(changes, ends, strict=True) if end - start > 0
    )
    beats = [i for i, symbol in enumerate(read.symbol) if symbol in BEATS or symbol == "!"]  # ! = a flutter wave
    return Annotations(spans, np.asarray(read.sample)[beats] / rate, tuple(read.symbol[i] for i in beats), rule)
