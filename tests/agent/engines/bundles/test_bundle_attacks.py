"""What an attacker, or a bad copy, can do to a bundle: each thing done to a copy of the real one, each one sentence.

Three attackers: one who can write to the folder; one who writes the manifest too and has no trusted key; and one whose
manifest is signed (a publisher's mistake, or a stolen key), so that the checks behind the signature have to hold alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.engines.bundles.bundle import MAX_FILE, MAX_MANIFEST, BundleError, default_bundle, open_bundle
from agent.engines.bundles.signing import DERIVED, Trust, key_id, sign

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
THIEF = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TRUST = Trust().trusting(KEY.public_key())


@dataclass(frozen=True)
class Copy:
    """A signed copy of the demonstration bundle that an attacker may spoil."""

    path: Path

    def file(self, name: str) -> Path:
        return self.path / name

    def sign(self, key: Ed25519PrivateKey = KEY, domain: bytes | None = None) -> None:
        content = self.file("manifest.json").read_bytes()
        self.file("manifest.sig").write_bytes(sign(content, key) if domain is None else sign(content, key, domain))

    def write(self, content: bytes, key: Ed25519PrivateKey | None = KEY) -> None:
        self.file("manifest.json").write_bytes(content)
        if key is not None:
            self.sign(key)

    def change(self, edit: Callable[[dict[str, Any]], object], key: Ed25519PrivateKey | None = KEY) -> None:
        document = json.loads(self.file("manifest.json").read_text())
        edit(document)
        self.write(json.dumps(document).encode(), key)

    def replace(self, name: str, make: Callable[[Path], object]) -> None:
        self.file(name).unlink()
        make(self.file(name))


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = Copy(Path(shutil.copytree(default_bundle(), tmp_path_factory.mktemp("attacked") / "demo")))
    copy.sign()
    return copy.path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Copy:
    return Copy(Path(shutil.copytree(original, tmp_path / "demo")))


def refused(folder: Path, match: str, trust: Trust = TRUST) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        open_bundle(folder, trust)
    text = str(caught.value)
    assert text.endswith("."), text
    assert "\n" not in text and len(text) < 500


def entry(size: int = 1) -> dict[str, Any]:
    return {"sha256": "0" * 64, "size": size}


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def listen(path: Path) -> None:
    home = Path.cwd()
    os.chdir(path.parent)  # a socket's path may be no longer than 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(home)


def spoil(path: Path, place: int = 1000) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def raise_threshold(document: dict[str, Any]) -> None:
    next(label for label in document["labels"] if label["rule"])["rule"]["threshold"] = 0.999


def outside(c: Copy, name: str) -> Path:
    """The file's content, outside of the bundle."""
    return c.file(name).rename(c.path.parent / name)


WRITES_FILES: dict[str, tuple[Callable[[Copy], object], str]] = {
    "weights altered": (lambda c: spoil(c.file("model.bin")), r"model\.bin does not have the manifest's checksum"),
    "network altered": (lambda c: spoil(c.file("model.xml")), r"model\.xml does not have the manifest's checksum"),
    "self-test altered": (lambda c: spoil(c.file("golden_probabilities.npy")), "checksum"),
    "README altered": (lambda c: spoil(c.file("README.md")), "checksum"),
    "threshold raised": (lambda c: c.change(raise_threshold, None), "is not what key .* signed"),
    "one space more": (lambda c: c.write(c.file("manifest.json").read_bytes() + b" ", None), "is not what key"),
    "signature removed": (lambda c: c.file("manifest.sig").unlink(), "is not signed"),
    "signature empty": (lambda c: c.file("manifest.sig").write_bytes(b""), "signature of bundle demo is damaged"),
    "signature huge": (lambda c: sparse(c.file("manifest.sig"), 1 << 40), r"manifest\.sig is larger than"),
    "signature a link": (
        lambda c: c.file("manifest.sig").symlink_to(outside(c, "manifest.sig")),
        r"manifest\.sig is a symbolic link",
    ),
    "signature a dangling link": (
        lambda c: c.replace("manifest.sig", lambda p: p.symlink_to("nowhere")),
        r"manifest\.sig is a symbolic link",
    ),
    "signature a pipe": (lambda c: c.replace("manifest.sig", os.mkfifo), r"manifest\.sig is not a plain file"),
    "manifest missing": (lambda c: c.file("manifest.json").unlink(), r"manifest\.json is missing"),
    "manifest huge": (lambda c: sparse(c.file("manifest.json"), 1 << 40), r"manifest\.json is larger than"),
    "manifest a link": (
        lambda c: c.file("manifest.json").symlink_to(outside(c, "manifest.json")),
        r"manifest\.json is a symbolic link",
    ),
    "manifest a pipe": (lambda c: c.replace("manifest.json", os.mkfifo), r"manifest\.json is not a plain file"),
    "manifest a folder": (lambda c: c.replace("manifest.json", Path.mkdir), r"manifest\.json is not a plain file"),
    "file missing": (lambda c: c.file("model.bin").unlink(), r"model\.bin is missing"),
    "file emptied": (lambda c: c.file("model.bin").write_bytes(b""), r"model\.bin has 0 bytes instead of 5499976"),
    "file cut": (lambda c: os.truncate(c.file("model.bin"), 5_000_000), "5000000 bytes instead of"),
    "file sparse and huge": (lambda c: sparse(c.file("model.bin"), 1 << 40), f"{1 << 40} bytes instead of"),
    "file a link": (lambda c: c.file("model.bin").symlink_to(outside(c, "model.bin")), "model.bin is a symbolic link"),
    "file a link within": (
        lambda c: c.file("model.bin").symlink_to(c.file("model.bin").rename(c.file("b.bin")).name),
        "is a symbolic link",
    ),
    "file a dangling link": (
        lambda c: c.replace("model.bin", lambda p: p.symlink_to("nowhere")),
        "model.bin is a symbolic link",
    ),
    "file a link to a folder": (
        lambda c: c.replace("model.bin", lambda p: p.symlink_to(c.path)),
        "model.bin is a symbolic link",
    ),
    "file a link to a device": (
        lambda c: c.replace("model.bin", lambda p: p.symlink_to("/dev/zero")),
        "model.bin is a symbolic link",
    ),
    "file a folder": (lambda c: c.replace("model.bin", Path.mkdir), "model.bin is not a plain file"),
    "file a pipe": (lambda c: c.replace("model.bin", os.mkfifo), "model.bin is not a plain file"),
    "file a socket": (lambda c: c.replace("model.bin", listen), "model.bin is not a plain file"),
}

WRITES_THE_MANIFEST: dict[str, tuple[Callable[[Copy], object], str]] = {
    "signed by a thief": (
        lambda c: c.change(raise_threshold, THIEF),
        f"signed by key {key_id(THIEF.public_key())}, which is not trusted here",
    ),
    "signed for another purpose": (lambda c: c.sign(KEY, DERIVED), "is not what key"),
    "signed as the trusted key": (
        lambda c: (
            c.sign(THIEF),
            c.file("manifest.sig").write_bytes(
                c.file("manifest.sig")
                .read_bytes()
                .replace(key_id(THIEF.public_key()).encode(), key_id(KEY.public_key()).encode())
            ),
        ),
        "is not what key",
    ),
}

SIGNED: dict[str, tuple[Callable[[Copy], object], str]] = {
    "unknown field": (lambda c: c.change(lambda d: d.update(run="rm -rf /")), r"manifest\.json: key 'run'"),
    "unknown field within": (lambda c: c.change(lambda d: d["golden"].update(x=1)), r"key 'golden\.x'"),
    "field missing": (lambda c: c.change(lambda d: d.pop("golden")), "key 'golden': field required"),
    "earlier schema": (lambda c: c.change(lambda d: d.update(schema_version=1)), "schema 1, .* compile it again"),
    "later schema": (lambda c: c.change(lambda d: d.update(schema_version=3)), "schema 3"),
    "JSON cut": (lambda c: c.write(c.file("manifest.json").read_bytes()[:5000]), r"manifest\.json: line \d+"),
    "JSON empty": (lambda c: c.write(b""), r"manifest\.json: line 1"),
    "JSON deep": (lambda c: c.write(b"[" * 1_000_000), "nested too deeply"),
    "JSON too large": (lambda c: c.write(b" " * (MAX_MANIFEST + 1)), "is larger than"),
    "JSON key twice": (
        lambda c: c.write(b'{"version": "9", ' + c.file("manifest.json").read_bytes().lstrip(b"{\n")),
        "key 'version' is there twice",
    ),
    "JSON NaN": (
        lambda c: c.change(lambda d: d["golden"].update(tolerance=float("nan"))),
        "NaN is no number of JSON",
    ),
    "JSON infinity": (
        lambda c: c.write(c.file("manifest.json").read_bytes().replace(b"0.0001", b"1e999")),
        r"golden\.tolerance",
    ),
    "JSON not UTF-8": (lambda c: c.write(c.file("manifest.json").read_text().encode("utf-16")), "is not UTF-8"),
    "JSON another type": (lambda c: c.change(lambda d: d["training"].update(patients="724")), r"training\.patients"),
    "JSON a list": (lambda c: c.write(b"[]"), "object"),
    "traversal": (lambda c: c.change(lambda d: d["files"].update({"../x": entry()})), "not a plain file name"),
    "traversal by engine": (
        lambda c: c.change(lambda d: d["engines"][0].update(files=["../../etc/passwd", "model.bin"])),
        "no checksum for ../../etc/passwd",
    ),
    "absolute path": (lambda c: c.change(lambda d: d["files"].update({"/etc/passwd": entry()})), "plain file name"),
    "backslashes": (lambda c: c.change(lambda d: d["files"].update({"..\\x": entry()})), "not a plain file name"),
    "zero byte": (lambda c: c.change(lambda d: d["files"].update({"a\0b": entry()})), "not a plain file name"),
    "control codes": (lambda c: c.change(lambda d: d["files"].update({"a\x1b[2J": entry()})), "not a plain file name"),
    "manifest as file": (lambda c: c.change(lambda d: d["files"].update({"manifest.json": entry()})), "the manifest's"),
    "names that differ in case": (
        lambda c: c.change(lambda d: d["files"].update({"MODEL.bin": d["files"]["model.bin"]})),
        "differ in case only",
    ),
    "too many files": (
        lambda c: c.change(lambda d: d["files"].update({f"f{i}": entry() for i in range(1000)})),
        "more than 256",
    ),
    "file of a terabyte": (
        lambda c: (c.change(lambda d: d["files"].update(x=entry(1 << 40))), sparse(c.file("x"), 1 << 40)),
        f"x claims {1 << 40} bytes, more than the limit of {MAX_FILE}",
    ),
    "files of 20 GB together": (
        lambda c: (
            c.change(lambda d: d["files"].update({f"f{i}": entry(MAX_FILE) for i in range(5)})),
            [sparse(c.file(f"f{i}"), MAX_FILE) for i in range(5)],
        ),
        "its files claim 214.* bytes, more than the limit",
    ),
    "golden windows of 65 MB": (
        lambda c: (
            sparse(c.file("golden_windows.npy"), 65 << 20),
            c.change(
                lambda d: d["files"].update(
                    {"golden_windows.npy": {"sha256": hashlib.sha256(bytes(65 << 20)).hexdigest(), "size": 65 << 20}}
                )
            ),
        ),
        r"golden_windows\.npy claims 68157440 bytes, more than",
    ),
    "alert without evidence": (
        lambda c: c.change(lambda d: next(label for label in d["labels"] if label["rule"]).update(evidence=None)),
        "has an alert rule but no evidence",
    ),
    "engine beyond the gate": (
        lambda c: c.change(lambda d: d["engines"][0]["parity"].update(probability_max=0.4)),
        "fails the bundle's own gate: probability_max is 0.4, above 0.1",
    ),
    "rate beyond measure": (
        lambda c: c.change(lambda d: d["input"]["preprocessing"].update(rate=1e308, seconds=1e308)),
        "key 'input': a window of 1e.308 s at 1e.308 Hz is none",
    ),
    "broken rate": (lambda c: c.change(lambda d: d["input"]["preprocessing"].update(rate=250.5)), "key 'input'"),
    "version for a path": (lambda c: c.change(lambda d: d.update(version="../../x")), "key 'version'"),
    "name for a path": (lambda c: c.change(lambda d: d.update(name="../x")), "key 'name'"),
}


def test_the_copy_is_good_before_anything_is_done_to_it(copy: Copy) -> None:
    bundle = open_bundle(copy.path, TRUST)
    assert bundle.signer == key_id(KEY.public_key())


@pytest.mark.parametrize("attack", WRITES_FILES | WRITES_THE_MANIFEST | SIGNED)
def test_an_attack_is_refused_in_one_sentence(copy: Copy, attack: str) -> None:
    attempt, said = (WRITES_FILES | WRITES_THE_MANIFEST | SIGNED)[attack]
    attempt(copy)
    refused(copy.path, said)


@pytest.mark.parametrize("attack", [*SIGNED, *(name for name in WRITES_FILES if "signature" not in name)])
def test_where_no_signature_is_required_the_other_checks_hold(copy: Copy, attack: str) -> None:
    attempt, said = (WRITES_FILES | SIGNED)[attack]
    attempt(copy)
    if "is not what key" in said:  # the signature's own affair
        assert said.split()[-1] in open_bundle(copy.path, Trust(TRUST.keys, require_signature=False)).warning
        return
    copy.file("manifest.sig").unlink()
    refused(copy.path, said, Trust(require_signature=False))


@pytest.mark.skipif(os.geteuid() != 0, reason="making a device needs root")
def test_a_device_in_place_of_a_file(copy: Copy) -> None:
    try:
        copy.replace("model.bin", lambda p: os.mknod(p, 0o20666, os.makedev(1, 5)))  # /dev/zero
    except PermissionError:
        pytest.skip("this container makes no devices")
    refused(copy.path, "model.bin is not a plain file|cannot be opened")


def test_a_file_that_changes_between_check_and_use(copy: Copy) -> None:
    bundle = open_bundle(copy.path, TRUST)
    sound = copy.file("model.bin").read_bytes()
    changes: tuple[tuple[Callable[[Path], object], str], ...] = (
        (spoil, "checksum"),
        (lambda p: p.write_bytes(sound + b"x"), "bytes instead of"),
        (lambda p: os.truncate(p, 10), "bytes instead of"),
        (lambda p: (p.unlink(), p.symlink_to("/dev/zero")), "symbolic link"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "not a plain file"),
        (Path.unlink, "is missing"),
    )
    for change, said in changes:
        change(copy.file("model.bin"))
        with pytest.raises(BundleError, match=said):
            bundle.read("model.bin")
        copy.file("model.bin").unlink(missing_ok=True)
        copy.file("model.bin").write_bytes(sound)
    assert bundle.read("model.bin") == sound


def test_a_folder_that_is_exchanged_between_check_and_use(copy: Copy, tmp_path: Path) -> None:
    bundle = open_bundle(copy.path, TRUST)
    copy.path.rename(tmp_path / "aside")
    other = Copy(Path(shutil.copytree(tmp_path / "aside", copy.path)))
    spoil(other.file("model.bin"))
    other.change(raise_threshold, THIEF)
    with pytest.raises(BundleError, match="checksum"):
        bundle.read("model.bin")
    assert bundle.manifest.labels != json.loads(other.file("manifest.json").read_text())["labels"]


def named(folder: Path) -> Iterator[Path]:
    yield folder / "manifest.json"
    yield folder / "manifest.sig"
    for name in sorted(json.loads((folder / "manifest.json").read_text())["files"]):
        yield folder / name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_anywhere_is_refused(original: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(named(original))))
    place, flip = data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(1, 255))
    with path.open("r+b") as file:
        file.seek(place)
        sound = file.read(1)
        file.seek(place)
        file.write(bytes([sound[0] ^ flip]))
    try:
        refused(original, "checksum|is not what key|damaged|not trusted")
    finally:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(sound)


def test_what_the_manifest_does_not_name_does_not_matter(copy: Copy) -> None:
    copy.file("notes.txt").write_text("of an administrator")
    copy.file("link").symlink_to("/etc/passwd")
    assert open_bundle(copy.path, TRUST).signer
    with pytest.raises(BundleError, match="not among the manifest's files"):
        open_bundle(copy.path, TRUST).read("notes.txt")
