"""Every error of ours has the one base, so that a door can tell what a person can mend from a fault of ours."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from agent.core.errors import DeepECGError

ROOT = Path(__file__).resolve().parents[3]
BUILTIN = {"Exception", "ValueError", "OSError", "RuntimeError", "TypeError", "KeyError", "LookupError"}


def errors() -> dict[str, list[str]]:
    """By name: the bases of each class of ours that is an exception, as they are written."""
    found: dict[str, list[str]] = {}
    for path in [*ROOT.glob("agent/**/*.py"), *ROOT.glob("training/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
                if node.name.endswith("Error") or BUILTIN & set(bases):
                    found[node.name] = bases
    return found


ERRORS = errors()


@pytest.mark.parametrize("name", sorted(set(ERRORS) - {DeepECGError.__name__}))
def test_each_error_descends_from_the_one_base(name: str) -> None:
    bases, seen = list(ERRORS[name]), set()
    while bases:
        base = bases.pop()
        if base == DeepECGError.__name__:
            return
        seen.add(base)
        bases += ERRORS.get(base, [])
    pytest.fail(f"{name} descends from {', '.join(sorted(seen))} and not from DeepECGError")


def test_the_walk_finds_them() -> None:
    assert {"EngineError", "BundleError", "ConfigError", "MqttError", "WeightsError"} <= set(ERRORS)
