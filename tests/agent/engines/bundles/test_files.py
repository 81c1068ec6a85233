"""The state directory under crashes, two processes and other users: always the old or the new, never half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.engines.bundles.bundle import BundleError
from agent.engines.bundles.files import exchange, incoming, locked, owned, write_atomic, write_new

HOLD = """
import sys, time
from pathlib import Path
from agent.engines.bundles.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_is_held_against_another_process_and_ends_with_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(BundleError, match=r"another process has been changing .* try again later\.$"):
            with locked(tmp_path, patience=0.1):
                pass
        other.send_signal(signal.SIGKILL)
    with locked(tmp_path, patience=1.0):
        pass


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def first() -> None:
        with locked(tmp_path):
            inside.set()
            time.sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    with locked(tmp_path):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_state_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    owned(tmp_path / "a" / "state")
    with locked(tmp_path / "a" / "state"):
        assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700
    owned(tmp_path / "a" / "state")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be used"):
        with locked(tmp_path / "file" / "state"):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_another_user_s_state_directory_is_left_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 54321, 54321)
    with pytest.raises(BundleError, match=r"belongs to #54321; run this as that user: sudo -u"):
        owned(state)
    assert not list(state.iterdir())


def test_a_reader_sees_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "f"
    contents = {bytes([n]) * 100_000 for n in range(2)}
    write_atomic(path, min(contents))
    ended = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not ended.is_set():
            seen.add(path.read_bytes())

    thread = threading.Thread(target=read)
    thread.start()
    for n in range(50):
        write_atomic(path, bytes([n % 2]) * 100_000)
    ended.set()
    thread.join()
    assert seen <= contents
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_what_a_crash_left_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".f.new").write_text("half")
    write_atomic(tmp_path / "f", b"whole")
    assert (tmp_path / "f").read_bytes() == b"whole"
    (tmp_path / "bundles" / ".incoming" / "new").mkdir(parents=True)
    with incoming(tmp_path / "bundles") as place:
        assert not list(place.iterdir())
    assert not list((tmp_path / "bundles").iterdir())


def test_a_new_file_never_goes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "link", b"x")
    assert not (tmp_path / "target").exists()


def test_a_folder_takes_another_s_place(tmp_path: Path) -> None:
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    exchange(tmp_path / "new", tmp_path / "place", tmp_path / "old")
    assert (tmp_path / "place" / "f").read_text() == "new"
    assert (tmp_path / "old" / "f").read_text() == "place"
