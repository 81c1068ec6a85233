"""What the documents hold, taken from their own text: no example stands anywhere a second time.

A test that asks for `document`, `configuration` or `command` runs once for each; `example` gives a block by its title.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=fence) *$", re.M | re.S
)
SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
PROGRAM = re.compile(r"^(?:\S*/)?(deepecg-agent|deepecg-train)$")


def documents() -> list[str]:
    """Every Markdown file of the repository that a person reads."""
    folders = ("agent", "training", "systemd", "deploy", "docs", "findings")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).glob("*.md"))]
    return sorted(str(path.relative_to(ROOT)) for path in found)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: str
    line: int
    language: str
    title: str
    text: str

    @property
    def is_configuration(self) -> bool:
        """Whether it is one of the agent's, which needs a source, and no dialect."""
        return self.language == "toml" and "[sources." in self.text

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line of ours, as a reader would type it."""

    document: str
    line: int
    words: tuple[str, ...]
    whole: bool
    """From a fenced block: it runs as it stands. Otherwise it is spoken of, and may leave out what is required."""

    def __str__(self) -> str:
        return f"{self.document}:{self.line} {' '.join(self.words)}"


def blocks() -> Iterator[Block]:
    for document in documents():
        text = (ROOT / document).read_text(encoding="utf-8")
        for found in FENCE.finditer(text):
            language, _, rest = found["info"].strip().partition(" ")
            title = re.search(r'title="([^"]*)"', rest)
            line = text.count("\n", 0, found.start()) + 1
            yield Block(document, line, language, title[1] if title else "", textwrap.dedent(found["text"]))


def commands() -> Iterator[Command]:
    for block in blocks():
        if block.language in {"", "sh"}:
            for words in lines_of(block.text):
                if words and PROGRAM.match(words[0]):
                    yield Command(block.document, block.line, (Path(words[0]).name, *words[1:]), True)
    for document in documents():
        text = (ROOT / document).read_text(encoding="utf-8")
        prose = FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
        for found in SPAN.finditer(prose):
            words = found[2].replace("…", " ").split()
            if len(words) > 1 and PROGRAM.match(words[0]):
                yield Command(document, prose.count("\n", 0, found.start()) + 1, tuple(words), False)


def lines_of(text: str) -> Iterator[list[str]]:
    """The commands of a shell text, comments left out, each `a && b` and `a | b` taken apart."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;()"):
                yield without_prefix(words)
                words = []
            else:
                words.append(word)


def without_prefix(words: list[str]) -> list[str]:
    """The command behind ``sudo -u deepecg`` and the like."""
    if words[:1] == ["sudo"]:
        words = words[3:] if words[1:2] == ["-u"] else words[1:]
    return words


@pytest.fixture(scope="session")
def example() -> Callable[[str, str], str]:
    """The block of a document with that title."""

    def find(document: str, title: str) -> str:
        found = [block.text for block in blocks() if (block.document, block.title) == (document, title)]
        assert found, f"{document} has no block with the title {title}"
        return found[-1]

    return find


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def all_blocks() -> list[Block]:
    """Every fenced block."""
    return list(blocks())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every: dict[str, Callable[[], Iterable[object]]] = {
        "document": documents,
        "configuration": lambda: (block for block in blocks() if block.is_configuration),
        "command": commands,
    }
    for name, values in every.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, list(values()), ids=str)
