"""Every way in which a bundle can be wrong is one sentence, before any of it is used."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from agent.engines.bundles.bundle import MAX_MANIFEST, UNSIGNED, BundleError, default_bundle, open_bundle
from agent.engines.bundles.signing import Trust, key_id, load_public_key, sign

Rewrite = Callable[..., None]


def refused(folder: Path, match: str, **limits: int) -> None:
    with pytest.raises(BundleError, match=match) as info:
        open_bundle(folder, UNSIGNED, **limits)
    text = str(info.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 400


def test_opens_what_was_written(folder: Path) -> None:
    bundle = open_bundle(folder, UNSIGNED)
    assert bundle.manifest.model_id == "small/1"
    assert bundle.golden_windows.shape == (5, 12, 2500)
    assert bundle.golden_probabilities.shape == (5, 3)
    assert bundle.read("network.xml") == (folder / "network.xml").read_bytes()
    with pytest.raises(ValueError, match="read-only"):
        bundle.golden_windows[0, 0, 0] = 1.0


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert open_bundle(tmp_path / "current", UNSIGNED).path == folder.resolve()


def test_files_beside_the_manifest_s_are_left_alone(folder: Path) -> None:
    (folder / "README.md").write_text("about")
    (folder / "more").mkdir()
    open_bundle(folder, UNSIGNED)


def test_no_folder(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "absent", "there is no bundle")
    refused(folder / "manifest.json", "not a folder")
    refused(tmp_path, r"manifest\.json is missing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "there is no bundle")


def test_manifest_truncated_at_any_length(folder: Path) -> None:
    text = (folder / "manifest.json").read_text().rstrip()
    for length in {0, 1, *range(7, len(text), 211), len(text) - 1}:
        (folder / "manifest.json").write_text(text[:length])
        refused(folder, r"manifest\.json")


def test_manifest_that_is_not_a_manifest(folder: Path, rewrite: Rewrite) -> None:
    for content in (b"[]", b"\x00\xff", b"null", b'"' + b"a" * 100, b"[" * 100_000):
        (folder / "manifest.json").write_bytes(content)
        refused(folder, r"manifest\.json")
    (folder / "manifest.json").write_bytes(b" " * (MAX_MANIFEST + 1))
    refused(folder, "larger than")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.update(schema_version=1), "of schema 1, .* compile it again"),
        (lambda d: d["labels"].append(d["labels"][0]), "same name"),
        (lambda d: d["labels"][0].update(rule=None, colour="red"), "labels.0.colour"),
        (lambda d: d["engines"][0].update(files=["absent.xml"]), r"no checksum for absent\.xml"),
        (lambda d: d["engines"][0]["parity"].update(windows=float("inf")), "Infinity is no number"),
        (lambda d: d["files"].update({"../network.xml": d["files"]["network.xml"]}), "plain file name"),
        (lambda d: d["files"].update({"/etc/passwd": d["files"]["network.xml"]}), "plain file name"),
        (lambda d: d["files"].update({"..\\x": d["files"]["network.xml"]}), "plain file name"),
        (lambda d: d["files"].update({"..": d["files"]["network.xml"]}), "plain file name"),
        (lambda d: d["files"].update({"gone.bin": d["files"]["network.xml"]}), r"gone\.bin is missing"),
        (lambda d: d["files"]["network.bin"].update(sha256="0" * 64), r"network\.bin does not have .* checksum"),
        (lambda d: d["files"]["network.bin"].update(sha256="0"), "sha256"),
        (lambda d: d["files"]["network.bin"].update(size=1), r"network\.bin has \d+ bytes instead of 1"),
        (lambda d: d["files"]["network.bin"].update(size=1 << 50), r"network\.bin claims"),
        (lambda d: d["files"]["golden_windows.npy"].update(size=-1), "size"),
    ],
)
def test_manifest_with_a_fault(folder: Path, rewrite: Rewrite, change: Callable[..., object], match: str) -> None:
    rewrite(folder, change)
    refused(folder, match)


def test_one_flipped_bit_in_any_file(folder: Path) -> None:
    for name in ("network.xml", "network.bin", "golden_windows.npy", "golden_probabilities.npy"):
        sound = (folder / name).read_bytes()
        spoilt = bytearray(sound)
        spoilt[len(sound) // 2] ^= 1
        (folder / name).write_bytes(spoilt)
        refused(folder, f"{name} does not have the manifest's checksum")
        (folder / name).write_bytes(sound)
    open_bundle(folder, UNSIGNED)


def test_missing_file(folder: Path) -> None:
    (folder / "network.bin").unlink()
    refused(folder, r"network\.bin is missing")


def test_file_above_the_limit(folder: Path) -> None:
    refused(folder, "more than the limit of 1000", max_file=1000)


def test_links_pipes_and_folders_in_place_of_files(folder: Path, tmp_path: Path) -> None:
    original = folder / "network.bin"
    moved = original.rename(tmp_path / "elsewhere.bin")
    original.symlink_to(moved)
    refused(folder, "symbolic link")
    original.unlink()
    os.mkfifo(original)
    refused(folder, "not a plain file")  # and does not wait for a writer
    original.unlink()
    original.mkdir()
    refused(folder, "not a plain file")
    manifest = (folder / "manifest.json").rename(tmp_path / "manifest.json")
    (folder / "manifest.json").symlink_to(manifest)
    refused(folder, r"manifest\.json is a symbolic link")


def test_a_file_that_changes_after_the_check_is_not_used(folder: Path) -> None:
    bundle = open_bundle(folder, UNSIGNED)
    content = bytearray((folder / "network.bin").read_bytes())
    content[0] ^= 1
    (folder / "network.bin").write_bytes(content)
    with pytest.raises(BundleError, match="checksum"):
        bundle.read("network.bin")
    (folder / "network.bin").write_bytes(content * 2)
    with pytest.raises(BundleError, match="bytes instead of"):
        bundle.read("network.bin")
    with pytest.raises(BundleError, match="not among the manifest's files"):
        bundle.read("manifest.json")


def npy(array: NDArray[np.generic], *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def lying_header() -> bytes:
    """A header that speaks of 10^15 windows before a few bytes: nothing may be allocated by its word."""
    sound = npy(np.zeros((1, 12, 2500), np.float32))
    return sound.replace(b"(1, 12, 2500), }              ", b"(1000000000000000, 12, 2500), }")[:200]


GOLDEN_FAULTS = {
    "empty": (b"", r"not a NumPy"),
    "cut": (npy(np.zeros((1, 12, 2500), np.float32))[:-4], "more or fewer"),
    "longer": (npy(np.zeros((1, 12, 2500), np.float32)) + b"\0", "more or fewer"),
    "no windows": (npy(np.zeros((0, 12, 2500), np.float32)), "instead of float32"),
    "eleven leads": (npy(np.zeros((5, 11, 2500), np.float32)), "instead of float32"),
    "other rate": (npy(np.zeros((5, 12, 5000), np.float32)), "instead of float32"),
    "one axis": (npy(np.zeros(5, np.float32)), "instead of float32"),
    "float64": (npy(np.zeros((5, 12, 2500))), "instead of float32"),
    "big endian": (npy(np.zeros((5, 12, 2500), ">f4")), "instead of float32"),
    "fortran order": (npy(np.zeros((2500, 12, 5), np.float32).T), "instead of float32"),
    "pickle": (npy(np.array([{"a": 1}]), pickled=True), "instead of float32"),
    "nan": (npy(np.full((5, 12, 2500), np.nan, np.float32)), "not finite"),
    "other count": (npy(np.zeros((4, 12, 2500), np.float32)), "4 golden windows but 5"),
    "lying header": (lying_header(), "more or fewer|not a NumPy"),
}


@pytest.mark.parametrize("fault", GOLDEN_FAULTS)
def test_golden_windows_that_are_none(folder: Path, rewrite: Rewrite, fault: str) -> None:
    content, match = GOLDEN_FAULTS[fault]
    (folder / "golden_windows.npy").write_bytes(content)
    rewrite(folder)
    refused(folder, match)


def test_golden_answers_that_are_no_probabilities(folder: Path, rewrite: Rewrite) -> None:
    np.save(folder / "golden_probabilities.npy", np.full((5, 3), 1.5, np.float32))
    rewrite(folder)
    refused(folder, "not probabilities")
    np.save(folder / "golden_probabilities.npy", np.full((5, 4), 0.5, np.float32))
    rewrite(folder)
    refused(folder, r"instead of float32 \(k, 3\)")


def test_the_shipped_bundle_is_trusted_where_it_ships_and_nowhere_else(tmp_path: Path) -> None:
    bundle = open_bundle(default_bundle())
    assert len(bundle.manifest.labels) == 77
    assert bundle.manifest.engines[0].flavour == "openvino"
    assert bundle.signer == key_id(load_public_key(default_bundle().parent / "demo.pem"))
    assert not bundle.warning
    copy = Path(shutil.copytree(default_bundle(), tmp_path / "copy"))
    with pytest.raises(BundleError, match=f"signed by key {bundle.signer}, which is not trusted here"):
        open_bundle(copy)
    assert open_bundle(copy, Trust.of([default_bundle().parent / "demo.pem"])).sha256 == bundle.sha256


def test_a_revocation_reaches_the_shipped_bundle_too() -> None:
    bundle = open_bundle(default_bundle())
    for revoked in (bundle.signer, bundle.sha256):
        for required in (True, False):
            with pytest.raises(BundleError, match="revoked here"):
                open_bundle(default_bundle(), Trust.of([], [revoked], require_signature=required))


def test_without_a_signature_only_where_none_is_required(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle small is not signed; .*require_signature = false\.$"):
        open_bundle(folder)
    bundle = open_bundle(folder, UNSIGNED)
    assert not bundle.signer
    assert "is not signed" in bundle.warning


def test_no_word_of_a_manifest_is_read_before_its_signature(folder: Path) -> None:
    (folder / "manifest.json").write_text("{ this is no JSON")
    with pytest.raises(BundleError, match="is not signed"):
        open_bundle(folder)
    key = Ed25519PrivateKey.generate()
    (folder / "manifest.sig").write_bytes(sign((folder / "manifest.json").read_bytes(), key))
    with pytest.raises(BundleError, match=r"manifest\.json: line 1"):
        open_bundle(folder, Trust().trusting(key.public_key()))


def test_golden_answers_of_a_quantity_are_any_numbers(folder: Path, rewrite: Rewrite) -> None:
    answers = np.full((5, 3), 0.5, np.float32)
    answers[0, 1] = 1.5
    np.save(folder / "golden_probabilities.npy", answers)
    rewrite(folder, lambda d: d["labels"][1].update(quantity={"unit": "%", "scale": 100.0}))
    assert open_bundle(folder, UNSIGNED).golden_probabilities.max() == 1.5
    rewrite(folder, lambda d: d["labels"][0].update(quantity=d["labels"][1].pop("quantity")))
    refused(folder, "not probabilities")
