"""``deepecg-agent demo``, ``replay`` and ``bench``: what the agent does, shown and measured on this machine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from agent.config import Config, load
from agent.ops.logs import configure_logging


def demo(
    seconds: Annotated[float, typer.Option(help="Stop by itself after so long; 0 = until Ctrl-C.")] = 0,
    beds: Annotated[int, typer.Option(min=8, help="How many beds; recordings are used again above 8.")] = 8,
    broker: Annotated[str, typer.Option(help="host:port of an MQTT broker; default: one is started.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="Folder of real recordings; default: ECG_DATA or ../shared/data.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the live page; 0 = any free one.")] = 8080,
    screenshot: Annotated[Path | None, typer.Option(help="Write a picture of the page at the end.")] = None,
) -> None:
    """Show a ward on this machine: beds stream, a network reads them, alerts arrive at a receiver."""
    from agent.demo import ward

    configure_logging("warning", "console")
    typer.echo(json.dumps(asyncio.run(ward.run(ward.Options(seconds, beds, broker, data, port, screenshot)))))


def replay(
    path: Annotated[Path, typer.Argument(help="A WFDB record (without ending), or a folder of records.")],
    speed: Annotated[float, typer.Option(help="Times real time; 0 = as fast as the line takes it.")] = 0,
    config: Annotated[Path | None, typer.Option(help="Configuration for windows, engine and alerts.")] = None,
) -> None:
    """Run recorded ECG through the very same line, print each alert, end with one JSON line."""
    from agent.runtime import daemon
    from agent.sources.replay import ReplayError

    settings = load(config) if config else Config()
    configure_logging(settings.agent.log_level, "console")
    try:
        summary = asyncio.run(daemon.replay(settings, path, speed))
    except ExceptionGroup as failures:
        found = failures.subgroup(ReplayError)  # of the task that plays
        if found is None:
            raise
        raise found.exceptions[0] from failures
    typer.echo(json.dumps(summary))


def bench(
    sections: Annotated[
        list[str] | None, typer.Argument(help="Which sections; default: all but speed, which takes 24 minutes.")
    ] = None,
) -> None:
    """Measure this machine: CPU per bed-second, windows/s, inference; lines as they come, one line of JSON last."""
    from agent.bench import sections as benchmarks

    configure_logging("warning", "console")
    results = {}
    for name, numbers in benchmarks.run(sections or []):
        results[name] = numbers
        for line in benchmarks.lines(numbers, name):
            typer.echo(line, err=True)
    typer.echo(json.dumps(results))
