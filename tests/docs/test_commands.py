"""Every command line in the documents is one that the real programs take."""

from __future__ import annotations

import re
import tomllib
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer

from agent.cli import app as agent_app
from training.cli import app as training_app

PROGRAMS = {"deepecg-agent": agent_app, "deepecg-train": training_app}


class WrongLineError(Exception):
    """The program takes no such command line; why."""


def check(words: tuple[str, ...], whole: bool) -> None:
    """Sub-command, options and their values; with ``whole`` also that nothing required is left out."""
    found: Any = typer.main.get_command(PROGRAMS[words[0]])
    rest = list(words[1:])
    while hasattr(found, "commands"):
        if rest[:1] in ([], ["--help"]):
            return
        name = rest.pop(0)
        if name not in found.commands:
            raise WrongLineError(f"there is no command {name}; there is {', '.join(found.commands)}")
        found = found.commands[name]
    options = {name: p for p in found.params for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}
    given: set[str] = {"--help"} & set(rest)
    places: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--help":
            continue
        if word.startswith("-") and not re.fullmatch(r"-?[0-9.]+", word):
            name, equals, value = word.partition("=")
            if name not in options:
                raise WrongLineError(f"there is no option {name}; there is {', '.join(options)}")
            option = options[name]
            given.add(option.name)
            if not option.is_flag:
                if not (equals or rest or not whole):
                    raise WrongLineError(f"{name} has no value")
                value = value or (rest.pop(0) if rest else "")
                choices = choices_of(get_type_hints(found.callback)[option.name])
                if choices and value and not is_placeholder(value) and value not in choices:
                    raise WrongLineError(f"{name} takes no {value}; it takes {', '.join(choices)}")
        else:
            places.append(word)
    arguments = [p for p in found.params if p.param_type_name == "argument"]
    if not (any(a.nargs == -1 for a in arguments) or len(places) <= len(arguments)):
        raise WrongLineError(f"{places} is too much")
    if whole and "--help" not in given:
        if not (len(places) >= sum(bool(a.required) for a in arguments)):
            raise WrongLineError("an argument is missing")
        missing = [p.opts[0] for p in set(options.values()) if p.required and p.name not in given]
        if missing:
            raise WrongLineError(f"{missing} is missing")


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The values of a Literal or an enumeration, also where it may be None; empty for anything else."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(str(member.value) for member in annotation)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for part in get_args(annotation) for value in choices_of(part))


def is_placeholder(word: str) -> bool:
    """``FILE``, ``SITE/UNIT/BED``: what a reader is to put something else for."""
    return word.upper() == word and any(c.isalpha() for c in word)


def test_every_command_line_is_one_that_the_program_takes(command: Any) -> None:
    check(command.words, command.whole)


@pytest.mark.parametrize(
    "words",
    [
        "deepecg-agent walk",
        "deepecg-agent run --confg FILE",
        "deepecg-agent run",
        "deepecg-agent check-config A B",
        "deepecg-agent send --config A --over pigeon --bed a/b/c",
        "deepecg-agent bundle lst",
        "deepecg-train train RUN",
        "deepecg-train train --dataset D",
    ],
)
def test_a_wrong_command_line_is_found(words: str) -> None:
    with pytest.raises(WrongLineError):
        check(tuple(words.split()), whole=True)


def test_every_target_of_make_is_there(all_blocks: list[Any], root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(encoding="utf-8"), re.M))
    texts = [block.text for block in all_blocks if block.language in {"", "sh"}]
    texts += [
        span
        for document in ("README.md", "CONTRIBUTING.md", *map(str, (root / "docs").glob("*.md")))
        for span in re.findall(r"`(make [^`]*)`", (root / document).read_text(encoding="utf-8"))
    ]
    named = {name for text in texts for name in re.findall(r"^make ([a-z]+)", text, re.M)}
    assert {"demo", "test", "check", "docs"} <= named
    assert named <= targets


def test_every_extra_that_is_installed_is_there(root: Path) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = "".join(path.read_text(encoding="utf-8") for path in (root / "README.md", *(root / "docs").glob("*.md")))
    named = {name for found in re.findall(r"\.\[([a-z,-]+)\]", text) for name in found.split(",")}
    assert {"train", "gpu-rtx", "recordings"} <= named <= set(extras)
