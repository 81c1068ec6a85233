"""Files: what torch writes is read as torch reads it, and what is damaged, hostile or something else is named."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from training.importers.archive import open_archive
from training.importers.names import ImportLimits, WeightsError

FORMS = {
    "zip": ({}, "torch.save"),
    "legacy": ({"_use_new_zipfile_serialization": False}, "torch.save before PyTorch 1.6"),
}


def state() -> dict[str, torch.Tensor]:
    """Tensors of every kind that a state dict has, and views that share a storage."""
    base = torch.arange(24, dtype=torch.float32)
    return {
        "plain": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "flat": base,
        "part": base[4:10].view(2, 3),
        "turned": base.view(4, 6).t(),
        "strided": base[::5],
        "scalar": torch.tensor(7),
        "none": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": torch.arange(5).half(),
        "brain": torch.arange(5).bfloat16(),
        "double": torch.arange(5).double(),
        "byte": torch.arange(5).byte(),
        "bool": torch.tensor([True, False]),
    }


def same(path: Path, expected: dict[str, torch.Tensor]) -> None:
    with open_archive(path) as archive:
        assert list(archive.root) == list(expected)
        for key, value in expected.items():
            found = archive.read(archive.root[key])
            assert found.dtype == value.dtype
            assert torch.equal(found, value.detach()), key
            assert found.is_contiguous()
            assert found.untyped_storage().nbytes() == value.numel() * value.element_size()


@pytest.mark.parametrize("form", FORMS)
def test_tensors_are_those_that_torch_wrote(save: Callable[..., Path], form: str) -> None:
    options, name = FORMS[form]
    path = save(state(), **options)
    same(path, state())
    with open_archive(path) as archive:
        assert archive.form == name


def test_a_file_without_checksums(save: Callable[..., Path]) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = save(state())
    finally:
        torch.serialization.set_crc32_options(True)
    same(path, state())


def test_safetensors(tmp_path: Path) -> None:
    expected = {key: value.detach().contiguous().clone() for key, value in sorted(state().items())}
    path = tmp_path / "w.safetensors"
    save_file(expected, path)
    with open_archive(path) as archive:
        assert archive.form == "safetensors"
        assert sorted(archive.root) == list(expected)
        assert all(torch.equal(archive.read(archive.root[key]), value) for key, value in expected.items())
    save_file({"z": torch.zeros(2, dtype=torch.complex64)}, path)
    with pytest.raises(WeightsError, match="z has the type C64"), open_archive(path):
        pass


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "this is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "this is a web page"),
        (b"\n <html>", "this is a web page"),
        (b'{"error": "gated"}', "message or JSON"),
        (b"Access to model heartwise/x is restricted", "message or JSON"),
        (b"\x1f\x8b\x08\x00rest", "compressed file"),
        (b"Salted__12345678", "encrypted"),
        (b"-----BEGIN PGP MESSAGE-----", "encrypted"),
        (bytes(2000), "holds zeros"),
        (b"a" * 257 + b"ustar" + bytes(200), "tar archive"),
        (b"hello world", "no file of weights"),
        (b"\x80", "no file of weights"),
        (b"\x80\x04K\x01.", "torch.save did not write"),
        (b"PK\x03\x04", "cut off or damaged"),
        (b"\x10" + bytes(7) + b'{"a"' + bytes(20), "safetensors file is cut off"),
    ],
)
def test_files_of_something_else_are_told(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=says) as e, open_archive(path):
        pass
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)


def test_hdf5_and_nothing(tmp_path: Path) -> None:
    h5py.File(tmp_path / "model.h5", "w").close()
    with pytest.raises(WeightsError, match="this is HDF5"), open_archive(tmp_path / "model.h5"):
        pass
    with pytest.raises(FileNotFoundError, match="no file"), open_archive(tmp_path / "nothing.pt"):
        pass


@pytest.mark.parametrize("form", FORMS)
def test_every_cut_is_noticed(save: Callable[..., Path], form: str) -> None:
    path = save({"a": torch.randn(50), "b": torch.randn(7)}, **FORMS[form][0])
    whole = path.read_bytes()
    for length in [*range(1, 40), *range(40, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError), open_archive(path) as archive:
            for ref in archive.root.values():
                archive.read(ref)


def rewritten(path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None], *more: tuple[str, bytes]) -> None:
    """The archive with its entries changed, taken out (None) and added."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in [*filter(None, (change(*entry) for entry in entries)), *more]:
            archive.writestr(name, content)


def read_all(path: Path, limits: ImportLimits | None = None) -> None:
    with open_archive(path, limits) as archive:
        for ref in archive.root.values():
            archive.read(ref)


def same_entry(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "more", "says"),
    [
        (same_entry, [("../../etc/passwd", b"x")], "points out of it"),
        (same_entry, [("/etc/passwd", b"x")], "points out of it"),
        (same_entry, [("weights\\..\\..\\x", b"x")], "points out of it"),
        (same_entry, [("C:/x", b"x")], "points out of it"),
        (same_entry, [("weights/data/0", b"x" * 24)], "two entries"),
        (same_entry, [("other/data.pkl", b"x")], "with 2 data.pkl"),
        (lambda n, c: None if n.endswith("data.pkl") else (n, c), [], "with 0 data.pkl"),
        (lambda n, c: None if n.endswith("data/0") else (n, c), [], "storage '0' is not in the archive"),
        (lambda n, c: (n, c[:-4] if n.endswith("data/0") else c), [], "20 bytes instead of 24"),
        (lambda n, c: (n, c + c if n.endswith("data/0") else c), [], "48 bytes instead of 24"),
        (lambda n, c: (n, b"big" if n.endswith("byteorder") else c), [], "big-endian"),
    ],
)
def test_archives_that_torch_never_writes_are_refused(
    save: Callable[..., Path], change: Callable[..., Any], more: list[tuple[str, bytes]], says: str
) -> None:
    path = save({"a": torch.randn(6)})
    rewritten(path, change, *more)
    with pytest.raises(WeightsError, match=says):
        read_all(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_archive_may_be_rewritten_as_it_is(save: Callable[..., Path]) -> None:
    path = save({"a": torch.randn(6)})
    rewritten(path, same_entry)
    read_all(path)


def test_bombs_are_refused_before_they_unfold(save: Callable[..., Path]) -> None:
    path = save({"a": torch.zeros(250_000)})
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match="is compressed"):
        read_all(path)

    path = save({"a": torch.zeros(1000)})
    with pytest.raises(WeightsError, match="4000 bytes, more than 100"):
        read_all(path, ImportLimits(storage_bytes=100))
    with pytest.raises(WeightsError, match=r"data\.pkl has \d+ bytes, more than 10"):
        read_all(path, ImportLimits(pickle_bytes=10))
    with pytest.raises(WeightsError, match="entries, more than 2"):
        read_all(path, ImportLimits(names=2))


def central(path: Path, name: bytes) -> tuple[bytearray, int]:
    """The file's bytes, and where the central directory describes the entry."""
    content = bytearray(path.read_bytes())
    at = content.rfind(name) - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    return content, at


def test_sizes_that_lie_are_refused(save: Callable[..., Path]) -> None:
    path = save({"a": torch.randn(6)})
    content, at = central(path, b"weights/data/0")
    struct.pack_into("<II", content, at + 20, 2**30, 2**30)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="entries claim"):
        read_all(path)


def test_an_encrypted_archive_is_told(save: Callable[..., Path]) -> None:
    path = save({"a": torch.randn(6)})
    content, at = central(path, b"weights/data/0")
    content[at + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="encrypted"):
        read_all(path)


def test_a_changed_weight_is_noticed_by_its_checksum(save: Callable[..., Path]) -> None:
    path = save({"a": torch.full((6,), 1.0)})
    content = path.read_bytes()
    place = content.index(struct.pack("<6f", *[1.0] * 6))
    path.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    with pytest.raises(WeightsError, match="checksum"):
        read_all(path)


def test_a_legacy_file_of_another_version_or_length_is_refused(save: Callable[..., Path]) -> None:
    path = save({"a": torch.full((6,), 1.0)}, **FORMS["legacy"][0])
    whole = path.read_bytes()
    path.write_bytes(whole.replace(struct.pack("<q", 6), struct.pack("<q", 5)))
    with pytest.raises(WeightsError, match="another length"):
        read_all(path)
    path.write_bytes(whole.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"))
    with pytest.raises(WeightsError, match="on a machine that is not read"):
        read_all(path)


def test_only_what_is_asked_for_is_read(save: Callable[..., Path]) -> None:
    """A damaged storage that nobody wants (an optimiser's) does no harm."""
    path = save({"a": torch.full((6,), 1.0), "b": torch.full((6,), 2.0)})
    content = path.read_bytes()
    place = content.index(struct.pack("<6f", *[2.0] * 6))
    path.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    with open_archive(path) as archive:
        assert torch.equal(archive.read(archive.root["a"]), torch.full((6,), 1.0))
        with pytest.raises(WeightsError, match="checksum"):
            archive.read(archive.root["b"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.data())
def test_a_changed_file_gives_tensors_or_the_one_error(tmp_path: Path, form: str, data: st.DataObject) -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.ones(6), "b": torch.ones(2, 2).t()}, stream, **FORMS[form][0])
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzzed.pt"
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with suppress(WeightsError), open_archive(path) as archive:
        for ref in archive.root.values() if isinstance(archive.root, dict) else ():
            if hasattr(ref, "storage"):
                archive.read(ref)
