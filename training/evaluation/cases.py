"""Predictions with the truth beside them: the one input of every figure, whatever the model and the data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, FloatArray
from agent.core.labels import LABEL_NAMES, index_of

SIGMOID_OF_ONE = 0.7310586
"""No sigmoid of a probability is above it, and none is below one half."""
_FORMAT = 1
_PROBABILITY, _TRUTH = "probability:", "truth:"
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "": ""}


class Table(Protocol):
    """What `Cases.from_table` reads of a `training.data.WindowTable`; n windows."""

    @property
    def sources(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def source(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def record(self) -> NDArray[np.str_]: ...  # noqa: D102
    @property
    def patient(self) -> NDArray[np.str_]: ...  # noqa: D102
    @property
    def site(self) -> NDArray[np.str_]: ...  # noqa: D102
    @property
    def sex(self) -> NDArray[np.str_]: ...  # noqa: D102
    @property
    def age(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def lead_mask(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def labels(self) -> NDArray[np.int8]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """n predictions of L outputs. The arrays are parallel and are not changed.

    Raises:
        ValueError: shapes differ, a probability lies outside [0, 1], a truth is none of 1, 0, -1, a patient is empty.
    """

    names: tuple[str, ...]
    """Of the L outputs."""
    probability: FloatArray
    """(n, L) float32; NaN = not scored."""
    truth: NDArray[np.int8]
    """(n, L): 1, 0, -1 = unknown, which takes part in no figure."""
    patient: NDArray[np.str_]
    """(n,): never empty."""
    source: NDArray[np.str_]
    """(n,): data set."""
    site: NDArray[np.str_]
    """(n,): hospital or device; empty where unknown."""
    sex: NDArray[np.str_]
    """(n,): "M", "F", empty where unknown."""
    age: FloatArray
    """(n,) years, NaN where unknown."""
    leads: NDArray[np.bool_]
    """(n, 12): measured leads in the order of ``LEADS``."""
    record: NDArray[np.str_]
    """(n,): recording; several windows may be of one."""

    def __post_init__(self) -> None:
        n, labels = len(self.patient), len(self.names)
        shapes = {"probability": (n, labels), "truth": (n, labels), "leads": (n, len(LEADS))}
        for field in fields(self):
            if field.name == "names":
                continue
            shape, there = shapes.get(field.name, (n,)), np.shape(getattr(self, field.name))
            if there != shape:
                raise ValueError(f"{field.name} has the shape {there}, but {n} cases of {labels} outputs need {shape}")
        if len(set(self.names)) != labels:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"the output {twice[0]!r} occurs twice; give each output a name of its own")
        with np.errstate(invalid="ignore"):
            outside = (self.probability < 0) | (self.probability > 1)
        if outside.any():
            row, column = (int(i) for i in np.argwhere(outside)[0])
            raise ValueError(
                f"{self.names[column]!r} of record {str(self.record[row])!r} has the probability "
                f"{float(self.probability[row, column]):g}: probabilities lie in [0, 1]; put logits through one sigmoid"
            )
        if not np.isin(self.truth, (-1, 0, 1)).all():
            raise ValueError("a truth is neither 1 (there), 0 (not there) nor -1 (unknown)")
        if not np.isin(self.sex, ("M", "F", "")).all():
            raise ValueError("a sex is neither 'M', 'F' nor empty (unknown)")
        if (self.patient == "").any():
            raise ValueError(
                f"record {str(self.record[self.patient == ''][0])!r} has no patient: every split and interval goes by "
                "patients; where they are unknown, let each record be a patient of its own"
            )

    def __len__(self) -> int:
        return len(self.patient)

    def select(self, mask: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """The cases of a mask (n,) or an index (k,)."""
        chosen = {f.name: getattr(self, f.name)[mask] for f in fields(self) if f.name != "names"}
        return type(self)(names=self.names, **chosen)

    def outputs(self, names: Sequence[str]) -> Self:
        """The same cases with these outputs alone, in this order."""
        columns = [self.names.index(name) for name in names]
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("names", "probability", "truth")}
        return type(self)(
            names=tuple(names), probability=self.probability[:, columns], truth=self.truth[:, columns], **rest
        )

    def known(self, output: int) -> NDArray[np.bool_]:
        """(n,): scored, and the truth is known."""
        there: NDArray[np.bool_] = (self.truth[:, output] >= 0) & ~np.isnan(self.probability[:, output])
        return there

    def lead_sets(self) -> NDArray[np.str_]:
        """(n,) the measured leads in words: "12 leads", or their names."""
        sets, of = np.unique(self.leads, axis=0, return_inverse=True)
        words = ["12 leads" if s.all() else " ".join(np.array(LEADS)[s]) or "none" for s in sets]
        return np.array(words, np.str_)[of.reshape(-1)]

    def doubts(self) -> tuple[str, ...]:
        """What makes these predictions look wrong: one sentence each."""
        found = []
        scored = self.probability[~np.isnan(self.probability)]
        if scored.size == 0:
            return ("No case is scored: every probability is NaN.",)
        if scored.size > 1 and scored.min() >= 0.5 and scored.max() <= SIGMOID_OF_ONE:
            found.append(
                f"Every probability lies between .5 and .731 ({scored.min():.3f} to {scored.max():.3f}), as where a "
                "sigmoid was applied to probabilities: apply it once, to logits."
            )
        if self.probability.size > scored.size:
            missing = self.probability.size - scored.size
            found.append(f"{missing:,} of {self.probability.size:,} probabilities are NaN (not scored), in no figure.")
        constant = [
            name
            for i, name in enumerate(self.names)
            if np.unique(self.probability[self.known(i), i]).size == 1 and self.known(i).sum() > 1
        ]
        if constant:
            found.append(f"The same probability for every case: {', '.join(constant)}.")
        return tuple(found)

    def save(self, path: Path) -> None:
        """One ``.npz`` file without pickled content."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        columns["names"] = np.array(self.names, np.str_)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, format=np.array(_FORMAT), **columns)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote, or a ``.csv`` (see `read_csv`).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no predictions.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no predictions at {path}; give a .npz that a model's run wrote, or a .csv")
        if path.suffix.lower() == ".csv":
            return cls.read_csv(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except (BadZipFile, ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path} is no file of predictions (.npz or .csv): {error}") from error
        wanted = {f.name for f in fields(cls)}
        if missing := sorted((wanted | {"format"}) - set(arrays)):
            raise ValueError(f"{path} is no file of predictions: it lacks {', '.join(missing)}")
        if int(arrays["format"]) != _FORMAT:
            raise ValueError(f"{path} has the format {int(arrays['format'])}; this version reads {_FORMAT}")
        names = tuple(str(name) for name in arrays["names"])
        return cls(names=names, **{name: arrays[name] for name in wanted - {"names"}})

    @classmethod
    def from_table(
        cls, table: Table, probability: FloatArray, names: Sequence[str], truth: NDArray[np.int8] | None = None
    ) -> Self:
        """Predictions (n, L) for every window of a table; the truth is that of its labels unless it is given (n, L).

        Raises:
            KeyError: an output is none of the 77 labels, and no truth is given.
        """
        if truth is None:
            truth = table.labels[:, [index_of(name) for name in names]]
        return cls(
            names=tuple(names),
            probability=np.asarray(probability, np.float32),
            truth=truth.astype(np.int8),
            patient=np.asarray(table.patient, np.str_),
            source=np.array(table.sources, np.str_)[table.source],
            site=np.asarray(table.site, np.str_),
            sex=np.asarray(table.sex, np.str_),
            age=np.asarray(table.age, np.float32),
            leads=np.asarray(table.lead_mask, bool),
            record=np.asarray(table.record, np.str_),
        )

    @classmethod
    def read_csv(cls, path: Path) -> Self:
        """Predictions of any model from a table with one record a row.

        ``patient`` is required; ``record``, ``source``, ``site``, ``sex`` (M, F), ``age`` and ``leads`` (as
        ``I II V1``; all twelve where it is empty) may be there. Each output has a column ``probability:NAME`` (empty =
        not scored) and one ``truth:NAME`` (1, 0, empty or -1 = unknown). Names of the 77 labels may be spelt loosely.

        Raises:
            ValueError: a column is missing, or a value is none that it can hold.
        """
        import pandas as pd

        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        frame.columns = frame.columns.str.strip()
        outputs = [name.removeprefix(_PROBABILITY) for name in frame.columns if name.startswith(_PROBABILITY)]
        if not outputs:
            raise ValueError(f"{path} has no column 'probability:NAME'; give one for each output, as probability:Afib")
        needed = ["patient", *(_TRUTH + name for name in outputs)]
        if missing := [name for name in needed if name not in frame.columns]:
            raise ValueError(f"{path} lacks the column {missing[0]!r}")

        def text(column: str, default: str = "") -> NDArray[np.str_]:
            if column not in frame.columns:
                return np.full(len(frame), default)
            return np.asarray(frame[column].str.strip(), np.str_)

        def numbers(column: str) -> FloatArray:
            values = text(column)
            try:
                return np.where(values == "", "nan", values).astype(np.float32)
            except ValueError:
                bad = next(v for v in values.tolist() if v and not _is_number(v))
                raise ValueError(f"{path}: {bad!r} in the column {column!r} is no number") from None

        def truth(column: str) -> NDArray[np.int8]:
            values = numbers(column)
            known = ~np.isnan(values)
            if not np.isin(values[known], (-1, 0, 1)).all():
                raise ValueError(f"{path}: the column {column!r} may hold 1, 0, and -1 or nothing (unknown)")
            return np.where(known, values, -1).astype(np.int8)

        sexes = [value.lower() for value in text("sex").tolist()]
        if strange := sorted(set(sexes) - set(_SEXES)):
            raise ValueError(f"{path}: {strange[0]!r} in the column 'sex' is neither M, F nor empty")
        n = len(frame)
        return cls(
            names=tuple(_spelt(name) for name in outputs),
            probability=np.stack([numbers(_PROBABILITY + name) for name in outputs], axis=1).reshape(n, -1),
            truth=np.stack([truth(_TRUTH + name) for name in outputs], axis=1).reshape(n, -1),
            patient=text("patient"),
            source=text("source", path.stem),
            site=text("site"),
            sex=np.array([_SEXES[value] for value in sexes], np.str_),
            age=numbers("age"),
            leads=_leads(text("leads"), path),
            record=text("record") if "record" in frame.columns else np.arange(1, n + 1).astype(np.str_),
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _spelt(name: str) -> str:
    """The published spelling where it is one of the 77 labels."""
    try:
        return LABEL_NAMES[index_of(name)]
    except KeyError:
        return name


def _leads(values: NDArray[np.str_], path: Path) -> NDArray[np.bool_]:
    """(n, 12) from lead names with blanks between them; nothing = all twelve."""
    place = {lead.value.upper(): i for i, lead in enumerate(LEADS)}
    masks = {}
    for value in np.unique(values).tolist():
        there = value.replace(",", " ").replace(";", " ").upper().split()
        if strange := [lead for lead in there if lead not in place]:
            raise ValueError(f"{path}: {strange[0]!r} in the column 'leads' is no lead; write them as 'I II V1'")
        mask = np.zeros(len(LEADS), bool)
        mask[[place[lead] for lead in there] or slice(None)] = True
        masks[value] = mask
    return np.array([masks[value] for value in values.tolist()], bool).reshape(len(values), len(LEADS))


def shared_patients(a: Cases, b: Cases) -> list[str]:
    """Patients who are in both, in order."""
    return sorted(set(a.patient.tolist()) & set(b.patient.tolist()))


def same_cases(a: Cases, b: Cases) -> Cases:
    """``b`` in the order of ``a``, with the outputs that both have, in ``a``'s order.

    Raises:
        ValueError: they are not the same cases with the same truth, or have no output in common.
    """
    names = [name for name in a.names if name in b.names]
    if not names:
        raise ValueError("the two files have no output in common, so nothing can be compared")
    if len(a) != len(b):
        raise ValueError(f"the two files hold {len(a)} and {len(b)} cases; a paired test needs the same ones")

    def ids(cases: Cases) -> list[tuple[str, str]]:
        return list(zip(cases.source.tolist(), cases.record.tolist(), strict=True))

    first, second = ids(a), ids(b)
    if first != second:
        if len(set(first)) < len(first) or set(first) != set(second):
            raise ValueError("the two files do not hold the same records in the same order; a paired test needs that")
        place = {key: i for i, key in enumerate(second)}
        b = b.select(np.array([place[key] for key in first], np.int64))
    b = b.outputs(names)
    if not np.array_equal(a.patient, b.patient):
        raise ValueError("the two files name other patients for the same records")
    if not np.array_equal(a.outputs(names).truth, b.truth):
        raise ValueError("the two files hold other truths for the same records; score both models against one truth")
    return b
