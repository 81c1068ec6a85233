"""Shared options: what they change, and that a command's help does not wait for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from agent.ops.cli import Command, Group, load
from training.cli import COMMANDS, app
from training.commands.options import RecipeChanges


def every() -> dict[str, Command]:
    found: dict[str, Command] = {}
    for name, entry in COMMANDS.items():
        group = entry.commands if isinstance(entry, Group) else {"": entry}
        found |= {f"{name} {inner}".strip(): command for inner, command in group.items()}
    return found


@pytest.mark.parametrize("name", every())
def test_a_command_says_itself_what_the_list_says_of_it(name: str) -> None:
    command = every()[name]
    first = " ".join((load(command).__doc__ or "").split("\n\n")[0].split())
    assert first == command.help
    result = CliRunner().invoke(app, [*name.split(), "--help"], catch_exceptions=False)
    assert result.exit_code == 0
    assert command.help.split()[0] in result.output


def test_no_help_waits_for_a_large_library() -> None:
    """One process shows every command's help: what it has imported by then is what the slowest waits for."""
    program = f"""
import sys
from typer.testing import CliRunner
from training.cli import app
for words in {[name.split() for name in every()]!r}:
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
large = {{"torch", "scipy", "pandas", "sklearn", "matplotlib", "openvino", "transformers", "rich"}}
print(*sorted(large & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"


def test_changes_reach_the_recipe() -> None:
    changed = RecipeChanges(precision="bf16", leads="two", seed=0, steps=5, batch=8, accumulate=2).of("sl-77")
    assert (changed.precision, changed.leads, changed.seed, changed.steps, changed.batch, changed.accumulate) == (
        "bf16", "two", 0, 5, 8, 2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="take one of ssl-pretrain, ssl-77"):
        RecipeChanges().of("none")
