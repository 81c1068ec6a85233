"""Derived engines: signed here, read here, and refused wherever anything about them is not from here."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.core.bundle.derived import Machine
from agent.core.bundle.limits import Parity
from agent.core.bundle.manifest import Engine, Target
from agent.core.preprocessing import prepare
from agent.engines.bundles.bundle import Bundle, BundleError
from agent.engines.bundles.signing import BUNDLE, DERIVED, sign
from agent.engines.local.engines import DerivedEngine, machine_key, open_derived, read_derived, write_derived
from agent.engines.machine import this_machine
from agent.engines.select import open_backend
from agent.engines.settings import EngineSettings


@pytest.fixture(scope="module")
def here() -> Machine:
    return this_machine()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def engine(**changes: Any) -> Engine:
    fields: dict[str, Any] = {
        "flavour": "openvino",
        "precision": "f32",
        "library": "openvino",
        "files": ("again.xml", "again.bin"),
        "target": Target(kind="cpu"),
        "parity": Parity(windows=5, probability_max=1e-6),
    }
    return Engine(**(fields | changes))


def write(state: Path, bundle: Bundle, here: Machine, **changes: Any) -> DerivedEngine:
    """The bundle's own engine under another name: as good as compiled again."""
    files = {"again.xml": bundle.read("network.xml"), "again.bin": bundle.read("network.bin")}
    return write_derived(state, bundle, engine(**changes), here, files)


def test_what_was_written_is_read_and_serves(state: Path, bundle: Bundle, here: Machine) -> None:
    written = write(state, bundle, here)
    (read,) = read_derived(state, bundle.sha256, here)
    assert read == written
    assert read.path.parent == state / "engines"
    assert read.derived.parent == bundle.sha256
    derived = read.bundle(bundle)
    assert derived.manifest.labels == bundle.manifest.labels
    with open_backend(derived, EngineSettings()) as backend:  # the golden windows are the parent's
        p = bundle.manifest.input.preprocessing
        found = backend.infer(prepare(bundle.golden_windows, p.rate, p))
    np.testing.assert_allclose(found, bundle.golden_probabilities, atol=1e-5)


def test_several_are_read_newest_first_and_others_parents_passed_over(
    state: Path, bundle: Bundle, here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write(state, bundle, here)
    two = write(state, bundle, here, precision="int8w")
    with capture_logs() as logs:
        assert {e.path for e in read_derived(state, bundle.sha256, here)} == {one.path, two.path}
        assert read_derived(state, "0" * 64, here) == []
    assert not logs
    with pytest.raises(BundleError, match="compiled from another bundle; rebuild"):
        open_derived(one.path, "0" * 64, here, machine_key(state).public_key())


def test_an_engine_serves_only_its_parent(state: Path, bundle: Bundle, here: Machine) -> None:
    written = write(state, bundle, here)
    other = Bundle(
        bundle.path, bundle.manifest, bundle.golden_windows, bundle.golden_probabilities, "1" * 64, bundle.signer, ""
    )
    with pytest.raises(BundleError, match="from another bundle; rebuild it from this one"):
        written.bundle(other)


def test_nothing_where_nothing_was_ever_built(state: Path, bundle: Bundle, here: Machine) -> None:
    assert read_derived(state, bundle.sha256, here) == []
    assert not state.exists()


def rewrite(folder: Path, key: Ed25519PrivateKey | None, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "derived.json").read_text())
    change(document)
    content = json.dumps(document).encode()
    (folder / "derived.json").write_bytes(content)
    if key is not None:
        (folder / "derived.sig").write_bytes(sign(content, key, DERIVED))


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
ATTACKS: dict[str, tuple[Callable[[Path, Ed25519PrivateKey], object], str]] = {
    "unsigned": (lambda f, _: (f / "derived.sig").unlink(), "is not signed by this machine"),
    "altered": (lambda f, _: rewrite(f, None, lambda d: d.update(builder="9")), "changed or damaged"),
    "engine altered": (lambda f, _: spoil(f / "again.bin"), r"again\.bin does not have the manifest's checksum"),
    "engine cut": (lambda f, _: os.truncate(f / "again.bin", 10), "10 bytes instead of"),
    "engine gone": (lambda f, _: (f / "again.bin").unlink(), r"again\.bin is missing"),
    "engine a link": (
        lambda f, _: (f / "again.bin").symlink_to((f / "again.bin").rename(f.parent / ".elsewhere")),
        "is a symbolic link",
    ),
    "another machine's key": (
        lambda f, _: rewrite(f, OTHER_KEY, lambda d: None),
        "is signed by key .* instead of",
    ),
    "a bundle's signature": (
        lambda f, k: (f / "derived.sig").write_bytes(sign((f / "derived.json").read_bytes(), k, BUNDLE)),
        "changed or damaged",
    ),
    "another CPU": (
        lambda f, k: rewrite(f, k, lambda d: d["machine"].update(cpu="Xeon")),
        "compiled on another machine: the CPU is .* instead of Xeon; rebuild it",
    ),
    "another library": (
        lambda f, k: rewrite(f, k, lambda d: d["machine"]["libraries"].update(openvino="2025.0")),
        r"openvino is .* instead of 2025\.0; rebuild it",
    ),
    "another GPU": (
        lambda f, k: rewrite(
            f, k, lambda d: (d["engine"]["target"].update(kind="any"), d["machine"].update(gpu="NVIDIA L4"))
        ),
        "the GPU is .* instead of NVIDIA L4; rebuild it",
    ),
    "unknown field": (lambda f, k: rewrite(f, k, lambda d: d.update(x=1)), "key 'x'.*; rebuild it"),
    "traversal": (
        lambda f, k: rewrite(f, k, lambda d: d["files"].update({"../x": d["files"]["again.bin"]})),
        "not a plain file name; .* rebuild it",
    ),
    "huge": (lambda f, k: rewrite(f, k, lambda d: d["files"]["again.bin"].update(size=1 << 50)), "more than the limit"),
    "manifest gone": (lambda f, _: (f / "derived.json").unlink(), r"derived\.json is missing"),
    "manifest a pipe": (
        lambda f, _: ((f / "derived.json").unlink(), os.mkfifo(f / "derived.json")),
        "not a plain file",
    ),
    "a file in its place": (lambda f, _: (shutil.rmtree(f), f.write_text("")), "is not a folder"),
    "a link in its place": (lambda f, _: f.symlink_to(f.rename(f.parent / ".elsewhere")), "is not a folder"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_engine_that_is_not_from_here_is_refused_and_never_used(
    state: Path, bundle: Bundle, here: Machine, attack: str
) -> None:
    written = write(state, bundle, here)
    attempt, said = ATTACKS[attack]
    attempt(written.path, machine_key(state))
    with pytest.raises(BundleError, match=said) as caught:
        open_derived(written.path, bundle.sha256, here, machine_key(state).public_key())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 and str(caught.value).endswith(".")
    with capture_logs() as logs:
        assert read_derived(state, bundle.sha256, here) == []
    assert [entry["event"] for entry in logs] == ["derived_engine_refused"]
    assert logs[0]["reason"] == str(caught.value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_anywhere_is_refused(state: Path, bundle: Bundle, here: Machine, data: st.DataObject) -> None:
    shutil.rmtree(state / "engines", ignore_errors=True)
    written = write(state, bundle, here)
    path = written.path / data.draw(st.sampled_from(["derived.json", "derived.sig", "again.xml", "again.bin"]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with capture_logs():
        assert read_derived(state, bundle.sha256, here) == []


def test_an_engine_changed_after_the_check_is_not_used(state: Path, bundle: Bundle, here: Machine) -> None:
    derived = write(state, bundle, here).bundle(bundle)
    spoil(derived.path / "again.bin")
    with pytest.raises(BundleError, match="checksum"):
        derived.read("again.bin")


def test_an_engine_without_parity_or_file_is_not_written(state: Path, bundle: Bundle, here: Machine) -> None:
    with pytest.raises(ValueError, match="never held against the golden windows"):
        write(state, bundle, here, parity=Parity())
    with pytest.raises(ValueError, match=r"no checksum for more\.bin"):
        write(state, bundle, here, files=("again.xml", "more.bin"))
    with pytest.raises(BundleError, match=r"openvino f32 engine fails the gate of small/1: probability_max is 0\.3"):
        write(state, bundle, here, parity=Parity(windows=5, probability_max=0.3))
    assert not (state / "engines").exists()


def test_a_gate_that_the_machine_itself_vouches_past_holds(state: Path, bundle: Bundle, here: Machine) -> None:
    written = write(state, bundle, here)
    rewrite(written.path, machine_key(state), lambda d: d["engine"]["parity"].update(probability_max=0.3))
    (read,) = read_derived(state, bundle.sha256, here)
    with pytest.raises(BundleError, match="fails the gate of small/1"):
        read.bundle(bundle)


# The machine's key


def test_the_machine_s_key_is_made_once_and_for_its_owner(state: Path) -> None:
    key = machine_key(state)
    assert stat.S_IMODE((state / "machine.key").stat().st_mode) == 0o600
    assert machine_key(state).private_bytes_raw() == key.private_bytes_raw()
    assert {p.name for p in state.iterdir()} == {"machine.key", "state.lock"}


def test_two_processes_get_the_same_key(state: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from agent.engines.local.engines import machine_key; "
        "print(machine_key(Path(sys.argv[1])).public_key().public_bytes_raw().hex())"
    )
    command = [sys.executable, "-c", code, str(state)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate(timeout=120)[0] for process in running}) == 1


def test_a_key_that_cannot_be_used_costs_the_engines_and_not_the_agent(
    state: Path, bundle: Bundle, here: Machine
) -> None:
    write(state, bundle, here)
    (state / "machine.key").chmod(0o644)
    with pytest.raises(BundleError, match=r"can be read by others .* or delete it and rebuild"):
        machine_key(state)
    with capture_logs() as logs:
        assert read_derived(state, bundle.sha256, here) == []
    assert "can be read by others" in logs[0]["reason"]
    (state / "machine.key").chmod(0o600)
    (state / "machine.key").write_text("no key")
    with pytest.raises(BundleError, match="no private key"):
        machine_key(state)
    (state / "machine.key").unlink()
    machine_key(state)  # another one, which did not sign them
    with capture_logs() as logs:
        assert read_derived(state, bundle.sha256, here) == []
    assert "is signed by key" in logs[0]["reason"]
