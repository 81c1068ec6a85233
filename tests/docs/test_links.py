"""Links, anchors and paths in the documents lead somewhere, and the documents build as a site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = "https://github.com/deepecg/bedside/"
FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
TOP = ("agent", "training", "tests", "docs", "deploy", "systemd", "findings")
PATH = re.compile(rf"(?:{'|'.join(TOP)})/[\w./*{{}},-]*\w[\w./*{{}},-]*")


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings: lower case, punctuation gone, spaces to hyphens, a number where one repeats."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ +(.*?) *#*$", prose(path), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        number = found.get(slug, 0)
        found[slug] = number + 1
        names.add(f"{slug}-{number}" if number else slug)
    return names


def problem_of(link: str, document: Path, root: Path) -> str:
    """Why a link leads nowhere; empty where it is good, or leads out of the repository."""
    target, _, anchor = link.partition("#")
    if target.startswith(REPOSITORY):
        kind, _, path = target.removeprefix(REPOSITORY).partition("/main/")
        if kind not in {"blob", "tree"}:
            return ""
        place = root / path
    elif re.match(r"[a-z]+:", target):
        return ""
    else:
        place = document.parent / target if target else document
    if not place.exists():
        return f"{link}: there is no {place}"
    if anchor and place.suffix == ".md" and anchor not in anchors(place):
        return f"{link}: there is no such heading; there is {', '.join(sorted(anchors(place)))}"
    return ""


def test_every_link_leads_somewhere(document: str, root: Path) -> None:
    path = root / document
    problems = [problem_of(link, path, root) for link in LINK.findall(prose(path))]
    assert not list(filter(None, problems))


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# The agent's own state\n\n## `a` & b\n\n## Twice\n\n## Twice\n")
    good = ("#the-agents-own-state", "page.md#a--b", "#twice-1", "https://elsewhere.example/x", "page.md")
    assert [problem_of(link, page, tmp_path) for link in good] == [""] * len(good)
    for link in ("#nowhere", "gone.md", f"{REPOSITORY}blob/main/gone.py", "page.md#twice-2"):
        assert problem_of(link, page, tmp_path)


def named_paths(text: str) -> Iterator[str]:
    """What is written as a path of this repository, in prose and in examples."""
    for found in PATH.finditer(text):
        before = text[max(0, found.start() - 1) : found.start()]
        if not re.match(r"[\w/.@{}-]", before):
            yield found[0].rstrip(".,-")


def braces(path: str) -> list[str]:
    """``a/{b,c}.py`` as the two that it means."""
    found = re.search(r"\{([^{}]*,[^{}]*)\}", path)
    if found is None:
        return [path]
    return [
        name
        for part in found[1].split(",")
        for name in braces(path[: found.start()] + part.strip() + path[found.end() :])
    ]


MADE = {"agent/sources/dialects/acme.toml", "findings/NAME.sh"}
"""What a reader makes."""

MAPS = {"agent/README.md", "training/README.md"}
"""Maps of a folder: they name modules from there, and their tests from the tests' mirror of it."""


def test_every_path_that_is_named_exists(document: str, root: Path) -> None:
    path = root / document
    text = path.read_text(encoding="utf-8")
    if document == "CHANGELOG.md":  # older releases name what was there then
        text = text.split("\n## ")[1]
    text = text.partition("\n## What was deleted")[0]  # whose table names what is no longer there
    named = {name for found in named_paths(text) for name in braces(found)} - MADE
    bases = [root]
    if document in MAPS:
        spans = (found.partition("::")[0] for found in CODE.findall(text))
        named |= {name for span in spans if re.fullmatch(r"[\w/{},.*-]+\.py", span) for name in braces(span)}
        bases += [path.parent, root / "tests", root / "tests" / path.parent.name]
        # Where the way of a message is told, a file stands by its name alone, or with its room's.
        named = {name if (root / name.partition("/")[0]).is_dir() else f"**/{name}" for name in named}
    gone = sorted(name for name in named if not any(next(base.glob(name), None) for base in bases))
    assert not gone, f"{document} names what is not there: {', '.join(gone)}"


def test_a_path_that_is_gone_is_found() -> None:
    text = "`agent/core/{ecg,leads}.py`, see agent/nowhere.py. Not https://x.example/agent/x nor `/var/agent/y`."
    assert [p for found in named_paths(text) for p in braces(found)] == [
        "agent/core/ecg.py",
        "agent/core/leads.py",
        "agent/nowhere.py",
    ]


def test_they_build_as_a_site_and_a_dead_link_ends_the_build(root: Path, tmp_path: Path) -> None:
    if find_spec("mkdocs") is None or find_spec("material") is None:
        if os.environ.get("CI"):
            pytest.fail("mkdocs-material is not installed: CI must not skip the build of the documents")
        pytest.skip("mkdocs-material is not installed: make docs installs it")
    done = build(root / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "hl7.html").read_text(encoding="utf-8")
    assert "MDC_EVT_ECG_ATR_FIB" in page
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page)
    assert [url for url in loaded if not url.startswith(REPOSITORY)] == [], "a ward's machine has no network"
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (root / "docs").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    for line in ("[dead](nowhere.md)", "[dead](mqtt.md#nowhere)"):
        (broken / "index.md").write_text(f"# Home\n\n{line}\n", encoding="utf-8")
        settings = (root / "mkdocs.yml").read_text(encoding="utf-8").replace("docs_dir: docs", f"docs_dir: {broken}")
        (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
        assert build(tmp_path / "mkdocs.yml", tmp_path / "other").returncode != 0, line


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command: list[Any] = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config]
    return subprocess.run([*command, "--site-dir", site], check=False, capture_output=True, text=True, timeout=240)
