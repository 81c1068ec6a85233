"""GE MUSE XML (``RestingECG``): what most hospitals' archives export.

No maintained library reads it (`muse2wfdb` writes files): this is the small part that is needed. The rhythm waveform,
never the median beat; leads I, II, V1–V6 as they were measured, for the others follow from them. Layout from exported
files as others describe them (there is no public specification): ``WaveformType``, ``SampleBase``, and for each lead
``LeadID``, ``LeadAmplitudeUnitsPerBit`` in ``LeadAmplitudeUnits``, little-endian int16 in base64. The checksum
``LeadDataCRC32`` is not checked, since what it covers is nowhere told.

Of the patient, age, sex and a pseudonym enter the table; name and date of birth are never read. File names may hold
either, so a recording's name is a pseudonym too: its owner gets it back by `Source.code` of the file's path.
"""

from __future__ import annotations

import base64
import binascii
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from agent.core.ecg import FloatArray
from training.data.readers.files import age, pick_leads, sex
from training.data.readers.xml import begins_with, decimal, files, parse, text
from training.data.recording import Pending, Pendings, Recording, Source, UnreadableError

ROOT = "RestingECG"
INVALID = -32768
_YEARS = {"YEARS": 1.0, "MONTHS": 1 / 12, "WEEKS": 7 / 365.25, "DAYS": 1 / 365.25, "HOURS": 0.0}


def recognise(folder: Path) -> bool:
    """XML files with its root."""
    return begins_with(folder, ROOT)


def read(source: Source) -> Pendings:
    """Every XML file under the folder."""
    for name, path in files(source.folder):
        yield Pending(source.code(name), partial(_record, source, name, path), name)


def _record(source: Source, name: str, path: Path) -> Recording:
    root = parse(path, ROOT)
    rhythm = _rhythm(root)
    names, units, signals, notes = _leads(rhythm)
    leads, signal, others = pick_leads(names, units, signals)
    patient, test = root.find("PatientDemographics"), root.find("TestDemographics")
    identifier = text(patient, "PatientID")
    return Recording(
        source=source.name,
        record=source.code(name),
        patient=source.pseudonym(identifier) if identifier else f"{source.name}/{source.code(name)}",
        age=_age(patient),
        sex=sex(text(patient, "Gender")),
        rate=decimal(text(rhythm, "SampleBase"), "SampleBase")
        * 10.0 ** decimal(text(rhythm, "SampleExponent", "0"), "SampleExponent"),
        leads=leads,
        signal=signal,
        site=text(test, "SiteName") or text(test, "Site"),
        report=_report(root),
        notes=(*notes, *others),
    )


def _rhythm(root: Element) -> Element:
    found = next((w for w in root.iter("Waveform") if text(w, "WaveformType").lower() == "rhythm"), None)
    if found is None:
        raise UnreadableError("it has no waveform of the type Rhythm (a median beat is no recording)")
    return found


def _leads(rhythm: Element) -> tuple[list[str], list[str], FloatArray, list[str]]:
    """Names, units, (leads, n) values in them, and notes."""
    names, units, rows, notes = [], [], [], []
    for lead in rhythm.iter("LeadData"):
        name = text(lead, "LeadID", "?")
        if text(lead, "LeadOff").upper() == "TRUE":
            notes.append(f"lead {name} was off")
            continue
        if text(lead, "LeadSampleSize", "2") != "2":
            raise UnreadableError(f"lead {name} has {text(lead, 'LeadSampleSize')} bytes a sample; only 2 are known")
        try:
            raw = base64.b64decode("".join(text(lead, "WaveFormData").split()), validate=True)
        except binascii.Error as error:
            raise UnreadableError(f"the samples of lead {name} are no base64") from error
        if len(raw) % 2:
            raise UnreadableError(f"the samples of lead {name} end in the middle of one")
        counts = np.frombuffer(raw, "<i2")
        said = text(lead, "LeadSampleCountTotal")
        if said and int(said) != len(counts):
            raise UnreadableError(f"lead {name} has {len(counts)} samples and says {said}")
        scale = decimal(text(lead, "LeadAmplitudeUnitsPerBit"), f"LeadAmplitudeUnitsPerBit of lead {name}")
        values = counts.astype(np.float32) * np.float32(scale)
        values[counts == INVALID] = np.nan
        names.append(name)
        units.append(text(lead, "LeadAmplitudeUnits", "MICROVOLTS"))
        rows.append(values)
    if not rows:
        raise UnreadableError("its rhythm has no lead")
    if len({len(row) for row in rows}) > 1:
        raise UnreadableError("its leads are not of one length")
    return names, units, np.stack(rows), notes


def _age(patient: Element | None) -> float | None:
    years = age(text(patient, "PatientAge"))
    factor = _YEARS.get(text(patient, "AgeUnits", "YEARS").upper())
    return years * factor if years is not None and factor is not None else None


def _report(root: Element) -> str:
    """The confirmed statements, or else the device's own; a statement ends its line where its flag says so."""
    diagnosis = root.find("Diagnosis")
    if diagnosis is None:
        diagnosis = root.find("OriginalDiagnosis")
    parts: list[str] = []
    for statement in diagnosis.iter("DiagnosisStatement") if diagnosis is not None else ():
        parts.append(text(statement, "StmtText"))
        flags = {(flag.text or "").strip().upper() for flag in statement.iter("StmtFlag")}
        parts.append("\n" if "ENDSLINE" in flags else " ")
    return "".join(parts).strip()
