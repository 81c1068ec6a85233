"""The lead codes as the standard's tables print them."""

from __future__ import annotations

from agent.core.ecg import LEADS, Lead
from agent.core.nomenclature import CODE_OF_LEAD, DERIVED_LEAD_BY_ID, ECG_LEAD


def test_every_lead_has_its_code() -> None:
    assert [CODE_OF_LEAD[lead] for lead in LEADS] == [
        131329, 131330, 131389, 131390, 131391, 131392, 131331, 131332, 131333, 131334, 131335, 131336,
    ]  # fmt: skip


def test_computed_leads_have_ids_of_their_own() -> None:
    codes = {ECG_LEAD + number: lead for number, lead in DERIVED_LEAD_BY_ID.items()}
    assert codes[131103] is Lead.I
    assert codes[131104] is Lead.II
    assert codes[131183] is Lead.III
    assert [codes[131105 + k] for k in range(6)] == list(LEADS[6:])
