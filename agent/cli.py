"""``deepecg-agent``: the commands. Errors that a person can mend are one sentence on stderr and exit status 2."""

from __future__ import annotations

import typer

from agent import __version__
from agent.ops.cli import Command, Group, application
from agent.ops.cli import run as run_application

BUNDLE = Group(
    "Engine bundles of this machine: install, verify, activate, roll back, each from the next start on; and how this "
    "machine's own engines do.",
    {
        "list": Command("agent.commands.bundle:list_", "List the installed bundles, and which is served."),
        "show": Command(
            "agent.commands.bundle:show",
            "Tell all about a bundle, checked whole: what it is, whose, its engines, labels, training and change "
            "record.",
        ),
        "verify": Command(
            "agent.commands.bundle:verify",
            "Check signature, manifest and every byte of bundles; exit 2 if one is not good.",
        ),
        "install": Command(
            "agent.commands.bundle:install",
            "Check a bundle and copy it into the state directory; it is served once it is activated.",
        ),
        "activate": Command(
            "agent.commands.bundle:activate",
            "Serve an installed bundle from the agent's next start on, if an engine of it passes its self-test here.",
        ),
        "rollback": Command(
            "agent.commands.bundle:rollback",
            "Serve the bundle that was active before, from the agent's next start on.",
        ),
        "shadow": Command(
            "agent.commands.bundle:shadow",
            "Show how this machine's own engines do: on trial, watched, kept, rejected or rolled back, and why.",
        ),
        "schema": Command("agent.commands.bundle:schema_", "Print the manifest's JSON Schema."),
    },
)

COMMANDS: dict[str, Command | Group] = {
    "run": Command("agent.commands.service:run", "Run the agent until it is told to stop (SIGTERM or SIGINT)."),
    "check-config": Command(
        "agent.commands.service:check_config",
        "Check a configuration file: exit 0 when the agent can use it, 2 with one sentence when it cannot.",
    ),
    "send": Command(
        "agent.commands.send:send",
        "Play a test feed at an installed agent: synthetic ECG for one bed, its patient called TEST.",
    ),
    "demo": Command(
        "agent.commands.show:demo",
        "Show a ward on this machine: beds stream, a network reads them, alerts arrive at a receiver.",
    ),
    "replay": Command(
        "agent.commands.show:replay",
        "Run recorded ECG through the very same line, print each alert, end with one JSON line.",
    ),
    "bench": Command(
        "agent.commands.show:bench",
        "Measure this machine: CPU per bed-second, windows/s, inference; lines as they come, one line of JSON last.",
    ),
    "bundle": BUNDLE,
    "rebuild": Command(
        "agent.commands.rebuild:rebuild_",
        "Compile engines for this machine from the ONNX or IR in the signed bundle, where the bundle's own do not fit.",
    ),
    "version": Command("agent.cli:version", "Print the version."),
}
"""By name, in the order in which an engineer meets them."""

app = application(
    "DeepECG Bedside: ECG feeds in, findings out. Advisory only: not a medical device, never the primary alarm.",
    COMMANDS,
)


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point of the ``deepecg-agent`` command."""
    run_application("deepecg-agent", app)


if __name__ == "__main__":
    main()
