"""What the settings and the manifest say of their fields, read from the source when somebody asks.

Each field of a settings model has its meaning as a string below it. pydantic can read those itself
(``use_attribute_docstrings``), but does so whenever a class is made: it looks for the source of every model in every
module that is loaded, a fifth of all that the agent imports for its start. The reference configuration and the JSON
Schema are written seldom, so here they are read then.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel


def attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """By field: the string below it, in the model or the class that it inherits the field from; "" where none is."""
    found = dict.fromkeys(model.model_fields, "")
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= {name: text for name, text in _own(base).items() if name in found}
    return found


def with_descriptions(schema: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a model, with a ``description`` for each field that has a string below it."""
    schema = {**schema, "$defs": {name: dict(part) for name, part in schema.get("$defs", {}).items()}}
    for each in {one.__name__: one for one in (model, *_within(model))}.values():
        part = schema if each is model else schema["$defs"].get(each.__name__)
        if part is None or "properties" not in part:
            continue
        texts = attribute_docstrings(each)
        part["properties"] = {
            key: {**({"description": texts[key]} if texts.get(key) else {}), **value}
            for key, value in part["properties"].items()
        }
    return schema


def _own(model: type[BaseModel]) -> dict[str, str]:
    """The strings in one class's body: each that follows an annotated name."""
    module = sys.modules[model.__module__]
    body = _classes(ast.parse(inspect.getsource(module))).get(model.__qualname__, [])
    texts = {}
    for field, below in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            texts[field.target.id] = inspect.cleandoc(below.value.value)
    return texts


def _classes(tree: ast.AST, path: str = "") -> dict[str, list[ast.stmt]]:
    """The bodies of a module's classes, by qualified name."""
    found: dict[str, list[ast.stmt]] = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            found[f"{path}{node.name}"] = node.body
            found |= _classes(node, f"{path}{node.name}.")
    return found


def _within(model: type[BaseModel], seen: frozenset[type[BaseModel]] = frozenset()) -> Iterator[type[BaseModel]]:
    """The models of a model's fields, of their fields, and so on."""
    for field in model.model_fields.values():
        for each in _models(field.annotation):
            if each not in seen:
                yield each
                yield from _within(each, seen | {model, each})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
