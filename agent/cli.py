"""``deepecg-agent``: the commands. Errors that a person can mend are one sentence on stderr and exit status 2."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer

from agent import __version__
from agent.commands import bundle, rebuild, send
from agent.config import Config, ConfigError, load, reference
from agent.engines.bundles.bundle import BundleError
from agent.ops.logs import configure_logging
from agent.ops.tls import TlsError

log = structlog.get_logger()

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="DeepECG Bedside: ECG feeds in, findings out. Advisory only: not a medical device, never the primary alarm.",
)

app.add_typer(bundle.app, name="bundle")
app.add_typer(rebuild.app)
app.add_typer(send.app)

ConfigFile = Annotated[
    Path, typer.Option("--config", help="The TOML configuration; deploy/agent.toml is the reference.")
]


def _refuse(error: Exception) -> NoReturn:
    typer.echo(f"deepecg-agent: {error}", err=True)
    raise typer.Exit(2)


def _load(path: Path) -> Config:
    try:
        return load(path)
    except ConfigError as error:
        _refuse(error)


@app.command()
def run(config: ConfigFile) -> None:
    """Run the agent until it is told to stop (SIGTERM or SIGINT)."""
    from agent.runtime import daemon  # the libraries behind it take a second: check-config must not wait for them

    settings = _load(config)
    configure_logging(settings.agent.log_level, settings.agent.log_format)
    try:
        asyncio.run(daemon.run_until_signal(settings))
    except (BundleError, TlsError, daemon.StartError) as error:
        _refuse(error)
    except ExceptionGroup as failures:
        # The process's top: a part of the line is lost beyond repair. Say it in one line, and let the service manager
        # start the agent anew.
        log.critical("agent_failed", exc_info=failures)
        raise typer.Exit(1) from None


@app.command("check-config")
def check_config(
    file: Annotated[Path | None, typer.Argument(help="The TOML file to check.")] = None,
    show_reference: Annotated[bool, typer.Option("--reference", help="Print every key with its default.")] = False,
) -> None:
    """Check a configuration file: exit 0 when the agent can use it, 2 with one sentence when it cannot."""
    if show_reference:
        typer.echo(reference(), nl=False)
        return
    if file is None:
        _refuse(ConfigError("name the file to check, or give --reference"))
    _load(file)
    typer.echo(f"{file}: good")


@app.command()
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
    try:
        summary = asyncio.run(ward.run(ward.Options(seconds, beds, broker, data, port, screenshot)))
    except ward.DemoError as error:
        _refuse(error)
    typer.echo(json.dumps(summary))


@app.command()
def replay(
    path: Annotated[Path, typer.Argument(help="A WFDB record (without ending), or a folder of records.")],
    speed: Annotated[float, typer.Option(help="Times real time; 0 = as fast as the line takes it.")] = 0,
    config: Annotated[Path | None, typer.Option(help="Configuration for windows, engine and alerts.")] = None,
) -> None:
    """Run recorded ECG through the very same line, print each alert, end with one JSON line."""
    from agent.runtime import daemon
    from agent.sources.replay import ReplayError

    settings = _load(config) if config else Config()
    configure_logging(settings.agent.log_level, "console")
    try:
        summary = asyncio.run(daemon.replay(settings, path, speed))
    except (BundleError, daemon.StartError, ReplayError) as error:
        _refuse(error)
    except ExceptionGroup as failures:
        found = failures.subgroup(ReplayError)  # of the task that plays
        if found is None:
            raise
        _refuse(found.exceptions[0])
    typer.echo(json.dumps(summary))


@app.command()
def bench(
    sections: Annotated[list[str] | None, typer.Argument(help="Which sections; default: all.")] = None,
) -> None:
    """Measure this machine and print JSON: CPU per bed-second, windows/s, inference."""
    from agent.bench import sections as benchmarks
    from agent.bench.measure import BenchError

    try:
        typer.echo(json.dumps(benchmarks.run(sections or []), indent=2))
    except BenchError as error:
        _refuse(error)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point of the ``deepecg-agent`` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
