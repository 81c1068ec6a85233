"""The unit files, judged by systemd itself, and their promises checked against the libraries that run under them."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.engines.local.record import REQUEST

UNITS = Path(__file__).resolve().parents[2] / "systemd"
SERVICE = UNITS / "deepecg-agent.service"
REBUILD, REBUILD_PATH = UNITS / "deepecg-rebuild.service", UNITS / "deepecg-rebuild.path"
GPU = UNITS / "deepecg-agent.service.d" / "gpu.conf"
LIMIT = 2.0


@pytest.fixture(autouse=True)
def _systemd(tool: Callable[[str], str]) -> None:
    tool("systemd-analyze")


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def _install(folder: Path, gpu: bool, service: Path = SERVICE) -> Path:
    unit = folder / service.name
    shutil.copy(service, unit)
    if gpu:
        (folder / f"{service.name}.d").mkdir()
        shutil.copy(GPU, folder / f"{service.name}.d" / GPU.name)
    return unit


def _settings(path: Path) -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


@pytest.mark.parametrize(("service", "least"), [(SERVICE, 0.5), (REBUILD, 0.1)], ids=["agent", "rebuild"])
@pytest.mark.parametrize("gpu", [False, True])
def test_exposure_is_at_most_two(tmp_path: Path, gpu: bool, service: Path, least: float) -> None:
    unit = _install(tmp_path, gpu, service)
    result = _analyze("security", "--offline=true", f"--threshold={LIMIT * 10:.0f}", str(unit))
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    assert result.returncode == 0, result.stdout + result.stderr
    assert match is not None
    assert least < float(match.group(1)) <= LIMIT
    assert ("char-nvidia-uvm" in text) == gpu, "the drop-in is read where it is there, and only there"


@pytest.mark.parametrize("service", [SERVICE, REBUILD], ids=["agent", "rebuild"])
@pytest.mark.parametrize("gpu", [False, True])
def test_verify_finds_nothing_wrong(tmp_path: Path, gpu: bool, service: Path) -> None:
    unit = _install(tmp_path, gpu, service)
    unit.write_text(unit.read_text().replace("/opt/deepecg/venv/bin/deepecg-agent", sys.executable))
    shutil.copy(REBUILD_PATH, tmp_path / REBUILD_PATH.name)
    units = [unit] if service is SERVICE else [unit, tmp_path / REBUILD_PATH.name]
    result = _analyze("verify", *map(str, units))
    ours = [line for line in result.stderr.splitlines() if "deepecg-" in line]
    assert not ours
    assert result.returncode == 0, result.stderr


def test_verify_would_find_a_wrong_key(tmp_path: Path) -> None:
    unit = _install(tmp_path, gpu=False)
    text = unit.read_text().replace("/opt/deepecg/venv/bin/deepecg-agent", sys.executable)
    unit.write_text(text.replace("ProtectClock=", "ProtectClocks="))
    assert "ProtectClocks" in _analyze("verify", str(unit)).stderr


def test_the_service_is_what_the_agent_expects() -> None:
    unit = _settings(SERVICE)
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["WatchdogSec"] == ["30"]
    assert unit["StateDirectory"] == ["deepecg"]
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["2"], "a configuration error must not be retried"
    assert unit["ExecStart"] == ["/opt/deepecg/venv/bin/deepecg-agent run --config /etc/deepecg/agent.toml"]
    assert "MemoryDenyWriteExecute" not in unit, "OpenVINO compiles its kernels into memory"


def test_a_request_of_the_agent_starts_the_compiler() -> None:
    path, service, agent = _settings(REBUILD_PATH), _settings(REBUILD), _settings(SERVICE)
    assert path["PathExists"] == [f"/var/lib/{agent['StateDirectory'][0]}/{REQUEST}"]
    assert path["Unit"] == [REBUILD.name]
    assert service["Type"] == ["oneshot"]
    command = service["ExecStart"][0].split()
    assert command[0] == agent["ExecStart"][0].split()[0]
    assert command[1:] == ["rebuild", "--requested", *agent["ExecStart"][0].split()[2:]]


def test_the_compiler_may_do_no_more_than_the_agent_and_gets_less_of_the_machine() -> None:
    service, agent = _settings(REBUILD), _settings(SERVICE)
    own = {"Type", "ExecStart", "TimeoutStartSec", "OOMScoreAdjust", "RestrictAddressFamilies", "IPAddressDeny"}
    of_the_agent = {
        "NotifyAccess",
        "WatchdogSec",
        "Restart",
        "RestartSec",
        "RestartPreventExitStatus",
        "IPAddressAllow",
    }
    unit = {"Description", "Documentation", "StartLimitIntervalSec", "StartLimitBurst", "Wants", "After", "WantedBy"}
    for name in agent.keys() - own - of_the_agent - unit:
        assert service.get(name) == agent[name], name
    assert service["PrivateNetwork"] == ["yes"]
    assert service["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert int(service["Nice"][0]) == 19
    assert int(service["CPUWeight"][0]) < 100
    assert int(service["IOWeight"][0]) < 100
    assert {"MemoryMax", "MemoryHigh"} <= service.keys()
    assert int(service["OOMScoreAdjust"][0]) > int(agent["OOMScoreAdjust"][0])


def test_sysusers_makes_the_account(tmp_path: Path, tool: Callable[[str], str]) -> None:
    binary = tool("systemd-sysusers")
    (tmp_path / "etc").mkdir()
    folder = tmp_path / "usr" / "lib" / "sysusers.d"
    folder.mkdir(parents=True)
    shutil.copy(UNITS / "deepecg-agent.sysusers.conf", folder / "deepecg-agent.conf")
    subprocess.run([binary, f"--root={tmp_path}", "deepecg-agent.conf"], check=True, timeout=60)
    passwd = (tmp_path / "etc" / "passwd").read_text().splitlines()
    account = next(line for line in passwd if line.startswith("deepecg:"))
    assert account.split(":")[5:] == ["/var/lib/deepecg", "/usr/sbin/nologin"]
    assert _settings(SERVICE)["User"] == ["deepecg"]


# What the agent runs on, in one process: OpenVINO compiles and infers, SQLite commits durably, asyncio serves a socket.
WORK = """
import asyncio, pathlib, sqlite3, sys
import numpy as np, openvino as ov
from openvino import opset13 as op
x = op.parameter([-1, 12, 250], np.float32)
kernel = op.constant(np.ones((4, 12, 7), np.float32))
model = ov.Model([op.relu(op.convolution(x, kernel, [2], [3], [3], [1]))], [x])
compiled = ov.Core().compile_model(model, "CPU")
assert compiled(np.ones((2, 12, 250), np.float32))[0].shape == (2, 4, 125)
with sqlite3.connect(pathlib.Path(sys.argv[1]) / "outbox.db") as db:
    db.execute("pragma journal_mode=wal"); db.execute("pragma synchronous=full")
    db.execute("create table t (a)"); db.execute("insert into t values (1)")
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close(); server.close()
asyncio.run(main())
"""


def _system_calls(group: str) -> set[str]:
    calls: set[str] = set()
    for line in _analyze("syscall-filter", group).stdout.splitlines():
        name = re.sub(r"\x1b\[[0-9;]*m", "", line)
        if name.startswith(" ") and not name.strip().startswith("#"):
            entry = name.strip()
            calls |= _system_calls(entry) if entry.startswith("@") else {entry}
    return calls


def _allowed(service: Path) -> set[str]:
    allowed: set[str] = set()
    for value in _settings(service)["SystemCallFilter"]:
        for group in value.removeprefix("~").split():
            calls = _system_calls(group)
            assert calls, f"{group} is no group that systemd knows"
            allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def _calls(trace: Path) -> set[str]:
    return set(re.findall(r"^\d+ +([a-z_0-9]+)\(", trace.read_text(errors="replace"), re.MULTILINE))


def test_the_filter_allows_what_the_libraries_call(tmp_path: Path, tool: Callable[[str], str]) -> None:
    strace = tool("strace")
    trace = tmp_path / "trace"
    command = [strace, "-f", "-qq", "-o", str(trace), sys.executable, "-c", WORK, str(tmp_path)]
    subprocess.run(command, check=True, timeout=240)
    used = _calls(trace)
    assert {"mmap", "clone3", "fdatasync", "epoll_wait", "sched_setaffinity"} & used
    refused = used - _allowed(SERVICE) - {"fchown"}  # SQLite keeps a file's owner only where it runs as root
    assert not refused


def test_the_compiler_needs_no_more_than_its_filter_and_no_network(tmp_path: Path, tool: Callable[[str], str]) -> None:
    """The command itself, on the bundle that comes with the package."""
    trace, state = tmp_path / "trace", tmp_path / "state"
    rebuild = ["rebuild", "--state", str(state), "--flavour", "openvino", "--precision", "f32"]
    command = [tool("strace"), "-f", "-qq", "-o", str(trace), sys.executable, "-P", "-m", "agent.cli", *rebuild]
    subprocess.run(
        command, check=True, timeout=240, cwd=UNITS.parent, env=os.environ | {"PYTHONPATH": str(UNITS.parent)}
    )
    assert list(state.glob("engines/openvino-f32-*/derived.sig"))
    refused = _calls(trace) - _allowed(REBUILD)
    assert not refused
    assert not re.findall(r"socket\((?!AF_UNIX)\w+", trace.read_text(errors="replace"))


def test_gpu_dropin_only_loosens_what_the_gpu_needs() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(GPU)
    assert set(parser["Service"]) == {
        "ExecStartPre",
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProcSubset",
        "LimitMEMLOCK",
    }
