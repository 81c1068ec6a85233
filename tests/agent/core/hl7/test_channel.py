"""Descriptions of channels, apart from the messages that they come in."""

from __future__ import annotations

import pytest

from agent.core.ecg import Channel, ChannelKind, Lead
from agent.core.hl7.channel import DescriptionError, Facet, Rules, agreed, channel, describe, rate_from, unit_of_field

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


# Code and RefId -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ref_id", "lead", "derived"),
    [
        (131329, "MDC_ECG_ELEC_POTL_I", Lead.I, False),
        (131330, "MDC_ECG_LEAD_II", Lead.II, False),
        (131389, "", Lead.III, False),
        (131390, "MDC_ECG_ELEC_POTL_AVR", Lead.AVR, False),
        (131391, "MDC_ECG_ELEC_POTL_aVL", Lead.AVL, False),
        (131336, "MDC_ECG_ELEC_POTL_V6", Lead.V6, False),
        (0, "MDC_ECG_ELEC_POTL_V3", Lead.V3, False),
        (131395, "MDC_ECG_ELEC_POTL_V", None, False),
        (131403, "MDC_ECG_ELEC_POTL_MCL", None, False),
        (131328, "MDC_ECG_ELEC_POTL", None, False),
        (131340, "MDC_ECG_ELEC_POTL_V3R", None, False),
        (131103, "", Lead.I, True),
        (131183, "MDC_ECG_LEAD_DIII", Lead.III, True),
        (131204, "", None, True),
    ],
)
def test_code_and_ref_id_of_ecg(code: int, ref_id: str, lead: Lead | None, derived: bool) -> None:
    found = agreed(code, ref_id)
    assert found is not None
    assert (found.kind, found.lead, found.derived) == (ChannelKind.ECG, lead, derived)


@pytest.mark.parametrize(
    ("code", "ref_id", "kind"),
    [
        (150452, "MDC_PULS_OXIM_PLETH", ChannelKind.PLETH),
        (150036, "MDC_PRESS_BLD_ART_ABP", ChannelKind.ABP),
        (150032, "", ChannelKind.ABP),
        (151780, "MDC_IMPED_TTHOR", ChannelKind.RESP),
        (0, "Paw", ChannelKind.OTHER),
        (150452, "Pleth", ChannelKind.PLETH),
        (999999, "MDC_SOMETHING_ELSE", ChannelKind.OTHER),
        (0, "", ChannelKind.OTHER),
    ],
)
def test_code_and_ref_id_of_other_waves(code: int, ref_id: str, kind: ChannelKind) -> None:
    found = agreed(code, ref_id)
    assert found is not None
    assert found.kind is kind


@pytest.mark.parametrize(
    ("code", "ref_id"),
    [
        (131331, "MDC_ECG_LEAD_III"),
        (131310, "MDC_ECG_ELEC_POTL_I"),
        (131330, "MDC_PULS_OXIM_PLETH"),
        (149504, "MDC_PULS_OXIM_PLETH"),
        (131329, "MDC_ECG_ELEC_POTL_X7"),
        (150036, "MDC_PRESS_BLD_VEN_CENT"),
        (131329, "MDC_ECG_ELEC_POTL"),
    ],
)
def test_a_code_and_a_ref_id_that_disagree_mean_nothing(code: int, ref_id: str) -> None:
    assert agreed(code, ref_id) is None


# OBX-6 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifiers", "expected"),
    [
        (("266418", "MDC_DIM_MILLI_VOLT", "MDC"), ("mV", 1.0)),
        (("uV", "uV", "UCUM"), ("mV", 1e-3)),
        (("µV",), ("mV", 1e-3)),
        (("10.mV/4096", "10.mV/4096", "UCUM"), ("mV", 10 / 4096)),
        (("10.\u00b5V/4096",), ("mV", 0.01 / 4096)),
        (("2.44uV",), ("mV", 2.44e-3)),
        (("262656", "MDC_DIM_DIMLESS", "MDC"), ("1", 1.0)),
        ((), ("1", 1.0)),
        (("mm[Hg]", "mm[Hg]", "UCUM"), ("mm[Hg]", 1.0)),
        (("furlong",), None),
        (("10.furlong/4096",), None),
        (("1.mV/0",), None),
    ],
)
def test_units(identifiers: tuple[str, ...], expected: tuple[str, float] | None) -> None:
    found = unit_of_field(identifiers)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.ucum == expected[0]
        assert found.factor == pytest.approx(expected[1])


def test_rates() -> None:
    assert rate_from(500, ("264608", "MDC_DIM_PER_SEC", "MDC"), always_hertz=False) == 500
    assert rate_from(240, ("s", "s", "UCUM"), always_hertz=True) == 240
    assert rate_from(240, ("s", "s", "UCUM"), always_hertz=False) is None
    assert rate_from(0.004, ("s",), always_hertz=False) == pytest.approx(250)
    assert rate_from(2, ("ms",), always_hertz=False) == pytest.approx(500)
    assert rate_from(2, ("furlong",), always_hertz=False) is None
    assert rate_from(0, ("s",), always_hertz=False) is None
