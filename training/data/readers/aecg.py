"""HL7 annotated ECG (aECG, ``AnnotatedECG``, implementation guide of 2005): the FDA's format.

The PyPI package `aecg` needs Python 3.12, so this is a small decoder of our own: the rhythm series' sequence sets (time
as ``GLIST_TS`` or ``GLIST_PQ`` with a step, leads as ``SLIST_PQ`` with origin, scale and digits, coded
``MDC_ECG_LEAD_*``); derived series (a representative beat) are left out. Names and dates of birth never enter the
table: the latter only give the age; recordings and patients get pseudonyms as in `muse`.
"""

from __future__ import annotations

from datetime import date
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from agent.core.ecg import FloatArray
from agent.core.nomenclature import millivolts_per, unit_of
from training.data.readers.files import age, pick_leads, sex
from training.data.readers.xml import begins_with, decimal, files, parse
from training.data.recording import Pending, Pendings, Recording, Source, UnreadableError

ROOT = "AnnotatedECG"
_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
_LEAD = "MDC_ECG_LEAD_"
_INTERPRETATION = "MDC_ECG_INTERPRETATION"


def recognise(folder: Path) -> bool:
    """XML files with its root, with or without a prefix."""
    return begins_with(folder, ROOT) or begins_with(folder, f"hl7:{ROOT}") or begins_with(folder, f"ns2:{ROOT}")


def read(source: Source) -> Pendings:
    """Every XML file under the folder."""
    for name, path in files(source.folder):
        yield Pending(source.code(name), partial(_record, source, name, path), name)


def _record(source: Source, name: str, path: Path) -> Recording:
    root = parse(path, ROOT)
    series = root.find("component/series")
    if series is None:
        raise UnreadableError("it has no series of its own (a derived one is no recording)")
    rate, names, rows = _rhythm(series)
    leads, signal, notes = pick_leads(names, ["mV"] * len(names), rows)
    subject = next(root.iter("trialSubject"), None)
    identifier = _attribute(subject, "id", "extension") or _attribute(subject, "id", "root")
    return Recording(
        source=source.name,
        record=source.code(name),
        patient=source.pseudonym(identifier) if identifier else f"{source.name}/{source.code(name)}",
        age=_age(_attribute(subject, ".//birthTime", "value"), _attribute(root, "effectiveTime/*", "value")),
        sex=sex(_attribute(subject, ".//administrativeGenderCode", "code")),
        rate=rate,
        leads=leads,
        signal=signal,
        site=_attribute(next(root.iter("trialSite"), None), "id", "extension"),
        report="\n".join(_statements(series)),
        notes=notes,
    )


def _attribute(element: Element | None, path: str, name: str) -> str:
    found = element.find(path) if element is not None else None
    return (found.get(name) or "").strip() if found is not None else ""


def _rhythm(series: Element) -> tuple[float, list[str], FloatArray]:
    """Rate, lead names and (leads, n) mV of the series' own sequence sets; they must fit together."""
    rates: set[float] = set()
    names: list[str] = []
    rows: list[FloatArray] = []
    for sequences in series.findall("component/sequenceSet"):
        for sequence in sequences.findall("component/sequence"):
            code, value = _attribute(sequence, "code", "code"), sequence.find("value")
            if value is None:
                continue
            kind = value.get(_TYPE, "").rpartition(":")[2]
            if kind in {"GLIST_TS", "GLIST_PQ"} and code.startswith("TIME"):
                rates.add(_rate(value))
            elif code.startswith(_LEAD) and kind == "SLIST_PQ":
                names.append(code.removeprefix(_LEAD))
                rows.append(_samples(value, names[-1]))
    if len(rates) != 1:
        raise UnreadableError(f"its sequences have {len(rates)} sampling rates; one is needed")
    if not rows:
        raise UnreadableError("it has no lead (MDC_ECG_LEAD_…, SLIST_PQ)")
    if len({len(row) for row in rows}) > 1:
        raise UnreadableError("its leads are not of one length")
    return rates.pop(), names, np.stack(rows)


def _rate(value: Element) -> float:
    step = decimal(_attribute(value, "increment", "value"), "the time's increment")
    unit = unit_of(_attribute(value, "increment", "unit") or "s")
    if unit is None or unit.ucum != "s" or step <= 0:
        raise UnreadableError("the time's increment is not a number of s, ms or us above 0")
    return round(1.0 / (step * unit.factor), 6)


def _samples(value: Element, name: str) -> FloatArray:
    """(n,) mV: origin + scale · digit, each with its own unit."""
    numbers = {}
    for part in ("origin", "scale"):
        factor = millivolts_per(_attribute(value, part, "unit"))
        if factor is None:
            raise UnreadableError(f"the {part} of lead {name} is not in uV, mV or V")
        numbers[part] = factor * decimal(_attribute(value, part, "value"), f"the {part} of lead {name}")
    try:
        digits = np.array((value.findtext("digits") or "").split(), np.float32)
    except ValueError as error:
        raise UnreadableError(f"the digits of lead {name} are not all numbers") from error
    return np.asarray(numbers["origin"] + numbers["scale"] * digits, np.float32)


def _age(born: str, recorded: str) -> float | None:
    """Whole years between two times that begin with YYYYMMDD."""
    try:
        a, b = (date(int(t[:4]), int(t[4:6]), int(t[6:8])) for t in (born, recorded))
    except ValueError:
        return None
    return age(str(b.year - a.year - ((b.month, b.day) < (a.month, a.day))))


def _statements(series: Element) -> list[str]:
    """Texts of the interpretation: those of the rhythm series, not of a derived beat's measurements."""
    texts = []
    for set_ in series.findall("subjectOf/annotationSet"):
        for annotation in set_.iter("annotation"):
            if _attribute(annotation, "code", "code").startswith(_INTERPRETATION):
                said = (annotation.findtext("value") or "").strip()
                if said:
                    texts.append(said)
    return texts
