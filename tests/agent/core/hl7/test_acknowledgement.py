"""Acknowledgements: modes, the sender's own delimiters, ERR in both of its forms."""

from __future__ import annotations

import hl7apy.parser
import pytest

from agent.core.hl7.acknowledgement import acknowledge, answers, header_of
from agent.core.hl7.message import HL7Error, parse

START = 1_700_000_000.0


@pytest.mark.parametrize(
    ("accept", "application", "aa", "ae", "ar"),
    [
        ("", "", ("AA",), ("AE",), ("AR",)),
        ("AL", "NE", ("CA",), ("CE",), ("CR",)),
        ("AL", "AL", ("CA", "AA"), ("CA", "AE"), ("CR",)),
        ("NE", "AL", ("AA",), ("AE",), ("AR",)),
        ("NE", "NE", (), (), ()),
        ("ER", "ER", (), ("AE",), ("CR",)),
        ("SU", "ER", ("CA",), ("CA", "AE"), ("AR",)),
        ("ER", "NE", (), ("CE",), ("CR",)),
        ("SU", "SU", ("CA", "AA"), (), ()),
        ("AL", "", ("CA",), ("CE",), ("CR",)),
    ],
)
def test_acknowledgement_modes(
    accept: str, application: str, aa: tuple[str, ...], ae: tuple[str, ...], ar: tuple[str, ...]
) -> None:
    header = header_of(parse(f"MSH|^~\\&|A|B|||1||ORU^R01|1|P|2.6|||{accept}|{application}\r".encode()))
    assert (answers(header, "AA"), answers(header, "AE"), answers(header, "AR")) == (aa, ae, ar)


def test_the_acknowledgement_speaks_as_the_sender_does() -> None:
    header = header_of(parse(b"MSH$%~\\&$APP%1$FAC$US$HERE$20260101$$ORU%R01$A\\F\\7$T$2.6\r"))
    error = HL7Error("x", "price in $ & more", code=204, location="PV1^1^3")
    rows = acknowledge(header, "AE", control_id="9", created=START, errors=[error]).split(b"\r")
    assert rows == [
        b"MSH$%~\\&$US$HERE$APP%1$FAC$20231114221320.000+0000$$ACK%R01%ACK$9$T$2.6",
        b"MSA$AE$A\\F\\7",
        b"ERR$$PV1%1%3$204%Unknown key identifier%HL70357$E$$$$price in \\F\\ \\T\\ more",
        b"",
    ]


def test_the_acknowledgement_before_version_2_5_has_its_error_in_err_1() -> None:
    header = header_of(parse(b"MSH|^~\\&|A|B|||1||ORU^W01|1|P|2.4\r"))
    error = HL7Error("x", "what is wrong", code=102, location="OBX^4^5")
    rows = acknowledge(header, "AE", control_id="9", created=START, errors=[error]).split(b"\r")
    assert rows[1:3] == [b"MSA|AE|1|what is wrong", b"ERR|OBX^4^5^102&Data type error&HL70357"]


def test_the_acknowledgement_to_nobody_and_of_a_giant() -> None:
    assert b"\rMSA|AR|\r" in acknowledge(None, "AR", control_id="9", created=START)
    giant = header_of(parse(b"MSH|^~\\&|" + b"A" * 100_000 + b"|B|||1||ORU^R01|" + b"7" * 100_000 + b"|P|2.6\r"))
    errors = [HL7Error("x", "text", code=102)] * 1000
    assert len(acknowledge(giant, "AE", control_id="9", created=START, errors=errors)) < 8000


@pytest.mark.parametrize("version", ["2.5", "2.6"])
def test_another_library_reads_our_acknowledgements(version: str) -> None:
    header = header_of(parse(f"MSH|^~\\&|A|B|C|D|1||ORU^R01|M1|P|{version}\r".encode()))
    error = HL7Error("x", "what is wrong", code=102, location="OBX^4^5")
    text = acknowledge(header, "AE", control_id="9", created=START, errors=[error]).decode()
    read = hl7apy.parser.parse_message(text)
    assert read.msa.msa_1.value == "AE"
    assert read.msa.msa_2.value == "M1"
    assert read.err.err_3.err_3_1.value == "102"
    assert read.err.err_8.value == "what is wrong"
