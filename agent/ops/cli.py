"""A command line that imports a command's code when that command is given, and no sooner.

``program --help`` needs one sentence of each command and none of the libraries behind it. So a program lists its
commands as text, and a module is imported when its command runs or shows its own help::

    APP = application(
        "What the program is for.",
        {
            "train": Command("package.commands.train:train", "Train a network."),
            "labels": Group("Labels from reports.", {"score": Command("package.commands.labels:score", "Score them.")}),
        },
    )

    def main() -> None:
        run("program", APP)

A command is a plain function whose parameters are annotated for Typer. Several commands share options by a frozen
dataclass of them: a parameter of that type takes all of its fields as options (`flattened`)::

    @dataclass(frozen=True, slots=True)
    class Machine:
        threads: Annotated[int, typer.Option(min=1)] = 2
        device: Annotated[str, typer.Option()] = "cpu"

    def train(folder: Path, machine: Machine) -> None: ...       # train FOLDER --threads 4 --device cuda
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, ClassVar, get_type_hints

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from agent.core.errors import DeepECGError


@dataclass(frozen=True, slots=True)
class Command:
    """One command that is not imported yet."""

    function: str
    """``package.module:function``."""
    help: str
    """The first sentence of the function's docstring, for the list of commands."""


@dataclass(frozen=True, slots=True)
class Group:
    """Commands under one name."""

    help: str
    commands: Mapping[str, Command]


Commands = Mapping[str, Command | Group]


def application(text: str, commands: Commands) -> typer.Typer:
    """A program, or a group in one, of these commands.

    Args:
        text: Its help.
        commands: By name, in the order in which the help lists them.

    The help is plain text: boxes and colours would cost as much time as all the rest of it.
    """

    class Listed(_LazyGroup):
        listed = commands

    app = typer.Typer(
        cls=Listed,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_nothing)  # without one Typer takes an application of no commands for a mistake
    return app


def run(program: str, app: typer.Typer, mendable: tuple[type[Exception], ...] = (DeepECGError,)) -> None:
    """Run the command line of this process.

    Args:
        program: Its name, before the sentence of an error.
        app: What `application` has made.
        mendable: Errors that a person can mend: one sentence on stderr, then exit status 2. Any other one keeps its
            traceback.

    Raises:
        SystemExit: always, at the end.
    """
    try:
        app(prog_name=program)
    except mendable as error:
        typer.secho(f"{program}: {error}", err=True, fg="red")
        raise SystemExit(2) from error


def load(command: Command) -> Callable[..., None]:
    """The command's function, its module imported."""
    module, _, name = command.function.partition(":")
    function: Callable[..., None] = getattr(import_module(module), name)
    return function


def flattened(function: Callable[..., None]) -> Callable[..., None]:
    """The function with each dataclass among its parameters given as that dataclass's fields.

    Raises:
        TypeError: two parameters have one name.
    """
    hints = get_type_hints(function, include_extras=True)
    plain: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            plain.append(parameter.replace(annotation=kind))
            continue
        types = get_type_hints(kind, include_extras=True)
        groups[parameter.name] = (kind, [field.name for field in fields(kind)])
        plain += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=types[field.name],
            )
            for field in fields(kind)
        ]
    if not groups:
        return function
    names = [parameter.name for parameter in plain]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TypeError(f"{function.__name__} has the option {twice[0]} twice; take it out of one of the dataclasses")

    @functools.wraps(function)
    def called(**given: Any) -> None:
        for name, (kind, parts) in groups.items():
            given[name] = kind(**{part: given.pop(part) for part in parts})
        function(**given)

    # Typer calls a command by keyword, so the order and the kind of the parameters are the help's alone.
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in plain]
    )
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in plain}
    return called


class _LazyCommands(Mapping[str, Any]):
    """Click's commands by name, each made when it is looked up."""

    def __init__(self, listed: Commands) -> None:
        self._listed = listed

    def __getitem__(self, name: str) -> Any:
        entry = self._listed[name]
        if isinstance(entry, Group):
            made: Any = get_group(application(entry.help, entry.commands))
        else:
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command()(flattened(load(entry)))
            made = get_command(app)
        made.name = name
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)


class _LazyGroup(TyperGroup):
    """A group whose commands are looked up by name; its help lists the sentences that stand beside the names."""

    listed: ClassVar[Commands] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _LazyCommands(self.listed)  # type: ignore[assignment]  # nothing is ever added to it

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002
        """In the order of the list."""
        return list(self.listed)

    def format_commands(self, ctx: object, formatter: Any) -> None:  # noqa: ARG002
        """Write the list without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.listed.items()])


def _nothing() -> None:
    """Nothing happens before a command."""
