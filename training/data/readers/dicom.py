"""DICOM waveforms: 12-lead, general and ambulatory ECG (PS3.3, A.34), read by pydicom.

The longest multiplex group with leads (a file holds the rhythm and often a median beat); each channel by its source's
code, MDC or SCP-ECG (CID 3001); sensitivity, correction and baseline applied, in the unit that the channel names.
Names and dates of birth never enter the table; recordings and patients get pseudonyms as in `muse`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agent.core.ecg import FloatArray
from agent.core.nomenclature import ECG_LEAD, term_of_code
from training.data.readers.files import age, has, pick_leads, sex, walk
from training.data.recording import Pending, Pendings, Recording, Source, UnreadableError

ECG_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.9.1.{i}" for i in (1, 2, 3))
"""SOP classes: twelve-lead, general and ambulatory ECG waveform storage."""
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def recognise(folder: Path) -> bool:
    """Files named ``.dcm``, in the folder or those in it."""
    return has(folder, "*.dcm") or has(folder, "*/*.dcm")


def read(source: Source) -> Pendings:
    """Every ``.dcm`` file under the folder."""
    for path in walk(source.folder, ".dcm"):
        name = path.relative_to(source.folder).with_suffix("").as_posix()
        yield Pending(source.code(name), partial(_record, source, name, path), name)


def _record(source: Source, name: str, path: Path) -> Recording:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        file = dcmread(path)
    except InvalidDicomError as error:
        raise UnreadableError("it is no DICOM file") from error
    if file.get("SOPClassUID") not in ECG_CLASSES:
        raise UnreadableError("it is no ECG waveform (SOP class)")
    groups = [i for i, group in enumerate(file.WaveformSequence) if any(map(_lead, group.ChannelDefinitionSequence))]
    if not groups:
        raise UnreadableError("none of its channels is one of the twelve leads (CID 3001)")
    index = max(groups, key=lambda i: file.WaveformSequence[i].NumberOfWaveformSamples)
    names, units, rows = _channels(file, index)
    leads, signal, notes = pick_leads(names, units, rows)
    identifier = str(file.get("PatientID") or "")
    return Recording(
        source=source.name,
        record=source.code(name),
        patient=source.pseudonym(identifier) if identifier else f"{source.name}/{source.code(name)}",
        age=_age(str(file.get("PatientAge") or "")),
        sex=sex(str(file.get("PatientSex") or "")),
        rate=float(file.WaveformSequence[index].SamplingFrequency),
        leads=leads,
        signal=signal,
        site=str(file.get("InstitutionName") or ""),
        report="\n".join(_statements(file)),
        notes=notes,
    )


def _lead(channel: Any) -> str:
    """The lead's name by the code of the channel's source (MDC ``2:1``, SCP-ECG ``5.6.3-9-1``); empty for another."""
    source = channel.ChannelSourceSequence[0]
    scheme, code = str(source.CodingSchemeDesignator), str(source.CodeValue)
    number = code.rpartition(":" if scheme == "MDC" else "-")[2]
    term = term_of_code(ECG_LEAD + int(number)) if scheme in {"MDC", "SCPECG"} and number.isdecimal() else None
    return (term and term.lead) or ""


def _channels(file: Any, index: int) -> tuple[list[str], list[str], FloatArray]:
    """Names, units and (channels, n) values of a multiplex group; padding is NaN."""
    from pydicom.waveforms.numpy_handler import multiplex_array

    group = file.WaveformSequence[index]
    raw = multiplex_array(file, index, as_raw=True)  # (n, channels)
    values = np.array(multiplex_array(file, index, as_raw=False), np.float32)
    padding = group.get("WaveformPaddingValue")
    if padding is not None:
        fill = np.frombuffer(padding, raw.dtype)[0] if isinstance(padding, bytes) else padding
        values[raw == fill] = np.nan
    names, units = [], []
    for number, channel in enumerate(group.ChannelDefinitionSequence, start=1):
        names.append(_lead(channel) or f"{number}")
        unit = channel.get("ChannelSensitivityUnitsSequence")
        units.append(str(unit[0].CodeValue) if unit else "no unit")
    return names, units, np.ascontiguousarray(values.T)


def _age(text: str) -> float | None:
    """``056Y``, ``003M``."""
    years, factor = age(text[:-1]), _YEARS.get(text[-1:].upper())
    return years * factor if years is not None and factor is not None else None


def _statements(file: Any) -> list[str]:
    """Free text of the annotations."""
    found = (str(item.get("UnformattedTextValue") or "").strip() for item in file.get("WaveformAnnotationSequence", ()))
    return [text for text in found if text]
