"""Waveform rows, written by hand as each maker sends them."""

from __future__ import annotations

from datetime import UTC

import numpy as np
import pytest

from agent.core.ecg import ChannelKind, Lead
from agent.core.hl7.message import HL7Error, parse
from agent.core.hl7.waveform import Order, Wave, waves_of
from agent.sources.hl7.settings import load_dialects

DIALECTS = {dialect.name: dialect for dialect in load_dialects()}
OBR = "OBR|1|||69121^MDC_OBS_WAVE_CTS^MDC|||20231114221320.000+0000|20231114221322.000+0000"
GE = [
    "OBX|1|NA|131330^MDC_ECG_ELEC_POTL_II^MDC|1.5.0.1|0^100^-32767^-32768^-100^32767^-32752|uV^uV^UCUM|||||R",
    "OBX|2|NM|68320^MDC_ATTR_SAMPLE_RATE^MDC|1.5.0.1.1|240|s^s^UCUM|||||R",
    "OBX|3|NR|68323^MDC_ATTR_DATA_RANGE^MDC|1.5.0.1.2|-32751^32767||||||R",
    "OBX|4|NM|197376^MDC_EVT_DATA_INVALID^MDC|1.5.0.1.2.1|-32768||||||R",
    "OBX|5|NM|197378^MDC_EVT_DATA_MISSING^MDC|1.5.0.1.2.2|-32767||||||R",
    "OBX|6|NM|67945^MDC_ATTR_SA_MSMT_RES^MDC|1.5.0.1.3|2.44||||||R",
]
MINDRAY = [
    "OBX|1|NA|131330^MDC_ECG_ELEC_POTL_II^MDC|1.7.6.131330|1000^-500^32767|262656^MDC_DIM_DIMLESS^MDC",
    "OBX|2|NM|0^MDC_ATTR_SAMP_RATE^MDC|1.7.6.131330.1|500|264608^MDC_DIM_PER_SEC^MDC",
    "OBX|3|NM|2327^MDC_ATTR_NU_MSMT_RES^MDC|1.7.6.131330.2|1.000000|262656^MDC_DIM_DIMLESS^MDC",
    "OBX|4|NM|262196^MDC_EVT_INOP^MDC|1.7.6.131330.3|32767",
]
WCM = [
    "OBX|1001|NA|131329^MDC_ECG_LEAD_I^MDC|1.1.1.1001|-0.53714565^0.25^1|266418^MDC_DIM_MILLI_VOLT^MDC|||||F",
    "OBX|1002|NM|0^MDC_ATTR_SAMP_RATE^MDC|1.1.1.1001.1|150.0|264608^MDC_DIM_PER_SEC^MDC",
    "OBX|1003|NR|0^MDC_ATTR_DATA_RANGE^MDC|1.1.1.1001.2|-0.1^0.1|266418^MDC_DIM_MILLI_VOLT^MDC",
]


def read(name: str, rows: list[str], obr: str = OBR) -> tuple[list[Wave], list[HL7Error]]:
    message = parse("\r".join(["MSH|^~\\&|A|F|||20260101||ORU^R01|1|P|2.6", obr, *rows]).encode())
    orders = [Order(message.segments[1], message.segments[2:])]
    waves, errors = waves_of(message, orders, DIALECTS[name], UTC)
    assert all(index == 0 for index, _ in waves)
    return [wave for _, wave in waves], errors


def one(name: str, rows: list[str], obr: str = OBR) -> Wave:
    (wave,), errors = read(name, rows, obr)
    assert errors == []
    return wave


def refused(name: str, rows: list[str], obr: str = OBR) -> str:
    waves, (error,) = read(name, rows, obr)
    assert waves == []
    assert error.code == 102
    assert error.location.startswith(("OBX^", "OBR^"))
    return error.reason


def test_ge() -> None:
    wave = one("ge", GE)
    assert (wave.channel.lead, wave.channel.rate, wave.channel.unit) == (Lead.II, 240.0, "mV")
    assert wave.start == 1_700_000_000.0
    assert wave.values.dtype == np.float32
    nan = np.nan
    np.testing.assert_allclose(wave.values, [0, 0.244, nan, nan, -0.244, 32767 * 2.44e-3, nan], rtol=1e-6)


def test_ge_sentinels_without_a_range() -> None:
    wave = one("ge", [row for row in GE if "68323" not in row])
    assert np.isnan(wave.values).tolist() == [False, False, True, True, False, False, False]


def test_philips() -> None:
    samples = "^".join(["-10", "14", "4096"] + ["0"] * 497)
    rows = [
        "OBX|10|ST|68162^MDC_ATTR_FILTER_LABEL_STRING^MDC|1.1.1.1.1|0.5-40 Hz",
        f"OBX|11|NA|131329^MDC_ECG_ELEC_POTL_I^MDC|1.1.1.2|{samples}|10.mV/4096^10.mV/4096^UCUM|||||F",
        f"OBX|12|NA|131330^MDC_ECG_ELEC_POTL_II^MDC|1.1.2.2|{samples}|10.mV/4096^10.mV/4096^UCUM|||||F",
    ]
    obr = "OBR|9|||69121^MDC_OBS_WAVE_CTS^MDC |99999^GATEWAY^MDC||20231114221320.048|20231114221321.048"
    (first, second), errors = read("philips", rows, obr)
    assert errors == []
    assert (first.channel.rate, first.start) == (500.0, 1_700_000_000.048)
    np.testing.assert_allclose(first.values[:3], [-100 / 4096, 140 / 4096, 10.0], rtol=1e-6)
    assert first.channel.filter_label == "0.5-40 Hz"
    assert second.channel.filter_label == ""


@pytest.mark.parametrize(
    ("count", "end", "rate"),
    [(240, "20231114221320.999", 240.0), (256, "20231114221321.024", 250.0), (62, "20231114221320.992", 62.5),
     (360, "20231114221321.000", 360.0), (125, "20231114221320.992", 125.0), (1440, "20231114221326.000", 240.0),
     (500, "20231114221320.998", 500.0)],
)  # fmt: skip
def test_a_rate_told_by_times_is_a_rate_that_monitors_use(count: int, end: str, rate: float) -> None:
    row = f"OBX|1|NA|131329^MDC_ECG_ELEC_POTL_I^MDC|1.1.1.2|{'^'.join(['1'] * count)}|10.mV/4096"
    obr = f"OBR|9|||69121^MDC_OBS_WAVE_CTS^MDC|||20231114221320.000|{end}"
    assert one("philips", [row], obr).channel.rate == rate


@pytest.mark.parametrize(
    ("count", "end"),
    [
        (333, "20231114221321.000"),
        (2, "20231114221320.016"),
        (500, "20231114221320.000"),
        (500, "20231114221319.000"),
        (500, ""),
    ],
)
def test_a_rate_that_times_do_not_tell_is_not_guessed(count: int, end: str) -> None:
    row = f"OBX|1|NA|131329^MDC_ECG_ELEC_POTL_I^MDC|1.1.1.2|{'^'.join(['1'] * count)}|10.mV/4096"
    assert refused("philips", [row], f"OBR|9|||69121^MDC_OBS_WAVE_CTS^MDC|||20231114221320.000|{end}") == "rate"


def test_mindray() -> None:
    wave = one("mindray", MINDRAY)
    assert wave.channel.rate == 500.0
    np.testing.assert_allclose(wave.values, [1.0, -0.5, np.nan], rtol=1e-6)


def test_mindray_with_a_unit_in_the_resolution() -> None:
    rows = [
        MINDRAY[0].replace("262656^MDC_DIM_DIMLESS^MDC", ""),
        MINDRAY[1].replace("264608^MDC_DIM_PER_SEC^MDC", "264640^MDC_DIM_HZ^MDC"),
        "OBX|3|NM|67917^MDC_ATTR_NU_MSMT_RES^MDC|1.7.6.131330.2|0.02|266418^MDC_DIM_MILLI_VOLT^MDC",
        "OBX|4|NM|196660^MDC_EVT_INOP^MDC|1.7.6.131330.3|0||||||R",
    ]
    np.testing.assert_allclose(one("mindray", rows).values, [20.0, -10.0, np.nan], rtol=1e-6)
    rows[3] = rows[3].replace("|0||", "|1||")
    assert np.isnan(one("mindray", rows).values).all()


def test_a_message_without_times_has_no_start() -> None:
    wave = one("mindray_w01", MINDRAY, "OBR|1||42^XH80X^00A0^EUI-64|CONTINUOUS WAVEFORM||||")
    assert wave.start is None
    assert wave.channel.rate == 500.0


def test_an_end_alone_tells_the_start() -> None:
    wave = one("ge", GE, "OBR|1|||69121||||20231114221320.000+0000")
    assert wave.start == pytest.approx(1_700_000_000 - 7 / 240)


def test_wcm_draft_has_decimals_and_a_range_that_limits_nothing() -> None:
    wave = one("wcm", WCM)
    assert (wave.channel.lead, wave.channel.rate) == (Lead.I, 150.0)
    np.testing.assert_allclose(wave.values, [-0.53714565, 0.25, 1.0], rtol=1e-6)


def test_other_channels_keep_their_unit() -> None:
    rows = [
        "OBX|1|NA|150036^MDC_PRESS_BLD_ART_ABP^MDC|1.1.1.1|80^120|266016^MDC_DIM_MMHG^MDC",
        "OBX|2|NM|68320^MDC_ATTR_SAMPLE_RATE^MDC|1.1.1.1.1|125|264608^MDC_DIM_PER_SEC^MDC",
        "OBX|3|NA|150452^MDC_PULS_OXIM_PLETH^MDC|1.1.1.2|1^2|262656^MDC_DIM_DIMLESS^MDC",
        "OBX|4|NM|68320^MDC_ATTR_SAMPLE_RATE^MDC|1.1.1.2.1|60|264608^MDC_DIM_PER_SEC^MDC",
    ]
    (abp, pleth), errors = read("ihe", rows)
    assert errors == []
    assert (abp.channel.kind, abp.channel.unit, abp.channel.rate) == (ChannelKind.ABP, "mm[Hg]", 125.0)
    assert (pleth.channel.kind, pleth.channel.unit, pleth.channel.rate) == (ChannelKind.PLETH, "1", 60.0)
    assert abp.values.tolist() == [80.0, 120.0]


def test_derived_leads_say_so() -> None:
    assert one("wcm", [WCM[0].replace("131329^MDC_ECG_LEAD_I", "131103^"), *WCM[1:]]).channel.derived
    assert not one("wcm", WCM).channel.derived


def test_repetitions_follow_each_other_and_any_component_mark_will_do() -> None:
    assert one("wcm", [WCM[0].replace("0.25^1", "0.25~1"), *WCM[1:]]).values.shape == (3,)
    text = "\r".join(["MSH|*~\\&|A|F|||20260101||ORU*R01|1|P|2.6", OBR, *WCM])
    message = parse(text.replace("^", "*").encode())
    waves, errors = waves_of(message, [Order(message.segments[1], message.segments[2:])], DIALECTS["wcm"], UTC)
    assert errors == []
    assert len(waves[0][1].values) == 3


def test_a_lead_that_is_off_is_neither_channel_nor_fault() -> None:
    assert read("ge", [GE[0].replace("0^100^-32767^-32768^-100^32767^-32752", ""), *GE[1:]]) == ([], [])


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("ge", "131330^MDC_ECG_ELEC_POTL_II", "131331^MDC_ECG_ELEC_POTL_III", "code_mismatch"),
        ("ge", "131330^", "x" * 5000 + "^", "code_length"),
        ("ge", "0^100^", "0^1OO^", "values"),
        ("ge", "|240|", "|many|", "facet"),
        ("ge", "|240|", "|0|", "rate"),
        ("ge", "|240|", "|nan|", "rate"),
        ("ge", "|240|", "|99999|", "rate"),
        ("ge", "68320^MDC_ATTR_SAMPLE_RATE", "1^MDC_NOTHING", "rate"),
        ("ge", "|2.44|", "|0|", "resolution"),
        ("ge", "|2.44|", "|-1|", "resolution"),
        ("ge", "|2.44|", "|2.44|furlong", "resolution"),
        ("ge", "uV^uV^UCUM", "furlong", "unit"),
        ("ge", "uV^uV^UCUM", "mm[Hg]", "unit"),
        ("ge", "-32751^32767|", "-32751|", "range"),
        ("ihe", "", "", "rate"),  # 240 "s" is a rate for nobody who is not known to mean Hz
        ("mindray", "", "", ""),
    ],
)
def test_a_channel_that_contradicts_itself_is_quarantined(name: str, old: str, new: str, reason: str) -> None:
    if name == "mindray":  # two resolutions
        assert refused(name, [*MINDRAY, MINDRAY[2].replace("1.000000", "2.0")]) == "resolution"
        return
    rows = [row.replace(old, new) if old else row for row in GE]
    assert refused(name, rows) == reason


def test_its_neighbours_are_kept() -> None:
    bad = [
        row.replace("131330^MDC_ECG_ELEC_POTL_II", "131331^MDC_ECG_LEAD_III").replace("1.5.0.1", "1.5.0.2")
        for row in GE
    ]
    (wave,), (error,) = read("ge", [*bad, *GE])
    assert wave.channel.lead is Lead.II
    assert error.reason == "code_mismatch"
    assert error.location == "OBX^1^3"


def test_a_dimensionless_ecg_needs_a_scale_from_its_maker() -> None:
    rows = [MINDRAY[0], "OBX|2|NM|68320^MDC_ATTR_SAMPLE_RATE^MDC|1.7.6.131330.1|500|264608^MDC_DIM_PER_SEC^MDC"]
    assert refused("ihe", rows) == "unit"


def test_times_that_are_none_quarantine() -> None:
    assert refused("ge", GE, OBR.replace("20231114221320.000+0000", "noon")) == "time"


def test_resolutions_beyond_all_measure_leave_no_infinity() -> None:
    assert not np.isinf(one("ge", [*GE[:5], GE[5].replace("2.44", "1e300")]).values).any()
