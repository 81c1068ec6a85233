"""``deepecg-agent rebuild``: as a person runs it, as systemd does, and with nothing but the base installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from agent.cli import app
from agent.engines.bundles.bundle import default_bundle, open_bundle
from agent.engines.local.engines import read_derived
from agent.engines.local.record import REQUEST, Wanted, ask, read_record
from agent.engines.machine import this_machine

Publisher: TypeAlias = Any
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MutableMapping[str, Any]]]:
    """These commands run in the tests' own process, whose logging is not theirs to set."""
    with capture_logs() as said:
        yield said


def rebuild(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["rebuild", *map(str, arguments)])


@pytest.fixture
def config(publisher: Publisher, tmp_path: Path) -> Path:
    """The ward's bundle is served, and a further model's bundle is missing."""
    file = tmp_path / "agent.toml"
    file.write_text(
        f"""\
[agent]
state_dir = "{tmp_path / "state"}"
[engine]
bundle = "{publisher.write()}"
trusted_keys = ["{publisher.public}"]
[sources.hl7]
port = 0
[[models]]
bundle = "{tmp_path / "missing"}"
every = 10
"""
    )
    return file


def test_by_hand_what_is_worth_it_is_compiled_once(config: Path, tmp_path: Path) -> None:
    done = rebuild("--config", config)
    assert done.exit_code == 0, done.output
    assert "openvino-int8w for ward/1: this processor has no no_such_feature" in done.stderr
    assert "there is no bundle at" in done.stderr, "a further model that is missing is said"
    assert "over 10 golden windows" in done.stdout
    again = rebuild("--config", config)
    assert again.exit_code == 0
    assert "Nothing is to be compiled" in again.stdout
    (found,) = list((tmp_path / "state" / "engines").iterdir())
    assert found.name.startswith("openvino-int8w-")


def test_what_the_agent_asks_for_is_compiled_and_the_request_goes(config: Path, publisher: Publisher) -> None:
    state = config.parent / "state"
    nothing = rebuild("--config", config, "--requested")
    assert nothing.exit_code == 0
    assert not state.exists() or not list(state.glob("engines/*"))
    bundle = open_bundle(publisher.folder / "ward", publisher.settings().trust())
    wanted = [
        Wanted(parent=parent, model="ward/1", flavour="openvino", precision=precision, reason="asked")
        for parent, precision in ((bundle.sha256, "f16"), (bundle.sha256, "int8w"), ("1" * 64, "f32"))
    ]
    state.mkdir(exist_ok=True)
    assert ask(state, tuple(wanted))
    done = rebuild("--config", config, "--requested", "--json")
    assert done.exit_code == 2, "one of them failed, which a person should see"
    document = json.loads(done.stdout)
    assert [(one["engine"]["precision"], one["parent"]) for one in document["engines"]] == [("int8w", bundle.sha256)]
    assert document["problems"] == ["openvino f16 cannot be compiled here: openvino has no f16, only f32, bf16, int8w."]
    assert not (state / REQUEST).exists()
    assert [f.precision for f in read_record(state).failed] == ["f16"]

    assert ask(state, tuple(wanted[:1]))
    again = rebuild("--config", config, "--requested")
    assert again.exit_code == 0, "it has failed here before, and is not tried again"
    assert not (state / REQUEST).exists()


def test_a_request_that_cannot_be_read_goes_too(config: Path, logs: list[MutableMapping[str, Any]]) -> None:
    state = config.parent / "state"
    state.mkdir()
    (state / REQUEST).write_text("{")
    assert rebuild("--config", config, "--requested").exit_code == 0
    assert "rebuild_request_unreadable" in [entry["event"] for entry in logs]
    assert not (state / REQUEST).exists()


def test_one_sentence_for_what_cannot_be_done(config: Path, tmp_path: Path) -> None:
    unknown = rebuild("--config", config, "--precision", "int8w", "--model", "ssl")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert "no model that is served here is called ssl; there is ward." in unknown.stderr
    gpu = rebuild("--state", tmp_path / "other", "--flavour", "tensorrt-rtx")
    assert gpu.exit_code == 2
    assert "cannot be compiled here" in gpu.stderr
    assert gpu.stderr.count("deepecg-agent:") == 1


ALONE = """
import sys

class Missing:
    NAMES = {"torch", "training", "onnx", "torch_tensorrt", "wfdb", "pandas", "h5py", "tensorrt"}

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in self.NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())

import os, signal

def audit(event, arguments):
    network = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"}
    if event in network or (event == "open" and "shared/data" in str(arguments[0])):
        os.write(2, f"not allowed: {event} {arguments}\\n".encode())
        os.killpg(0, signal.SIGABRT)  # whatever thread or child it is, and whatever that would make of an exception

sys.addaudithook(audit)
from agent.cli import app
app()
"""


def test_it_needs_neither_torch_nor_training_nor_network_nor_data(tmp_path: Path) -> None:
    """On the bundle that comes with the package, for real: bf16 where this processor has it."""
    here = this_machine()
    precision = "bf16" if "avx512_bf16" in here.cpu_features else "f32"
    command = ["rebuild", "--state", tmp_path, "--flavour", "openvino", "--precision", precision, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != "CI"},  # where some libraries behave
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["engines"]
    assert (found["engine"]["flavour"], found["engine"]["precision"]) == ("openvino", precision)
    bundle = open_bundle(default_bundle())
    (derived,) = read_derived(tmp_path, bundle.sha256, here)
    parity = derived.derived.engine.parity
    assert parity.windows == 2 * len(bundle.golden_windows)
    assert bundle.manifest.limits.broken_by(parity) == ""
    assert (tmp_path / "machine.key").stat().st_mode & 0o077 == 0
