"""How long the two commands take to say something, and the agent to be ready: this tree beside another, in turns.

    python tests/benchmarks/bench_start.py                        # this tree alone
    python tests/benchmarks/bench_start.py --against OLD/TREE     # e.g. a git worktree of an earlier release

A start is read in three parts: the interpreter (about 15 ms), what is imported, and the engine's loading and self-test.
Of these only the imports and the engine are ours to shorten. Each figure is the wall time of a whole process; the
two trees take turns within each round, so that whatever else the machine does falls on both. ``ready`` is the time
until the service manager hears READY=1: an agent with an HL7 listener and the shipped bundle, on an empty state folder.

Beside the wall time stands the processor time of the process and its children up to that moment, which the machine's
other work touches less. Prints a table for people, and one line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parents[2]
HELP = {
    "deepecg-agent --help": ["-m", "agent.cli", "--help"],
    "deepecg-train --help": ["-m", "training.cli", "--help"],
    "deepecg-agent check-config": ["-m", "agent.cli", "check-config", "{config}"],
}
READY = "deepecg-agent run, to READY"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(tree: Path) -> dict[str, str]:
    found = {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
    found.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode beside it
    return found


def processor_seconds(pid: int) -> float:
    """What a living process has used so far: fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def command(tree: Path, words: list[str]) -> tuple[float, float]:
    """Seconds that a command takes to its end, on the clock and on the processor."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], env=environment(tree), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} of {tree} ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def ready(tree: Path, folder: Path) -> tuple[float, float]:
    """Seconds from the start of the process to READY=1, on the clock and on the processor."""
    config = folder / "agent.toml"
    config.write_text(
        f"[agent]\nstate_dir = {json.dumps(str(folder / 'state'))}\n"
        f"[sources.hl7]\nport = {free_port()}\n[station]\nport = {free_port()}\n"
    )
    (folder / "state").mkdir()
    path = folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        began = time.perf_counter()
        agent = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", "run", "--config", str(config)],
            env={**environment(tree), "NOTIFY_SOCKET": str(path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while True:
                if not select.select([manager], [], [], 60)[0]:
                    raise SystemExit(f"the agent of {tree} was not ready within a minute")
                if b"READY=1" in manager.recv(4096):
                    return time.perf_counter() - began, processor_seconds(agent.pid)
        finally:
            agent.terminate()
            agent.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another tree of this project")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    trees = {"this": HERE} | ({"other": arguments.against.resolve()} if arguments.against else {})
    times: dict[str, dict[str, list[tuple[float, float]]]] = {
        what: {name: [] for name in trees} for what in (*HELP, READY)
    }
    with TemporaryDirectory() as folder:
        config = Path(folder) / "checked.toml"
        config.write_text("[sources.hl7]\nport = 2575\n")
        for tree in trees.values():  # bytecode and the disk's cache, once
            for words in HELP.values():
                command(tree, [word.replace("{config}", str(config)) for word in words])
        for number in range(arguments.rounds):
            for what, words in HELP.items():
                for name, tree in trees.items():
                    spent = command(tree, [word.replace("{config}", str(config)) for word in words])
                    times[what][name].append(spent)
            for name, tree in trees.items():
                place = Path(folder) / f"{number}-{name}"
                place.mkdir()
                times[READY][name].append(ready(tree, place))
    result: dict[str, dict[str, float]] = {}
    for what, by_tree in times.items():
        row, found = f"{what:32}", {}
        for name, spent in by_tree.items():
            wall, cpu = (statistics.median(values) for values in zip(*spent, strict=True))
            found |= {name: round(wall, 4), f"{name}_cpu": round(cpu, 4)}
            row += f"  {name} {wall:6.3f} s ({cpu:5.2f} s of a core)"
        if arguments.against:
            found["ratio"] = round(found["other"] / found["this"], 2)
            found["ratio_cpu"] = round(found["other_cpu"] / max(found["this_cpu"], 0.01), 2)
            row += f"  {found['ratio']:5.2f} times as fast ({found['ratio_cpu']:.2f} by core)"
        print(row)
        result[what] = found
    print(json.dumps(result))


if __name__ == "__main__":
    main()
