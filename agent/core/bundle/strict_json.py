"""The one reader of our own JSON files, and the base of their shapes: manifest, derived engines, records, requests.

    manifest = parse(Manifest, content)

Stricter than JSON parsers are: UTF-8 only, no key twice, no NaN, no number or flag written as text, nothing unknown.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

_MOST_WORDS = 200
"""Characters that a file may contribute to a sentence about itself."""
_Shape = TypeVar("_Shape", bound=BaseModel)


class Strict(BaseModel):
    """What our files are made of: nothing unknown, nothing infinite, nothing that changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parse(shape: type[_Shape], content: bytes) -> _Shape:
    """Read a manifest, or another file of ours whose shape has a ``schema_version``, from its bytes.

    Stricter than JSON parsers are: UTF-8 only, no key twice, no NaN, no number or flag written as text.

    Raises:
        ValueError: what is wrong, in one clause that begins with where.
    """
    try:
        text = content.decode("utf-8")
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_int=_int)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: {error.msg[0].lower()}{error.msg[1:]}") from error
    known = shape.model_fields["schema_version"].default
    found = document.get("schema_version", known) if isinstance(document, dict) else known
    if type(found) is int and found != known:  # rather than the twenty faults that follow from it
        raise ValueError(f"it is of schema {found}, and this version reads schema {known}: compile it again")
    try:
        return shape.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise ValueError(_first(error)) from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")[:_MOST_WORDS]
    return f"{f'key {where[:_MOST_WORDS]!r}: ' if where else ''}{message[0].lower()}{message[1:]}{more}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)[:_MOST_WORDS]!r} is there twice")
    return found


def _int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"an integer of {len(digits)} digits is none that such a file holds")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
