"""Archives: a bundle's plain files come out, and nothing else that an archive can do happens."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.engines.bundles.archive import unpack
from agent.engines.bundles.bundle import BundleError, default_bundle

CONTENT = b"content of a file, " * 100


def member(name: str, *, kind: bytes = tarfile.REGTYPE, size: int | None = None, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = (len(CONTENT) if kind == tarfile.REGTYPE else 0) if size is None else size
    return info


def archive(path: Path, *members: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for info in members:
            if info.isreg() and info.size > len(CONTENT):  # a header that lies, which Python 3.13 would not write
                tar.fileobj.write(info.tobuf(form))
            else:
                tar.addfile(info, io.BytesIO(CONTENT) if info.isreg() else None)
    return path


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def refused(path: Path, into: Path, match: str, **limits: int) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        unpack(path, into, **limits)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 500
    for name in ("outside", "escaped"):
        assert not (into.parent / name).exists()


@pytest.mark.parametrize("arguments", [["-cf"], ["-czf"], ["--format=pax", "-czf"], ["--format=ustar", "-cf"]])
@pytest.mark.parametrize("inside", [True, False])
def test_what_tar_packs_comes_out(tmp_path: Path, into: Path, arguments: list[str], inside: bool) -> None:
    source = default_bundle()
    where, what = (source, ".") if inside else (source.parent, source.name)
    subprocess.run(["tar", "-C", str(where), *arguments, str(tmp_path / "b.tar"), what], check=True)
    folder = unpack(tmp_path / "b.tar", into)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in source.iterdir()}
    assert all(p.stat().st_mode & 0o111 == 0 for p in folder.iterdir() if p.is_file())


def test_what_python_packs_comes_out(tmp_path: Path, into: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "b"), "gztar", default_bundle().parent, default_bundle().name)
    assert (unpack(Path(packed), into) / "manifest.json").read_bytes()


MEMBERS: dict[str, tuple[list[tarfile.TarInfo], str]] = {
    "traversal": ([member("../outside")], "leads out of the archive"),
    "traversal within": ([member("demo/../../outside")], "leads out of the archive"),
    "absolute": ([member("/tmp/outside")], "leads out of the archive"),
    "symbolic link": ([member("a", kind=tarfile.SYMTYPE, link="/etc/passwd")], "is a link, device or sparse file"),
    "link, then a file through it": (
        [member("demo", kind=tarfile.SYMTYPE, link=".."), member("demo/escaped")],
        "is a link, device or sparse file",
    ),
    "hard link": ([member("a"), member("b", kind=tarfile.LNKTYPE, link="a")], "is a link, device or sparse file"),
    "device": ([member("a", kind=tarfile.CHRTYPE)], "is a link, device or sparse file"),
    "pipe": ([member("a", kind=tarfile.FIFOTYPE)], "is a link, device or sparse file"),
    "sparse": ([member("a", kind=tarfile.GNUTYPE_SPARSE)], "is a link, device or sparse file|no whole tar"),
    "sub-folder": ([member("a/b/c")], "is in a sub-folder"),
    "two folders": ([member("a/x"), member("b/y")], "more than one folder"),
    "file beside the folder": ([member("a/x"), member("y")], "more than one folder"),
    "the same twice": ([member("a"), member("a")], "holds a twice"),
    "differs in case": ([member("a"), member("A")], "holds A twice"),
    "hidden": ([member(".profile")], "not a plain file name"),
    "control codes": ([member("a\x1b[2J")], r"'a\\x1b\[2J' is not a plain file name"),
    "long name": ([member("x" * 5000)], "not a plain file name"),
    "too many": ([member(f"f{i}") for i in range(300)], "more than 272 files"),
    "terabytes claimed": ([member("a", size=1 << 42)], "over the limit|no whole tar"),
    "cut": ([member("a", size=1 << 20)], "no whole tar file"),
}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("attack", MEMBERS)
def test_members_that_no_bundle_has(tmp_path: Path, into: Path, attack: str, form: int) -> None:
    members, said = MEMBERS[attack]
    refused(archive(tmp_path / "b.tar", *members, form=form), into, said)


def test_files_over_the_limits(tmp_path: Path, into: Path) -> None:
    refused(archive(tmp_path / "b.tar", member("a")), into, "over the limit", max_file=1000)
    refused(archive(tmp_path / "c.tar", member("x"), member("y")), into, "over the limit", max_bundle=3000)


def test_a_gzip_bomb_stops_at_the_limit(tmp_path: Path, into: Path) -> None:
    with gzip.open(tmp_path / "b.tar.gz", "wb", compresslevel=9) as out:
        for _ in range(64):
            out.write(bytes(1 << 20))
    refused(tmp_path / "b.tar.gz", into, "unpacks to more than", max_bundle=1 << 20)
    assert not list(into.iterdir())


def header(size: bytes, kind: bytes) -> bytes:
    """One raw header of a file ``a`` with its checksum; ``size`` as its twelve bytes."""
    block = bytearray(member("a").tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[156:157] = size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"S", b"0"])
@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80" + bytes(3) + b"\xff" * 8, b"\xff" * 12, b"\xff" * 10 + b"\x00\x00"]
)
def test_a_header_that_lies_of_its_size_costs_nothing(tmp_path: Path, into: Path, kind: bytes, size: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(header(size, kind) * 50 + bytes(10240))
    refused(tmp_path / "b.tar", into, "no whole tar file|over the limit|more than|link, device or sparse|twice")


def test_headers_nested_without_end(tmp_path: Path, into: Path) -> None:
    (tmp_path / "b.tar").write_bytes(header(b"00000000000\0", b"L") * 20_000 + bytes(10240))
    refused(tmp_path / "b.tar", into, "no whole tar file")


def test_files_that_are_no_archive(tmp_path: Path, into: Path) -> None:
    for content, said in (
        (b"", "no whole tar file"),
        (b"no archive at all", "no whole tar file"),
        (b"\x1f\x8b", "is damaged"),
        (b"\x1f\x8b\x08\x00" + b"x" * 50, "is damaged"),
        (gzip.compress(b"no archive"), "no whole tar file"),
    ):
        (tmp_path / "b.tar").write_bytes(content)
        refused(tmp_path / "b.tar", into, said)
    refused(tmp_path / "absent", into, "cannot be opened")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", into, "neither a folder nor a plain file")  # and does not wait for a writer


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 4095), flip=st.integers(1, 255), packed=st.booleans())
def test_a_changed_byte_gives_a_sentence_or_plain_files(tmp_path: Path, place: int, flip: int, packed: bool) -> None:
    content = archive(tmp_path / "b.tar", member("demo/a"), member("demo/b")).read_bytes()
    content = gzip.compress(content, mtime=0) if packed else content
    spoilt = bytearray(content)
    spoilt[place % len(spoilt)] ^= flip
    (tmp_path / "c.tar").write_bytes(spoilt)
    shutil.rmtree(tmp_path / "into", ignore_errors=True)
    (tmp_path / "into").mkdir()
    try:
        unpack(tmp_path / "c.tar", tmp_path / "into")
    except BundleError as error:
        assert "\n" not in str(error)
    else:
        assert all(p.is_file() and not p.is_symlink() for p in (tmp_path / "into").iterdir())
    assert {p.name for p in tmp_path.iterdir()} == {"b.tar", "c.tar", "into"}
