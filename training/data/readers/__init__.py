"""Readers of recordings: one small module for each collection or file format, all in ``FORMATS``.

A reader is a generator over a `Source`: it yields each recording's name and how to read it (`Pending`), in an order
that never changes, and holds neither the archive's names nor its tables in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.readers import (
    aecg,
    alarms,
    brugada,
    challenge,
    code15,
    dicom,
    mimic,
    muse,
    ptbxl,
    rhythms,
    sph,
    wfdb_records,
)
from training.data.recording import Licence, Pendings, Source


@dataclass(frozen=True, slots=True)
class Format:
    """How recordings of one kind are read."""

    read: Callable[[Source], Pendings]
    recognise: Callable[[Path], bool]
    """Whether a folder looks like it, by its own marks."""
    licence: Licence
    personal: bool = False
    """May hold real identifiers of patients: the table gets pseudonyms."""


_OWN = Licence("not stated: the archive's owner knows")

FORMATS: Mapping[str, Format] = {
    "ptbxl": Format(ptbxl.read, ptbxl.recognise, Licence("CC BY 4.0 (PTB-XL, Wagner et al.)")),
    "cinc2021": Format(
        challenge.read,
        challenge.recognise,
        Licence(
            "CC BY 4.0 (PhysioNet/CinC Challenge 2020 and 2021; by the challenge's page, not restated in the files)"
        ),
    ),
    "cpsc2021": Format(rhythms.cpsc2021, rhythms.recognise_cpsc2021, Licence("CC BY 4.0 (CPSC 2021)")),
    "mitdb": Format(
        rhythms.mitdb,
        rhythms.recognise_mitdb,
        Licence("ODC-By 1.0 (MIT-BIH Arrhythmia Database, Moody and Mark)"),
    ),
    "cinc2015": Format(alarms.read, alarms.recognise, Licence("ODC-By 1.0 (PhysioNet/CinC Challenge 2015)")),
    "brugada": Format(
        brugada.read, brugada.recognise, Licence("CC BY-SA 4.0 (Brugada-HUCA): research only", share_alike=True)
    ),
    "mimic": Format(
        mimic.read,
        mimic.recognise,
        # The database licence asks the same of databases that are made of it; whether weights are one is not settled.
        Licence("ODbL 1.0 (MIMIC-IV-ECG, PhysioNet)", share_alike=True),
    ),
    "code15": Format(code15.read, code15.recognise, Licence("CC BY 4.0 (CODE-15 %, Ribeiro et al.)")),
    "sph": Format(sph.read, sph.recognise, Licence("CC BY 4.0 (Shandong Provincial Hospital, Liu et al.)")),
    "muse": Format(muse.read, muse.recognise, _OWN, personal=True),
    "aecg": Format(aecg.read, aecg.recognise, _OWN, personal=True),
    "dicom": Format(dicom.read, dicom.recognise, _OWN, personal=True),
    "wfdb": Format(wfdb_records.read, wfdb_records.recognise, _OWN, personal=True),
}
"""Format to its reader. A folder is taken for the first that recognises it; in this order folders found together are
read, and of a recording that two of them hold the first one's stays."""


def find_sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Format and folder of what lies in a folder: itself, or each folder directly in it, in the order of ``FORMATS``.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it is recognised.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if (own := format_of(folder)) is not None:
        yield own, folder
        return
    inside = {path: format_of(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    if not any(inside.values()):
        raise FileNotFoundError(
            f"nothing in {folder} looks like one of the formats {', '.join(FORMATS)}; "
            "if you know which it is, say --source FORMAT=FOLDER"
        )
    for name in FORMATS:
        yield from ((name, path) for path, found in inside.items() if found == name)


def format_of(folder: Path) -> str | None:
    """The format of a folder by its own marks, or None."""
    return next((name for name, format_ in FORMATS.items() if format_.recognise(folder)), None)
