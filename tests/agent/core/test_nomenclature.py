"""The one table, against the standard's own numbers, in every spelling, and the same in every room that reads it."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import nomenclature as module
from agent.core.ecg import LEADS, Channel, ChannelKind, Lead
from agent.core.hl7.channel import Facet, Rules, channel, describe
from agent.core.mqtt.block import channel_of, code_of_lead
from agent.core.nomenclature import (
    CODE_OF_LEAD,
    ECG_LEAD,
    SOURCES,
    TERMS,
    UNITS,
    Term,
    Unit,
    millivolts_per,
    term_of_code,
    term_of_name,
    term_of_ref_id,
    unit_of,
)

RULES = Rules(always_hertz=False, dimensionless_mv=None, sentinels=())
HZ = (Facet("rate", b"250", b"Hz"),)


def by_hl7(code: int, ref_id: str, unit: str) -> Channel:
    observation = f"{code}^{ref_id}^MDC".encode()
    return channel(describe(observation, unit.encode(), HZ, b"^", RULES), 250.0, "")


# The table itself -----------------------------------------------------------------------------------------------------


def test_every_lead_has_its_code() -> None:
    assert [CODE_OF_LEAD[lead] for lead in LEADS] == [
        131329, 131330, 131389, 131390, 131391, 131392, 131331, 131332, 131333, 131334, 131335, 131336,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "lead", "derived"),
    [
        (131328, None, False),
        (131395, None, False),
        (131403, None, False),
        (131310, None, False),  # seen in a fixture as lead I: an electrode that is not in the table, never guessed
        # DICOM CID 3001
        (131134, Lead.AVR, False),
        (131136, Lead.AVF, False),
        (131103, Lead.I, True),
        (131104, Lead.II, True),
        (131183, Lead.III, True),
        *((131105 + k, lead, True) for k, lead in enumerate(LEADS[6:])),
        (131204, None, True),
        (131205, None, True),
    ],
)
def test_electrodes_beside_the_twelve_measured_leads(code: int, lead: Lead | None, derived: bool) -> None:
    term = term_of_code(code)
    assert term is not None
    assert (term.kind, term.unit, term.lead, term.derived) == (ChannelKind.ECG, "mV", lead, derived)


def test_no_code_and_no_name_comes_twice() -> None:
    assert len({term.code for term in TERMS}) == len({term.ref_id for term in TERMS}) == len(TERMS)
    spellings = [spelling.casefold() for _, spellings in UNITS for spelling in spellings]
    assert len(set(spellings)) == len(spellings)


@pytest.mark.parametrize("code", [0, ECG_LEAD, 131328 + 256, 150456, 184327])
def test_what_is_no_waveform_is_none(code: int) -> None:
    assert term_of_code(code) is None


def test_sources_of_alerts() -> None:
    assert SOURCES[131328] == "MDC_ECG_ELEC_POTL"
    assert (SOURCES[131841], SOURCES[131901], SOURCES[131902], SOURCES[131848]) == (
        "MDC_ECG_AMPL_ST_I", "MDC_ECG_AMPL_ST_III", "MDC_ECG_AMPL_ST_AVR", "MDC_ECG_AMPL_ST_V6",
    )  # fmt: skip
    assert len(SOURCES) == 13


# One meaning in every room --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", TERMS, ids=lambda term: str(term.code))
def test_hl7_and_mqtt_make_the_same_channel_of_every_row(term: Term) -> None:
    over_mqtt = channel_of(term.code, 250.0, "")
    for ref_id in (term.ref_id, ""):
        over_hl7 = by_hl7(term.code, ref_id, term.unit)
        for found in (over_hl7, over_mqtt):
            assert (found.kind, found.code, found.lead, found.derived, found.unit) == (
                term.kind, term.code, term.lead, term.derived, term.unit,
            )  # fmt: skip
    assert term_of_code(term.code) is term
    assert term_of_ref_id(term.ref_id.lower()) is term
    assert term_of_name(f" {term.ref_id.lower()} ") is term


@given(st.integers(0, 1 << 20))
def test_hl7_and_mqtt_agree_on_any_code(code: int) -> None:
    term = term_of_code(code)
    over_hl7, over_mqtt = by_hl7(code, "", term.unit if term else "1"), channel_of(code, 250.0, "")
    assert (over_hl7.kind, over_hl7.lead, over_hl7.derived) == (over_mqtt.kind, over_mqtt.lead, over_mqtt.derived)


# Names ----------------------------------------------------------------------------------------------------------------

PREFIXES = ("", "ECG ", "ECG_", "ECG-", "EKG ", "Lead ", "LEAD_", "lead", "ECG lead ", "ecg_lead_")


@given(st.sampled_from(LEADS), st.sampled_from(PREFIXES), st.sampled_from([str, str.lower, str.upper, str.title]))
def test_a_leads_name_comes_back_in_every_spelling(lead: Lead, prefix: str, cased: type[str]) -> None:
    term = term_of_name(f" {cased(prefix + lead.value)} ")
    assert term is not None
    assert (term.lead, term.code, term.derived) == (lead, CODE_OF_LEAD[lead], False)
    for stem in ("MDC_ECG_ELEC_POTL_", "MDC_ECG_LEAD_"):
        full = term_of_name(cased(stem + lead.value))
        assert full is not None
        assert full.lead is lead


@pytest.mark.parametrize(
    ("name", "lead", "code"),
    [
        ("MLII", Lead.II, 131330),
        ("MLI", Lead.I, 131329),
        ("MLIII", Lead.III, 131389),
        ("DI", Lead.I, 131329),
        ("DII", Lead.II, 131330),
        ("ECG DIII", Lead.III, 131389),
        ("MDC_ECG_LEAD_DII", Lead.II, 131104),  # here the D says that the device computed it
        ("V", None, 131395),
        ("MCL", None, 131403),
        ("MCL1", None, 131403),
        ("ECG", None, 131328),
        ("ECG V", None, 131395),
    ],
)
def test_names_beside_the_twelve(name: str, lead: Lead | None, code: int) -> None:
    term = term_of_name(name)
    assert term is not None
    assert (term.kind, term.lead, term.code) == (ChannelKind.ECG, lead, code)
    assert code_of_lead(name) == code


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("PLETH", ChannelKind.PLETH),
        ("abp", ChannelKind.ABP),
        ("ART", ChannelKind.ABP),
        ("Resp", ChannelKind.RESP),
        ("MDC_PRESS_BLD_ART_ABP", ChannelKind.ABP),
    ],
)
def test_names_of_other_waves(name: str, kind: ChannelKind) -> None:
    term = term_of_name(name)
    assert term is not None
    assert term.kind is kind


@pytest.mark.parametrize(
    "name",
    ["", "VII", "V7", "V0", "IIII", "D2", "CM5", "ECG1", "ECG PLETH", "Lead", "lead ", "AS", "-aVR", "ECG -aVR",
     "ECG--aVR", "Lead 2", "II filtered", "MDC_ECG_LEAD_X7", "MDC_ECG_HEART_RATE", "Müller"],
)  # fmt: skip
def test_what_is_no_name_of_a_channel_is_none(name: str) -> None:
    assert term_of_name(name) is None


# Units ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spellings", "expected"),
    [
        ("V volt Volts 266400 MDC_DIM_VOLT", Unit("mV", 1e3)),
        ("mV mv MV millivolt millivolts 266418 MDC_DIM_MILLI_VOLT", Unit("mV", 1.0)),
        ("uV UV \u00b5V \u03bcV microV microvolt MICROVOLTS 266419 MDC_DIM_MICRO_VOLT", Unit("mV", 1e-3)),
        ("nV nanovolts 266420", Unit("mV", 1e-6)),
        ("mm[Hg] mmHg MMHG 266016 MDC_DIM_MMHG", Unit("mm[Hg]", 1.0)),
        ("kPa", Unit("mm[Hg]", 7.50062)),
        ("% 262688", Unit("%", 1.0)),
        ("Ohm", Unit("Ohm", 1.0)),
        ("1 NU adu 262656 MDC_DIM_DIMLESS", Unit("1", 1.0)),
        ("Hz /s 1/s s-1 264608 264640", Unit("Hz", 1.0)),
        ("s 264320", Unit("s", 1.0)),
        ("ms 264338", Unit("s", 1e-3)),
    ],
)
def test_units_in_their_spellings(spellings: str, expected: Unit) -> None:
    for spelling in spellings.split():
        assert unit_of(f" {spelling} ") == expected, spelling


def test_no_unit_is_dimensionless_and_an_unknown_one_is_none() -> None:
    assert unit_of("") == Unit("1", 1.0)
    assert unit_of("furlong") is None
    assert [millivolts_per(text) for text in ("microV", "mmHg", "furlong", "")] == [1e-3, None, None, None]


def test_the_modules_own_example() -> None:
    assert doctest.testmod(module) == doctest.TestResults(failed=0, attempted=2)
