"""What we use of paho though it is not public: the very version, each member, and a clear error where one differs."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import paho.mqtt
import pytest
from packaging.requirements import Requirement
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from agent.core.errors import DeepECGError
from agent.mqtt import client as module
from agent.mqtt.client import PAHO_VERSION, SEAMS, FastClient, PahoError, check_paho

ROOT = Path(__file__).resolve().parents[3]


def test_paho_is_pinned_to_the_version_that_this_was_written_for() -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (paho,) = (r for r in map(Requirement, lines) if r.name == "paho-mqtt")
    assert str(paho.specifier) == f"=={PAHO_VERSION}"
    assert f"paho-mqtt=={PAHO_VERSION}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_the_installed_one_is_that_one() -> None:
    check_paho(paho.mqtt.__version__, Client(CallbackAPIVersion.VERSION2))


def test_another_version_is_one_clear_error() -> None:
    with pytest.raises(
        PahoError, match=rf"^paho-mqtt 9\.9 is installed, .*pip install paho-mqtt=={PAHO_VERSION}$"
    ) as caught:
        check_paho("9.9", Client(CallbackAPIVersion.VERSION2))
    assert isinstance(caught.value, DeepECGError)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("name", SEAMS)
def test_a_member_that_is_gone_is_named(name: str) -> None:
    class Without:
        def __getattr__(self, wanted: str) -> object:
            if wanted == name:
                raise AttributeError(wanted)
            return None

    with pytest.raises(PahoError, match=rf"it lacks {name}\)"):
        check_paho(PAHO_VERSION, Without())


def test_no_other_member_of_pahos_own_is_touched() -> None:
    private = {name for name in dir(Client(CallbackAPIVersion.VERSION2)) if name.startswith("_") and name[1] != "_"}
    folder = Path(module.__file__).parent
    overridden = {name for name in vars(FastClient) if name in private}
    used = {
        node.attr
        for file, owners in (("client.py", {"self", "super()"}), ("connection.py", {"self._client", "client"}))
        for node in ast.walk(ast.parse((folder / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in owners
    }
    assert used & private | overridden == set(SEAMS)
