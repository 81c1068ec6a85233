"""A command is imported when it is given; dataclasses share options; an error is one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from agent.core.errors import DeepECGError
from agent.ops.cli import Command, Group, application, flattened, load, run

MODULE = '''
"""Commands of a program that the tests make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from agent.core.errors import DeepECGError


@dataclass(frozen=True, slots=True)
class Machine:
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 2
    device: Annotated[str, typer.Option("--on", help="cpu or cuda.")] = "cpu"


def greet(name: str, *, loud: bool = False, machine: Machine) -> None:
    """Greet somebody.

    Politely.
    """
    typer.echo(f"hello {name.upper() if loud else name}: {machine!r}")


def mend() -> None:
    """Fail so that somebody can mend it."""
    raise DeepECGError("the file is empty; give another")


def fault() -> None:
    """Fail by a fault of the program's."""
    raise ZeroDivisionError("no")
'''


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    """Three commands and a group of one, in a module that nothing has imported."""
    (tmp_path / "commands_of_the_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    commands = {
        "greet": Command("commands_of_the_test:greet", "Greet somebody."),
        "mend": Command("commands_of_the_test:mend", "Fail so that somebody can mend it."),
        "fault": Command("commands_of_the_test:fault", "Fail by a fault of the program's."),
        "more": Group("Commands below.", {"hail": Command("commands_of_the_test:greet", "Hail somebody.")}),
    }
    yield application("A program of the tests.", commands)
    sys.modules.pop("commands_of_the_test", None)


def said(app: typer.Typer, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("words", [["--help"], ["more", "--help"]])
def test_help_lists_the_commands_without_importing_them(app: typer.Typer, words: list[str]) -> None:
    text = said(app, *words)
    for part in ["Greet somebody.", "Commands below."] if len(words) == 1 else ["hail", "Hail somebody."]:
        assert part in text
    assert "commands_of_the_test" not in sys.modules


def test_without_a_word_the_help_is_shown(app: typer.Typer) -> None:
    assert "A program of the tests." in said(app, code=2)


def test_a_command_runs_and_shows_its_own_help(app: typer.Typer) -> None:
    assert said(app, "greet", "you") == "hello you: Machine(threads=2, device='cpu')\n"
    assert "commands_of_the_test" in sys.modules
    changed = said(app, "more", "hail", "you", "--loud", "--threads", "4", "--on", "cuda")
    assert changed == "hello YOU: Machine(threads=4, device='cuda')\n"
    text = said(app, "greet", "--help")
    for part in ("Usage: root greet [OPTIONS]", "Politely.", "--threads", "Processor threads.", "default: 2"):
        assert part in text


def test_what_is_mistyped_is_told(app: typer.Typer) -> None:
    assert "Did you mean 'greet'?" in said(app, "gret", code=2)
    assert "Invalid value for '--threads'" in said(app, "greet", "you", "--threads", "0", code=2)


def test_what_a_person_can_mend_is_one_sentence(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["somewhere/program.py", "mend"])
    with pytest.raises(SystemExit) as stop:
        run("program", app)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "program: the file is empty; give another\n"
    monkeypatch.setattr("sys.argv", ["program", "fault"])
    with pytest.raises(ZeroDivisionError):
        run("program", app)
    with pytest.raises(SystemExit) as stop:
        run("program", app, mendable=(DeepECGError, ZeroDivisionError))
    assert stop.value.code == 2
    monkeypatch.setattr("sys.argv", ["somewhere/program.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        run("program", app)
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: program [OPTIONS] COMMAND")


@dataclass(frozen=True)
class Both:
    name: Annotated[str, typer.Option()]
    count: int = 1


def test_a_dataclass_gives_its_fields() -> None:
    seen: list[Any] = []

    def command(first: str, *, both: Both, last: int = 3) -> None:
        seen.append((first, both, last))

    flattened(command)(first="a", name="b", count=2, last=4)  # type: ignore[call-arg]
    assert seen == [("a", Both("b", 2), 4)]

    def plain(first: str) -> None: ...

    assert flattened(plain) is plain

    def twice(count: int, *, both: Both) -> None: ...

    with pytest.raises(TypeError, match="twice has the option count twice"):
        flattened(twice)


def test_a_function_is_named_by_module_and_name() -> None:
    assert load(Command("agent.ops.cli:load", "")) is load
