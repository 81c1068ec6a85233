"""Arrays of OBX-5: the fast way and the careful way give what `float` gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.hl7.numbers import parse_arrays

integers = st.integers(-(10**14), 10**14).map(str)
decimals = st.decimals(-(10**6), 10**6, places=4).map(str)
odd = st.sampled_from(["", "+5", "1e-3", " 7 ", "-0.5", ".5", "5.", "-.25", "0", "-0"])
numbers = st.lists(st.one_of(integers, decimals, odd), min_size=1, max_size=12)


def expected(text: str) -> list[float]:
    tokens = text.rstrip("^ ").split("^")
    return [] if tokens == [""] else [float(token) if token.strip() else np.nan for token in tokens]


@given(st.lists(numbers, min_size=1, max_size=4))
def test_numbers_are_read_as_float_reads_them(fields: list[list[str]]) -> None:
    texts = ["^".join(field) for field in fields]
    parsed = parse_arrays([text.encode() for text in texts])
    arrays = parsed.values
    for text, array in zip(texts, arrays, strict=True):
        assert array is not None
        np.testing.assert_allclose(array, expected(text), rtol=1e-15)
        assert not (np.abs(array) > parsed.bound).any()


@pytest.mark.parametrize(
    "bad",
    [
        b".",
        b"..",
        b"-.",
        b".^.",
        b"1^x^3",
        b"1^-^2",
        b"1^2-3",
        b"1.2.3",
        b"--1",
        b"nan",
        b"inf^1",
        b"1_0",
        b"0x1",
        b"1,5",
        b"\xff^1",
        b"^^\x00",
    ],
)
def test_a_field_that_is_no_array_is_refused_and_its_neighbours_are_not(bad: bytes) -> None:
    first, refused, last = parse_arrays([b"1^2", bad, b"-3.5"]).values
    assert refused is None
    assert first is not None
    assert last is not None
    assert (first.tolist(), last.tolist()) == ([1.0, 2.0], [-3.5])


def test_empty_fields_and_trailing_separators() -> None:
    assert [a.tolist() for a in parse_arrays([b"", b"1^2^", b"^"]).values if a is not None] == [[], [1.0, 2.0], []]
    assert parse_arrays([]).values == ()


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_any_bytes_give_arrays_or_nothing(fields: list[bytes]) -> None:
    assert len(parse_arrays(fields).values) == len(fields)
