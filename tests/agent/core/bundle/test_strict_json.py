"""The reader of our own JSON: what it refuses, on the largest of its shapes, and in what words."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from agent.core.bundle.manifest import Manifest
from agent.core.bundle.strict_json import parse
from agent.engines.bundles.bundle import default_bundle


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((default_bundle() / "manifest.json").read_text(encoding="utf-8"))
    return document


def test_a_truncated_manifest_is_refused(shipped: dict[str, Any]) -> None:
    text = json.dumps(shipped).encode()
    for end in range(0, len(text), max(1, len(text) // 50)):
        with pytest.raises(ValueError, match=r"^(line|byte|key)"):
            parse(Manifest, text[:end])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' is there twice"),
        (b'{"x": {"b": {}, "b": {}}}', "key 'b' is there twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b"9" * 10_000, "10000 digits"),
        (b'{"name": "\xff"}', "byte 10 is not UTF-8"),
        ('{"name": "é"}'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"name": "\\ud800"}', "invalid JSON"),
        (b"[]", "should be an object"),
        (b"null", "should be an object"),
        (b'{"schema_version": 1}', "schema 1, and this version reads schema 2"),
        (b'{"schema_version": "2"}', "schema_version"),
    ],
)
def test_json_that_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse(Manifest, content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_manifest_cannot_fill_the_log(shipped: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="key 'kkk") as caught:
        parse(Manifest, json.dumps(shipped | {"k" * 1_000_000: 1}).encode())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("version",), 1),
        (("training", "patients"), "724"),
        (("training", "patients"), 724.0),
        (("golden", "tolerance"), "0.0001"),
        (("golden", "tolerance"), True),
        (("labels", 0, "evidence", "auroc"), 1e999),
        (("files", "model.bin", "size"), None),
        (("engines", 0, "files"), "model.xml"),
    ],
)
def test_a_value_of_another_type_is_refused(shipped: dict[str, Any], where: tuple[Any, ...], value: object) -> None:
    document = copy.deepcopy(shipped)
    inner = document
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    content = json.dumps(document).replace("Infinity", "1e999").encode()
    with pytest.raises(ValueError, match=".".join(map(str, where))):
        parse(Manifest, content)
