"""The tests' own guard: every module has its tests, every test file tests, and the packaging is as promised."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

ELSEWHERE = {
    "agent/core/ecg.py": "tests/agent/core/windows/test_windower.py",
}
"""Modules whose tests stand under another name: plain vocabulary, or one room in two files."""


def modules() -> list[str]:
    found = [*ROOT.glob("agent/**/*.py"), *ROOT.glob("training/**/*.py")]
    return sorted(
        str(path.relative_to(ROOT)) for path in found if path.name != "__init__.py" and "__pycache__" not in path.parts
    )


def file_of_tests(module: str) -> Path:
    path = Path(ELSEWHERE.get(module, module))
    return ROOT / path if module in ELSEWHERE else TESTS / path.parent / f"test_{path.name}"


@pytest.mark.parametrize("module", modules())
def test_every_module_has_its_tests(module: str) -> None:
    assert file_of_tests(module).is_file(), f"{module} has no {file_of_tests(module).relative_to(ROOT)}"


@pytest.mark.parametrize("file", sorted(TESTS.rglob("test_*.py")), ids=lambda p: str(p.relative_to(TESTS)))
def test_every_test_file_tests(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    state_machine = re.search(r"^Test\w+ = ", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert state_machine or any(name.startswith(("test_", "Test")) for name in names)


def test_the_base_installs_neither_torch_nor_wfdb() -> None:
    base = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert not base & {"torch", "wfdb", "pandas", "scikit-learn", "torch-tensorrt", "tensorrt-rtx"}


def test_torch_is_pinned_wherever_it_is_named() -> None:
    extras = PROJECT["optional-dependencies"]
    torch = [r for lines in extras.values() for r in map(Requirement, lines) if r.name == "torch"]
    assert torch
    assert {str(r.specifier) for r in torch} == {"==2.13.0"}


def test_the_lock_pins_every_dependency_by_public_version() -> None:
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)", line)
        assert match, f"{line!r} is no pin of a public version"
        pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    optional = {"torch-tensorrt", "tensorrt-rtx", "deepecg-bedside"}  # not installed where the lock is made
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    for requirement in map(Requirement, lines):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in optional:
            assert name in pins, f"{name} is not pinned; run make lock"
            assert requirement.specifier.contains(pins[name]), f"{name} {pins[name]} does not fit {requirement}"


def test_no_recording_is_in_the_repository() -> None:
    endings = {".dat", ".hea", ".atr", ".mat", ".dcm", ".edf", ".hdf5", ".pt", ".pth"}
    skipped = {".venv", ".git", "runs", "build", "dist"}
    found = [
        path
        for path in ROOT.rglob("*")
        if path.suffix in endings and not skipped & set(path.relative_to(ROOT).parts) and ".venv" not in str(path)
    ]
    assert not found
