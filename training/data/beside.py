"""``records.csv``: what an archive's owner knows of recordings whose files do not say it."""

from __future__ import annotations

from dataclasses import replace

from agent.core.labels import LABEL_NAMES, normalised
from training.data.readers.files import Lookup, age, number, rows, sex, table_file
from training.data.recording import Recording, Source

FIELDS = ("record", "patient", "age", "sex", "site", "report")
TARGET = "target_"
TABLE = "records.csv"
_LABEL_OF = {normalised(name): i for i, name in enumerate(LABEL_NAMES)}


class Beside:
    """The table of a source's folder, of whatever format, or none. It goes before what the source itself says.

    Columns, all but the first optional: ``record`` (as the table of windows has it; of vendors' files their path in the
    folder, without the ending), ``patient``, ``age``, ``sex``, ``site``, ``report``; one for each label that is known,
    named as it (1, 0, empty = unknown); and other tasks' truth as ``target_lvef``, ``target_af_5y``, ``target_lqts`` …
    (a number, empty = unknown).
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        path = table_file(source.folder, TABLE)
        if path is None:
            self._rows = None
            return
        columns = tuple(next(rows(path, "record"), {}))
        self._labels = {name: _LABEL_OF[normalised(name)] for name in columns if normalised(name) in _LABEL_OF}
        self._targets = [name for name in columns if name.startswith(TARGET)]
        unknown = [name for name in columns if name not in {*FIELDS, *self._targets, *self._labels}]
        if unknown:
            raise ValueError(
                f"column {unknown[0]!r} of {path} is neither one of {', '.join(FIELDS)}, nor one of the 77 labels; "
                f"call another task's truth {TARGET}{unknown[0]}"
            )
        self._rows = Lookup(rows(path), "record", [name for name in columns if name != "record"])

    def complete(self, recording: Recording, name: str) -> Recording:
        """The recording with what the table says under ``name``; itself where it says nothing.

        Raises:
            ValueError: a label is neither 1, 0 nor empty, or a target is no number.
        """
        row = self._rows[name] if self._rows is not None else {}
        if not row:
            return recording
        labels = recording.labels.copy()
        for label, i in self._labels.items():
            value = row[label].strip()
            if value not in {"", "0", "1", "0.0", "1.0"}:
                raise ValueError(f"records.csv gives {value!r} for {label!r}; write 1, 0 or nothing")
            if value:
                labels[i] = int(float(value))
        targets = dict(recording.targets)
        for target in self._targets:
            if row[target].strip():
                truth = number(row[target])
                if truth is None:
                    raise ValueError(f"records.csv gives {row[target]!r} for {target!r}; write a number or nothing")
                targets[target.removeprefix(TARGET)] = truth
        patient = row.get("patient", "").strip()
        return replace(
            recording,
            patient=self._source.pseudonym(patient) if patient else recording.patient,
            age=age(row.get("age")) if row.get("age", "").strip() else recording.age,
            sex=sex(row.get("sex")) or recording.sex,
            site=row.get("site", "").strip() or recording.site,
            report=row.get("report", "").strip() or recording.report,
            labels=labels,
            targets=targets,
        )
