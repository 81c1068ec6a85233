"""The strings below fields are found as pydantic finds them, and only when somebody asks."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from agent.config import Config
from agent.core.bundle.manifest import Manifest
from agent.ops.docstrings import attribute_docstrings, with_descriptions


class Inner(BaseModel):
    """Some settings."""

    depth: float = 1.0
    """Of the hole,
    in metres."""
    bare: int = 0


class Outer(Inner):
    """Settings that inherit some."""

    inner: Inner = Inner()
    """What is in it."""
    more: tuple[Inner, ...] = ()
    name: str = ""
    """Its name."""


class Described(BaseModel):
    """The same by pydantic's own reading."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    depth: float = 1.0
    """Of the hole,
    in metres."""
    bare: int = 0


def test_as_pydantic_reads_them_and_with_what_is_inherited() -> None:
    by_pydantic = {name: field.description or "" for name, field in Described.model_fields.items()}
    assert attribute_docstrings(Inner) == by_pydantic == {"depth": "Of the hole,\nin metres.", "bare": ""}
    assert attribute_docstrings(Outer) == {**by_pydantic, "inner": "What is in it.", "more": "", "name": "Its name."}


def test_a_schema_gets_them_at_every_level() -> None:
    schema = with_descriptions(Outer.model_json_schema(), Outer)
    assert schema["properties"]["name"]["description"] == "Its name."
    assert schema["properties"]["depth"]["description"] == "Of the hole,\nin metres."
    assert schema["$defs"]["Inner"]["properties"]["depth"]["description"] == "Of the hole,\nin metres."
    assert "description" not in schema["properties"]["more"]


def settings(model: type[BaseModel], path: str = "") -> list[tuple[str, type[BaseModel]]]:
    found = [(path or model.__name__, model)]
    for name, field in model.model_fields.items():
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += settings(inner, f"{path}.{name}")
    return found


def test_no_model_of_the_start_reads_its_source_while_it_is_imported() -> None:
    models = [model for _, model in settings(Config)] + [model for _, model in settings(Manifest)]
    assert not [m.__name__ for m in models if m.model_config.get("use_attribute_docstrings")]
