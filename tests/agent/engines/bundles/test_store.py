"""The store: what is installed, what is served, and that neither an old bundle nor a crash gets in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from agent.engines.bundles import store as module
from agent.engines.bundles.bundle import BundleError, default_bundle
from agent.engines.bundles.signing import key_id, sign, write_public_key
from agent.engines.bundles.store import State, Store
from agent.engines.settings import EngineSettings

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
Make = Callable[..., Path]


@pytest.fixture
def make(built: Path, tmp_path: Path) -> Make:
    """A signed bundle of this version."""

    def bundle(version: str = "1.0", *, key: Ed25519PrivateKey | None = KEY, **changes: Any) -> Path:
        folder = tmp_path / "offered" / f"{version}-{len(changes)}"
        shutil.copytree(built, folder)
        document = json.loads((folder / "manifest.json").read_text()) | {"version": version} | changes
        content = json.dumps(document).encode()
        (folder / "manifest.json").write_bytes(content)
        if key is not None:
            (folder / "manifest.sig").write_bytes(sign(content, key))
        return folder

    return bundle


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    write_public_key(tmp_path / "publisher.pub", KEY.public_key())
    return tmp_path / "publisher.pub"


@pytest.fixture
def store(tmp_path: Path, trusted: Path) -> Store:
    return Store(tmp_path / "state", EngineSettings(trusted_keys=(trusted,)))


def but(store: Store, **changes: Any) -> Store:
    return Store(store.state_dir, store.settings.model_copy(update=changes))


def refused(match: str, call: Callable[[], object]) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        call()
    text = str(caught.value)
    assert text.endswith((".", "…")) and "\n" not in text and len(text) < 600


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# What is served


def test_without_a_choice_the_demonstration_is_served(store: Store) -> None:
    assert store.open().path == default_bundle()
    assert store.installed() == []
    assert not store.state_dir.exists()  # looking makes nothing


def test_what_was_activated_is_served(store: Store, make: Make) -> None:
    installed = store.install(make(), "because")
    assert store.open().path == default_bundle(), "not before it is activated"
    store.activate("small/1.0")
    served = store.open()
    assert served.path == installed.path == store.state_dir / "bundles" / "small" / f"1.0-{served.sha256[:8]}"
    assert served.signer == key_id(KEY.public_key())
    assert [(e.action, e.reason) for e in store.state().history] == [("install", "because"), ("activate", "")]


def test_a_configured_folder_goes_before_what_was_activated(store: Store, make: Make) -> None:
    store.install(make("1.0"))
    store.activate("small")
    folder = make("1.1")
    assert but(store, bundle=folder).open().path == folder.resolve()


def test_an_active_bundle_that_changed_is_refused_with_the_way_back(store: Store, make: Make) -> None:
    place = store.install(make()).path
    store.activate("small")
    before = (place / "manifest.json").read_bytes()
    content = before.replace(b"random weights", b"better weights")
    (place / "manifest.json").write_bytes(content)
    refused("is not what key", store.open)
    (place / "manifest.sig").write_bytes(sign(content, KEY))
    refused("is not the bundle that was activated; install it again", store.open)
    (place / "manifest.json").write_bytes(before)
    (place / "manifest.sig").write_bytes(sign(before, KEY))
    assert store.open()
    shutil.rmtree(place)
    refused("there is no bundle at", store.open)


def test_a_bundle_that_nobody_vouches_for_is_served_only_on_demand_and_said_each_time(store: Store, make: Make) -> None:
    folder = make(key=None)
    refused("is not signed", but(store, bundle=folder).open)
    lax = but(store, bundle=folder, require_signature=False)
    for _ in range(2):
        with capture_logs() as logs:
            assert not lax.open().signer
        assert [(log["log_level"], log["event"]) for log in logs] == [("warning", "bundle_not_authenticated")]
        assert "is not signed" in logs[0]["reason"]
    with capture_logs() as logs:
        assert but(store, bundle=make("1.1")).open().signer
    assert not logs


def test_a_revocation_stops_what_was_active(store: Store, make: Make) -> None:
    store.install(make("1.0"))
    store.activate("small")
    store.install(make("1.1"))
    bundle = store.activate("small/1.1")
    by_content, by_key = but(store, revoked=(bundle.sha256,)), but(store, revoked=(bundle.signer,))
    refused("is revoked here", by_content.open)
    assert by_content.rollback().manifest.version == "1.0"
    refused("is revoked here", by_key.open)
    refused("is revoked here", lambda: by_key.install(make("1.2")))
    refused("is revoked here", lambda: by_content.activate("small/1.1"))


def test_a_trusted_key_that_is_none(store: Store, tmp_path: Path) -> None:
    refused(r"engine\.trusted_keys: .* cannot be opened", but(store, trusted_keys=(tmp_path / "none",)).open)


# Installing


def test_a_folder_and_its_archives_install_the_same(store: Store, make: Make, tmp_path: Path) -> None:
    folder = make()
    (folder / "notes.txt").write_text("not of the manifest")
    for name, mode in (("b.tar", "w"), ("b.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
            tar.add(folder, "small-1.0")
    places = [store.install(source).path for source in (folder, tmp_path / "b.tar", tmp_path / "b.tar.gz")]
    assert len(set(places)) == 1, "the same bundle again is no other"
    names = {*json.loads((folder / "manifest.json").read_text())["files"], "manifest.json", "manifest.sig"}
    assert {p.name for p in places[0].iterdir()} == names
    assert {p.name for p in store.state_dir.iterdir()} == {"bundles", "bundles.json", "state.lock"}
    assert {p.name for p in (store.state_dir / "bundles").iterdir()} == {"small"}


def test_nothing_of_a_refused_bundle_stays(store: Store, make: Make, tmp_path: Path) -> None:
    store.install(make("1.0"))
    before = everything(store.state_dir)
    spoilt = make("1.1")
    (spoilt / "network.bin").write_bytes(b"x")
    stranger = make("1.2", key=Ed25519PrivateKey.generate())
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../outside"))
    refused("bytes instead of", lambda: store.install(spoilt))
    refused("not trusted here", lambda: store.install(stranger))
    refused("leads out of the archive", lambda: store.install(tmp_path / "evil.tar"))
    refused("cannot be opened", lambda: store.install(tmp_path / "absent"))
    refused("not trusted here", lambda: store.install(default_bundle()))  # the package's key is for the package
    assert everything(store.state_dir) == before


def test_a_damaged_copy_is_replaced_by_installing_again(store: Store, make: Make) -> None:
    folder = make()
    place = store.install(folder).path
    (place / "network.bin").write_bytes(b"damaged")
    (place / "more").mkdir()
    assert store.install(folder).path == place
    assert (place / "network.bin").read_bytes() == (folder / "network.bin").read_bytes()
    assert not (place / "more").exists()


def test_a_file_that_changes_while_it_is_copied_is_noticed(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make()
    check = module.check_file

    def slow(path: Path, name: str, *more: Any) -> None:
        if path == folder.resolve() and name == "network.bin":
            with (path / name).open("r+b") as file:
                file.write(b"changed")
        check(path, name, *more)

    monkeypatch.setattr(module, "check_file", slow)
    refused(r"network\.bin does not have the manifest's checksum", lambda: store.install(folder))
    assert store.installed() == []


def test_no_room(store: Store, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: full)
    refused("make room there", lambda: store.install(make()))
    assert store.installed() == []


# Older versions


@pytest.mark.parametrize(
    ("high", "low"),
    [("1.1", "1.0"), ("1.10", "1.9"), ("2.0", "1.99.99"), ("1.0", "1.0rc1"), ("1.0rc2", "1.0rc1"), ("1.0.1", "1.0")],
)
def test_an_older_bundle_is_refused_though_well_signed(store: Store, make: Make, high: str, low: str) -> None:
    old = make(low)
    store.install(old)
    store.install(make(high))
    store.activate(f"small/{high}")
    said = f"small/{low} is older than {high}, which was served here; .*allow_downgrade"
    refused(said, lambda: store.install(old))
    refused(said, lambda: store.activate(f"small/{low}"))
    refused(said, but(store, bundle=old).open)
    lax = but(store, allow_downgrade=True)
    assert lax.activate(f"small/{low}").manifest.version == low
    assert store.open().manifest.version == low, "it was chosen"
    assert store.state().highest == {"small": high}, "and is not forgotten"


def test_another_name_has_versions_of_its_own(store: Store, make: Make) -> None:
    store.install(make("2.0"))
    store.activate("small")
    store.install(make("1.0", name="other"))
    assert store.activate("other").manifest.name == "other"
    assert store.state().highest == {"small": "2.0", "other": "1.0"}


def test_what_a_fixed_folder_served_counts_too(store: Store, make: Make) -> None:
    new, old = but(store, bundle=make("1.1")), but(store, bundle=make("1.0"))
    new.served(new.open())
    assert store.state().highest == {"small": "1.1"}
    refused("older than 1.1", old.open)
    written = (store.state_dir / "bundles.json").stat().st_mtime_ns
    new.served(new.open())
    assert (store.state_dir / "bundles.json").stat().st_mtime_ns == written, "nothing new to remember"


def test_the_package_may_be_older_than_it_was(store: Store) -> None:
    store.served(store.open())
    assert not store.state_dir.exists()
    store.update(lambda state: state.model_copy(update={"highest": {"deepecg-sl-demo": "99.0"}}))
    assert store.open().path == default_bundle()


# Activating and rolling back


def test_back_to_what_was_served_before_and_not_forth_again(store: Store, make: Make) -> None:
    for version in ("1.0", "1.1"):
        store.install(make(version))
        store.activate(f"small/{version}")
    assert store.rollback("too many alerts").manifest.version == "1.0"
    assert store.open().manifest.version == "1.0"
    assert [(e.action, e.reason) for e in store.state().history][-1] == ("rollback", "too many alerts")
    refused("no bundle to roll back to", store.rollback)
    assert store.activate("small/1.1").manifest.version == "1.1", "by name it is still allowed"
    assert store.rollback().manifest.version == "1.0"


def test_activating_the_active_keeps_the_way_back(store: Store, make: Make) -> None:
    for version in ("1.0", "1.1"):
        store.install(make(version))
        store.activate(f"small/{version}")
    store.activate("small/1.1")
    assert store.rollback().manifest.version == "1.0"


def test_a_damaged_bundle_is_not_rolled_back_to(store: Store, make: Make) -> None:
    first = store.install(make("1.0"))
    store.activate("small")
    store.install(make("1.1"))
    store.activate("small/1.1")
    (first.path / "network.bin").unlink()
    refused(r"network\.bin is missing", store.rollback)
    assert store.open().manifest.version == "1.1"


def test_a_bundle_is_found_by_what_is_clear(store: Store, make: Make) -> None:
    one = store.install(make("1.0"))
    store.install(make("1.0", statement="The same version, compiled again."))
    store.install(make("1.1"))
    refused("no installed bundle is called none; installed: small/1.0-", lambda: store.find("none"))
    refused(r"small may be small/1\.0-\w+ or small/1\.0-\w+ or small/1\.1-\w+; name one", lambda: store.find("small"))
    refused(r"small/1\.0 may be", lambda: store.find("small/1.0"))
    assert store.find("small/1.1").key.startswith("small/1.1-")
    assert store.find(f"small/1.0-{one.sha256[:8]}").path == one.path
    refused("no installed bundle", lambda: store.find("../../etc"))


def test_bundles_are_listed_by_version_and_with_what_is_wrong_with_them(store: Store, make: Make) -> None:
    for version in ("1.10", "1.9", "1.10rc1"):
        store.install(make(version))
    damaged = store.install(make("1.11")).path
    (damaged / "manifest.json").write_bytes(b"{}")
    moved = store.install(make("1.12")).path
    moved.rename(moved.with_name("9.9-00000000"))
    (store.state_dir / "bundles" / "small" / "README").write_text("an administrator's")
    known = {one.key: one for one in store.installed()}
    good = [one.signed.manifest.version for one in known.values() if one.signed is not None]
    assert good == ["1.9", "1.10rc1", "1.10"]
    assert "is not what key" in known[f"small/{damaged.name}"].problem
    assert "small/9.9-00000000 holds small/1.12-" in known["small/9.9-00000000"].problem
    refused("holds small/1.12", lambda: store.activate("small/9.9"))
    refused("is not what key", lambda: store.activate(f"small/{damaged.name}"))


# The state


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1"),
        (b"{", "line 1"),
        (b'{"schema_version": 2}', "of schema 2"),
        (b'{"x": 1}', "key 'x'"),
        (b'{"active": {"key": "../../evil/1-00000000", "sha256": "' + b"0" * 64 + b'"}}', "active.key"),
        (b'{"highest": {"small": "latest"}}', "highest.small"),
        (b" " * (2 << 20), "larger than"),
    ],
)
def test_a_damaged_state_is_one_sentence(store: Store, make: Make, content: bytes, said: str) -> None:
    store.state_dir.mkdir()
    (store.state_dir / "bundles.json").write_bytes(content)
    refused(said, store.open)
    refused(said, lambda: store.install(make()))


def test_the_history_does_not_grow_for_ever(store: Store, make: Make) -> None:
    folder = make()
    for _ in range(3):
        store.install(folder)
    many = store.state().history * 100
    store.update(lambda state: state.model_copy(update={"history": many}))
    store.install(folder)
    assert len(store.state().history) == 200


def test_state_is_written_and_read_the_same(store: Store, make: Make) -> None:
    store.install(make("1.0"), 'a "quoted"\nreason – é')
    store.activate("small")
    state = store.state()
    assert State.model_validate_json(state.model_dump_json()) == state


KILLED = """
import os, sys
from pathlib import Path
from agent.engines.bundles import store as module
from agent.engines.settings import EngineSettings
after = int(sys.argv[4])
calls = 0
real = os.fsync
def fsync(descriptor):  # the machine stops at the n-th time that something should reach the disk
    global calls
    calls += 1
    if calls > after:
        os._exit(9)
    real(descriptor)
os.fsync = module.fsync = fsync
module.Store(Path(sys.argv[1]), EngineSettings(trusted_keys=(Path(sys.argv[2]),))).install(Path(sys.argv[3]))
print(calls)
"""


def test_a_crash_at_any_moment_leaves_the_old_or_the_new(
    store: Store, make: Make, trusted: Path, tmp_path: Path
) -> None:
    store.install(make("1.0"))
    store.activate("small")
    offered = make("1.1")

    def install(after: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(store.state_dir), str(trusted), str(offered), str(after)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    after, ended = 0, False
    while not ended:
        done = install(after)
        ended = done.returncode == 0
        assert ended or done.returncode == 9, done.stderr
        assert store.open().manifest.version == "1.0"
        assert all(not one.problem for one in store.installed())
        for one in store.installed():
            assert store.open_installed(one.key)
        after += 3
    assert after > 6
    assert store.open_installed("small/1.1")
    assert [p.name for p in (store.state_dir / "bundles").iterdir()] == ["small"]


def test_two_processes_install_at_the_same_time(store: Store, make: Make, trusted: Path) -> None:
    offered = [make(version) for version in ("1.0", "1.1", "1.2")]
    code = KILLED.replace("> after", "> 10**9")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(store.state_dir), str(trusted), str(folder), "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in offered
    ]
    assert [(p.communicate(timeout=120)[1], p.returncode) for p in running] == [("", 0)] * 3
    assert len(store.installed()) == len(store.state().history) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_another_user_s_store_is_read_and_not_changed(store: Store, make: Make) -> None:
    store.install(make("1.0"))
    store.activate("small")
    os.chown(store.state_dir, 54321, 54321)
    assert store.open().manifest.name == "small"
    for change in (lambda: store.activate("small"), store.rollback, lambda: store.install(make("1.1"))):
        refused("belongs to #54321; run this as that user", change)


def test_a_state_directory_that_is_none(tmp_path: Path, make: Make) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file", EngineSettings())
    refused("the state directory .* cannot be read", store.open)
    refused("the state directory .* cannot be used", lambda: store.update(lambda state: state))
