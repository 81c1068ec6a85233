"""``deepecg-agent run`` and ``check-config``: the daemon, and whether its configuration can be used."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Annotated

import structlog
import typer

from agent.config import ConfigError, load, reference
from agent.ops.logs import configure_logging

log = structlog.get_logger()


def run(
    config: Annotated[
        Path, typer.Option("--config", help="The TOML configuration; deploy/agent.toml is the reference.")
    ],
) -> None:
    """Run the agent until it is told to stop (SIGTERM or SIGINT)."""
    gc.disable()  # nothing of the start is garbage; `daemon.run` puts it out of the collector's sight and enables it
    settings = load(config)
    from agent.runtime import daemon  # behind the check: a mistake is told at once, not after all that serves

    configure_logging(settings.agent.log_level, settings.agent.log_format)
    try:
        asyncio.run(daemon.run_until_signal(settings))
    except ExceptionGroup as failures:
        # The process's top: a part of the line is lost beyond repair. Say it in one line, and let the service manager
        # start the agent anew.
        log.critical("agent_failed", exc_info=failures)
        raise typer.Exit(1) from None


def check_config(
    file: Annotated[Path | None, typer.Argument(help="The TOML file to check.")] = None,
    show_reference: Annotated[bool, typer.Option("--reference", help="Print every key with its default.")] = False,
) -> None:
    """Check a configuration file: exit 0 when the agent can use it, 2 with one sentence when it cannot."""
    if show_reference:
        typer.echo(reference(), nl=False)
        return
    if file is None:
        raise ConfigError("name the file to check, or give --reference")
    load(file)
    typer.echo(f"{file}: good")
