"""Descriptions of channels, apart from the messages that they come in."""

from __future__ import annotations

import pytest

from agent.core.ecg import Channel, ChannelKind, Lead
from agent.core.hl7.channel import DescriptionError, Facet, Rules, channel, describe

PLAIN = Rules(always_hertz=False, dimensionless_mv=None, sentinels=())
HZ = Facet("rate", b"250", b"264608^MDC_DIM_PER_SEC^MDC")


def test_a_channel_is_described_by_its_row_and_facets() -> None:
    facets = (
        HZ,
        Facet("resolution", b"2.5", b""),
        Facet("range", b"-100^100", b""),
        Facet("sentinel", b"-100", b""),
        Facet("sentinel", b"-101", b""),
        Facet("inoperative", b"0", b""),
    )
    found = describe(b"131330^MDC_ECG_ELEC_POTL_II^MDC", b"uV^uV^UCUM", facets, b"^", PLAIN)
    assert (found.rate, found.low, found.high, found.sentinels, found.inoperative) == (250, -100, 100, (-100,), False)
    assert found.factor == pytest.approx(0.0025)
    assert channel(found, 250.0, "0.5-40 Hz") == Channel(
        ChannelKind.ECG, 131330, "MDC_ECG_ELEC_POTL_II", "mV", 250.0, Lead.II, derived=False, filter_label="0.5-40 Hz"
    )


def test_the_same_words_give_the_same_objects() -> None:
    first, second = (describe(b"131329^^MDC", b"mV", (HZ,), b"^", PLAIN) for _ in range(2))
    assert first is second
    assert channel(first, 250.0, "") is channel(second, 250.0, "")
    other = describe(b"131329^^MDC", b"mV", (HZ,), b"^", PLAIN._replace(sentinels=(7.0,)))
    assert other is not first
    assert other.sentinels == (7.0,)


def test_a_row_without_a_rate_leaves_it_to_the_times() -> None:
    assert describe(b"131329^^MDC", b"mV", (), b"^", PLAIN).rate is None


def test_a_flag_makes_the_whole_channel_inoperative_and_a_sentinel_does_not() -> None:
    flagged = describe(b"131329", b"mV", (HZ, Facet("inoperative", b"1", b"")), b"^", PLAIN)
    assert flagged.inoperative
    marked = describe(b"131329", b"mV", (HZ, Facet("inoperative", b"32767", b"")), b"^", PLAIN)
    assert (marked.inoperative, marked.sentinels) == (False, (32767.0,))


@pytest.mark.parametrize(
    ("facets", "reason", "at"),
    [
        ((HZ, HZ._replace(value=b"500")), "rate", 0),
        ((HZ, Facet("resolution", b"inf", b"mV")), "resolution", 1),
        ((HZ, Facet("range", b"1", b"")), "range", 1),
        ((HZ, Facet("sentinel", b"x", b"")), "facet", 1),
        ((HZ, Facet("resolution", b"1", b"mm[Hg]")), "unit", None),
    ],
)
def test_a_flaw_names_the_facet(facets: tuple[Facet, ...], reason: str, at: int | None) -> None:
    with pytest.raises(DescriptionError) as caught:
        describe(b"131329", b"uV", facets, b"^", PLAIN)
    assert (caught.value.reason, caught.value.facet) == (reason, at)
