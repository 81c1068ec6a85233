"""MDC codes of channels, and what every payload's fields have in common."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.ecg import LEADS, ChannelKind, Lead
from agent.core.mqtt.block import PayloadError, Reason, channel_of, code_of_lead, ecg_block
from agent.core.nomenclature import CODE_OF_LEAD

# ISO/IEEE 11073-10101, as in the reference: 131328 + lead id
MDC = {
    "I": 131329, "II": 131330, "III": 131389, "aVR": 131390, "aVL": 131391, "aVF": 131392,
    "V1": 131331, "V2": 131332, "V3": 131333, "V4": 131334, "V5": 131335, "V6": 131336,
}  # fmt: skip


def test_codes_of_the_twelve_leads() -> None:
    assert {lead.value: code for lead, code in CODE_OF_LEAD.items()} == MDC
    for lead in LEADS:
        assert code_of_lead(lead.value) == MDC[lead.value]
        channel = channel_of(MDC[lead.value], 500.0, "")
        assert (channel.lead, channel.kind, channel.unit, channel.derived) == (lead, ChannelKind.ECG, "mV", False)


@pytest.mark.parametrize(
    ("code", "lead", "derived"),
    [
        (131134, Lead.AVR, False),  # DICOM CID 3001 names the lead alone: without the +256 of the potential
        (131103, Lead.I, True),
        (131104, Lead.II, True),
        (131183, Lead.III, True),
        (131105, Lead.V1, True),
        (131110, Lead.V6, True),
        (131395, None, False),
        (131403, None, False),
        (131328, None, False),
        (131310, None, False),  # a code of no lead, seen in a fixture as lead I: never guessed
    ],
)
def test_other_ecg_codes(code: int, lead: Lead | None, derived: bool) -> None:
    channel = channel_of(code, 250.0, "")
    assert (channel.kind, channel.lead, channel.derived) == (ChannelKind.ECG, lead, derived)


@pytest.mark.parametrize(
    ("code", "kind", "unit"),
    [
        (150452, ChannelKind.PLETH, "1"),
        (150036, ChannelKind.ABP, "mm[Hg]"),
        (151780, ChannelKind.RESP, "Ohm"),
        (150456, ChannelKind.OTHER, "1"),
        (0, ChannelKind.OTHER, "1"),
    ],
)
def test_other_kinds_at_any_rate(code: int, kind: ChannelKind, unit: str) -> None:
    assert (channel_of(code, 12.5, "").kind, channel_of(code, 12.5, "").unit) == (kind, unit)


@pytest.mark.parametrize("rate", [99.9, 1000.1, 0.0, -1.0, float("nan"), float("inf")])
def test_rates_of_an_ecg(rate: float) -> None:
    with pytest.raises(PayloadError) as caught:
        channel_of(131330, rate, "")
    assert caught.value.fault.reason == Reason.RATE


def test_an_error_is_its_faults_text() -> None:
    with pytest.raises(PayloadError, match="100 to 1000") as caught:
        channel_of(131330, 50.0, "")
    assert str(caught.value) == caught.value.fault.text


def test_ecg_block() -> None:
    block = ecg_block("a/b/c", "d", {Lead.II: np.zeros(3, np.float32)}, 250.0, patient=("1",), filter_label="0.5-40 Hz")
    assert block.channels[0].filter_label == "0.5-40 Hz"
    assert block.encounter is not None
    assert block.encounter.patient_ids == ("1",)
    assert block.received == 0.0
