"""MDC codes of ECG leads (ISO/IEEE 11073-10101, partition 2): the one table that every decoder reads.

A code is a base plus the lead's id: the potential (``MDC_ECG_ELEC_POTL``) in monitors' messages, the lead alone in
DICOM CID 3001, which also has ids for leads that the device computed.
"""

from __future__ import annotations

from typing import Final

from agent.core.ecg import Lead

ECG_ELEC_POTL: Final = 131328
"""The bare potential; a lead is this plus its id."""
ECG_LEAD: Final = 131072
"""DICOM CID 3001 counts from here."""

_MEASURED: Final = (Lead.I, Lead.II, Lead.V1, Lead.V2, Lead.V3, Lead.V4, Lead.V5, Lead.V6)

LEAD_BY_ID: Final[dict[int, Lead]] = {
    **{1 + i: lead for i, lead in enumerate(_MEASURED)},
    **{61 + i: lead for i, lead in enumerate((Lead.III, Lead.AVR, Lead.AVL, Lead.AVF))},
}
"""Lead ids of IEEE 11073-10101; DICOM CID 3001 and SCP-ECG share them."""
DERIVED_LEAD_BY_ID: Final[dict[int, Lead]] = {31 + i: lead for i, lead in enumerate(_MEASURED)} | {111: Lead.III}
"""CID 3001's ids of leads that the device computed: 131103 … 131110 and 131183."""
CODE_OF_LEAD: Final[dict[Lead, int]] = {lead: ECG_ELEC_POTL + number for number, lead in LEAD_BY_ID.items()}
"""The code of a measured lead's potential."""
V_ID: Final = 67
"""A chest electrode of unspecified place."""
MCL_ID: Final = 75
"""A modified chest lead of unspecified place."""
