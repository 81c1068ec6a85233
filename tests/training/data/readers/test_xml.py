"""XML without trust: bombs, foreign files, other roots."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.readers.xml import begins_with, decimal, files, parse, text

BOMB = """<?xml version="1.0"?>
<!DOCTYPE RestingECG [
  <!ENTITY a "aaaaaaaaaa"> <!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"> <!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
]>
<RestingECG>&c;</RestingECG>"""
OUTSIDE = """<!DOCTYPE RestingECG [<!ENTITY x SYSTEM "file:///etc/hostname">]><RestingECG>&x;</RestingECG>"""
PARAMETER = """<!DOCTYPE RestingECG [<!ENTITY % x SYSTEM "file:///etc/hostname"> %x;]><RestingECG/>"""


@pytest.mark.parametrize("bomb", [BOMB, OUTSIDE, PARAMETER])
def test_entities_are_refused(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "bomb.xml"
    path.write_text(bomb)
    with pytest.raises(ValueError, match="it declares entities"):
        parse(path, "RestingECG")


def test_a_document_type_alone_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?><!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG/>'
    )
    assert parse(path, "RestingECG").tag == "RestingECG"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("<a><b></a>", "no well-formed XML"), ("", "no well-formed XML"), ("<Other/>", "its root is not RestingECG")],
)
def test_anything_else_is_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        parse(path, "RestingECG")


def test_namespaces_and_encodings(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.xml"
    path.parent.mkdir()
    path.write_text('<?xml version="1.0" encoding="UTF-16"?><R xmlns="urn:x"><b> ü </b></R>', "utf-16")
    assert text(parse(path, "R"), "b") == "ü"
    assert text(parse(path, "R"), "c", "none") == "none"
    assert begins_with(tmp_path, "R")
    assert not begins_with(tmp_path, "RestingECG")
    assert [name for name, _ in files(tmp_path)] == ["deep/a"]


def test_decimal_commas() -> None:
    assert decimal("4,88", "it") == 4.88
    with pytest.raises(ValueError, match="scale is 'x', which is no number"):
        decimal("x", "scale")
