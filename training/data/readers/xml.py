"""XML files of ECG devices: parsed without trust, and found by their root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from training.data.readers.files import walk
from training.data.recording import UnreadableError

LARGEST = 64 * 2**20
"""Bytes: a day of twelve leads is far beyond what these formats are used for."""
_HEAD = 4096


def begins_with(folder: Path, root: str) -> bool:
    """Whether the folder's first XML file, or that of a folder in it, has this root element."""
    first = next((path for pattern in ("*.xml", "*/*.xml") for path in folder.glob(pattern)), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return f"<{root}".encode() in file.read(_HEAD).replace(b"\0", b"")  # UTF-16 too


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name (the path in the folder, without suffix) and path of every XML file under it."""
    for path in walk(folder, ".xml"):
        yield path.relative_to(folder).with_suffix("").as_posix(), path


def parse(path: Path, root: str) -> Element:
    """The root element, every tag without its namespace.

    Entities are refused (a few lines of them fill the memory, or read other files); a document type alone is let by,
    for MUSE writes one.

    Raises:
        UnreadableError: it is no XML, too large, holds entities, or has another root.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    if path.stat().st_size > LARGEST:
        raise UnreadableError(f"larger than {LARGEST / 2**20:.0f} MiB: no ECG file of this format")
    try:
        top: Element = fromstring(path.read_bytes(), forbid_dtd=False, forbid_entities=True, forbid_external=True)
    except ParseError as error:
        raise UnreadableError(f"no well-formed XML (line {error.position[0]})") from error
    except DefusedXmlException as error:
        raise UnreadableError("it declares entities, which no ECG file needs; refused") from error
    for element in top.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    if top.tag != root:
        raise UnreadableError(f"its root is not {root}")
    return top


def text(element: Element | None, path: str, default: str = "") -> str:
    """Text of the first element at the path, stripped; the default where it is not there or empty."""
    found = element.findtext(path) if element is not None else None
    return (found or "").strip() or default


def decimal(value: str, what: str) -> float:
    """A number; devices set to a comma write one.

    Raises:
        UnreadableError: it is none.
    """
    try:
        return float(value.replace(",", "."))
    except ValueError as error:
        raise UnreadableError(f"{what} is {value[:20]!r}, which is no number") from error
