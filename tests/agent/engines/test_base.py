"""Batch sizes of a GPU engine: every window is computed once, in the smallest bucket that does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.engines.base import in_buckets


@given(st.integers(0, 200), st.sets(st.integers(1, 64), min_size=1, max_size=6).map(sorted))
def test_buckets_cover_every_window_once_in_order(n: int, buckets: list[int]) -> None:
    parts = list(in_buckets(n, buckets))
    assert [i for part, _ in parts for i in range(n)[part]] == list(range(n))
    for part, bucket in parts:
        size = part.stop - part.start
        assert bucket in buckets
        assert 0 < size <= bucket
        assert not [smaller for smaller in buckets if size <= smaller < bucket], "a smaller bucket would have done"
    assert all(bucket == buckets[-1] for _, bucket in parts[:-1])
