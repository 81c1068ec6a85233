"""The one table of channels, lead names and units, read by every room that meets them: HL7, MQTT, replay, training.

A channel is a row of `TERMS`: MDC code and reference id (ISO/IEEE 11073-10101, partition 2), kind, lead and unit. A
unit is a row of `UNITS`. Whoever reads a code, a name or a unit asks here, so that the same word means the same thing
wherever it comes in; what is not known here is None, and its reader refuses it.

    >>> term_of_code(131330).lead, term_of_name("MLII").lead, term_of_name("MDC_ECG_LEAD_aVR").lead
    (<Lead.II: 'II'>, <Lead.II: 'II'>, <Lead.AVR: 'aVR'>)
    >>> unit_of("microvolts"), unit_of("mmHg")
    (Unit(ucum='mV', factor=0.001), Unit(ucum='mm[Hg]', factor=1.0))
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from agent.core.ecg import ChannelKind, Lead

ECG_ELEC_POTL: Final = 131328
"""The potential of an ECG electrode, none in particular; a lead's potential is this plus the lead's id."""
ECG_LEAD: Final = 131072
"""The lead itself: DICOM CID 3001 counts from here, with the same ids."""
ST_AMPLITUDE: Final = 131840
"""The ST amplitude of a lead is this plus the lead's id."""
_IDS: Final = 256
"""Lead ids lie below it."""

MILLIVOLT: Final = "mV"
"""The unit of every ECG channel: decoders convert to it."""


class Term(NamedTuple):
    """What a code or a name stands for."""

    code: int
    ref_id: str
    """The standard's own name in capitals, as ``MDC_ECG_ELEC_POTL_II``."""
    label: str
    """Its short name, for a channel whose sender gives none."""
    kind: ChannelKind
    unit: str
    """UCUM unit of its values where the sender says none."""
    lead: Lead | None = None
    """None for what is no ECG, and for electrodes that are none of the twelve leads."""
    derived: bool = False
    """The term itself says that the device computed the lead from others."""


# Lead ids, name in the reference id, and the lead. IEEE 11073-10101, DICOM CID 3001 and SCP-ECG share the ids.
_MEASURED: Final = (
    (1, "I", Lead.I),
    (2, "II", Lead.II),
    (61, "III", Lead.III),
    (62, "AVR", Lead.AVR),
    (63, "AVL", Lead.AVL),
    (64, "AVF", Lead.AVF),
    (3, "V1", Lead.V1),
    (4, "V2", Lead.V2),
    (5, "V3", Lead.V3),
    (6, "V4", Lead.V4),
    (7, "V5", Lead.V5),
    (8, "V6", Lead.V6),
)
_COMPUTED: Final = (  # CID 3001: 131103 … 131110 and 131183; AS and AI are two of EASI's three
    (31, "DI", Lead.I),
    (32, "DII", Lead.II),
    (111, "DIII", Lead.III),
    (33, "DV1", Lead.V1),
    (34, "DV2", Lead.V2),
    (35, "DV3", Lead.V3),
    (36, "DV4", Lead.V4),
    (37, "DV5", Lead.V5),
    (38, "DV6", Lead.V6),
    (132, "AS", None),
    (133, "AI", None),
)
_UNPLACED: Final = ((67, "V", None), (75, "MCL", None))
"""A chest electrode, and a modified chest lead, whose place is not told: to be shown, never given to the network."""


def _ecg(base: int, stem: str) -> list[Term]:
    return [
        Term(base + number, f"{stem}_{name}", lead.value if lead else name, ChannelKind.ECG, MILLIVOLT, lead, derived)
        for rows, derived in ((_MEASURED, False), (_UNPLACED, False), (_COMPUTED, True))
        for number, name, lead in rows
    ]


TERMS: Final[tuple[Term, ...]] = (
    Term(ECG_ELEC_POTL, "MDC_ECG_ELEC_POTL", "ECG", ChannelKind.ECG, MILLIVOLT),
    *_ecg(ECG_ELEC_POTL, "MDC_ECG_ELEC_POTL"),
    *_ecg(ECG_LEAD, "MDC_ECG_LEAD"),
    Term(150452, "MDC_PULS_OXIM_PLETH", "PLETH", ChannelKind.PLETH, "1"),
    Term(150032, "MDC_PRESS_BLD_ART", "ART", ChannelKind.ABP, "mm[Hg]"),
    Term(150036, "MDC_PRESS_BLD_ART_ABP", "ABP", ChannelKind.ABP, "mm[Hg]"),
    # A pressure of which the code does not say where it is measured may be venous: no witness of a pulse.
    Term(150016, "MDC_PRESS_BLD", "P", ChannelKind.OTHER, "mm[Hg]"),
    Term(151780, "MDC_IMPED_TTHOR", "RESP", ChannelKind.RESP, "Ohm"),
    Term(151552, "MDC_RESP", "RESP", ChannelKind.RESP, "1"),
)
"""Every channel that is known here. Codes that are not certain are left out: such a channel is kept as OTHER."""

_BY_CODE: Final = {term.code: term for term in TERMS}
_BY_REF_ID: Final = {term.ref_id: term for term in TERMS}

CODE_OF_LEAD: Final[dict[Lead, int]] = {lead: ECG_ELEC_POTL + number for number, _, lead in _MEASURED}
"""The code of a measured lead's potential."""
SOURCES: Final[dict[int, str]] = {ECG_ELEC_POTL: _BY_CODE[ECG_ELEC_POTL].ref_id} | {
    ST_AMPLITUDE + number: f"MDC_ECG_AMPL_ST_{name}" for number, name, _ in _MEASURED
}
"""Reference ids of the metrics that an alert is about: the ECG, and the ST amplitude of a lead."""


def _potential(name: str) -> Term:
    return _BY_REF_ID[f"MDC_ECG_ELEC_POTL_{name}"]


_BY_NAME: Final[dict[str, Term]] = {
    **{name: _potential(name) for _, name, _ in (*_MEASURED, *_UNPLACED)},
    # Modified limb leads, their electrodes on the torso: what a ward's monitor calls I, II and III.
    **{f"ML{name}": _potential(name) for name in ("I", "II", "III")},
    # "Derivação", "derivación": the Latin languages' names, in CODE-15 among others.
    **{f"D{name}": _potential(name) for name in ("I", "II", "III")},
    **{f"MCL{n}": _potential("MCL") for n in range(1, 7)},
    "ECG": _BY_CODE[ECG_ELEC_POTL],
    "EKG": _BY_CODE[ECG_ELEC_POTL],
    "PLETH": _BY_CODE[150452],
    "ART": _BY_CODE[150032],
    "ABP": _BY_CODE[150036],
    "RESP": _BY_CODE[151780],
}
"""Plain names in capitals. V is here and stays without a lead; D1 to D4 are not: databases mean several things by them.
"""
# "ECG II", "ECG_II", "Lead II", "ECG lead II", "leadII". Not more than one hyphen: "-aVR" is the lead upside down.
_PREFIXED: Final = re.compile(r"(?=ECG|EKG|LEAD)(?:(?:ECG|EKG)(?:[ _]+|-)?)?(?:LEAD(?:[ _]+|-)?)?(.+)")


def term_of_code(code: int) -> Term | None:
    """What an MDC code names; None where it is no waveform that is known here.

    The code of an ECG electrode that is not in the table (V3R, CM5 …) is an ECG without a lead: never guessed.
    """
    term = _BY_CODE.get(code)
    if term is None and (ECG_LEAD < code < ECG_LEAD + _IDS or ECG_ELEC_POTL < code < ECG_ELEC_POTL + _IDS):
        return Term(code, "", str(code), ChannelKind.ECG, MILLIVOLT)
    return term


def term_of_ref_id(ref_id: str) -> Term | None:
    """What a reference id names, in any case; None where it is no waveform that is known here.

    As with codes, an ECG electrode that is not in the table is an ECG without a lead; its code is then 0.
    """
    key = ref_id.upper()
    term = _BY_REF_ID.get(key)
    if term is None and re.match(r"MDC_ECG_(?:ELEC_POTL|LEAD)(?:_|$)", key):
        return Term(0, key, key, ChannelKind.ECG, MILLIVOLT)
    return term


def term_of_name(name: str) -> Term | None:
    """What a channel's name means, as people and programs write it; None where it is not known.

    Read are, in any case: the twelve leads, ``MLII``, ``DII``, ``V``, ``MCL`` and ``MCL1``, ``ECG``; the same behind
    ``ECG``, ``EKG`` or ``Lead`` (``ECG II``, ``Lead_II``); reference ids; ``PLETH``, ``ABP``, ``ART`` and ``RESP``.
    """
    key = name.strip().upper()
    term = _BY_REF_ID.get(key) or _BY_NAME.get(key)
    if term is None and (prefixed := _PREFIXED.fullmatch(key)):
        term = _BY_NAME.get(prefixed[1])
        return term if term is not None and term.kind is ChannelKind.ECG else None
    return term


class Unit(NamedTuple):
    """What a unit's spelling means."""

    ucum: str
    """The UCUM unit that channels carry: ``mV``, ``mm[Hg]``, ``%``, ``Ohm``, ``1``; of rates ``Hz``, of times ``s``."""
    factor: float
    """From values in the unit as it is written to values in ``ucum``."""


# MDC dimension codes are partition 4: a base plus the decimal prefix (17 … 20 are centi, milli, micro and nano).
# Spellings are compared without regard to case: none of these units differs from another by it alone.
UNITS: Final[tuple[tuple[Unit, tuple[str, ...]], ...]] = (
    (Unit(MILLIVOLT, 1e3), ("V", "volt", "volts", "266400", "MDC_DIM_VOLT", "MDC_DIM_X_VOLT")),
    (Unit(MILLIVOLT, 1.0), ("mV", "millivolt", "millivolts", "266418", "MDC_DIM_MILLI_VOLT")),
    (Unit(MILLIVOLT, 1e-3), ("uV", "µV", "microV", "microvolt", "microvolts", "266419", "MDC_DIM_MICRO_VOLT")),
    (Unit(MILLIVOLT, 1e-6), ("nV", "nanovolt", "nanovolts", "266420", "MDC_DIM_NANO_VOLT")),
    (Unit("mm[Hg]", 1.0), ("mm[Hg]", "mmHg", "mm Hg", "266016", "MDC_DIM_MMHG")),
    (Unit("mm[Hg]", 7.50062), ("kPa",)),
    (Unit("%", 1.0), ("%", "percent", "262688", "MDC_DIM_PERCENT")),
    (Unit("Ohm", 1.0), ("Ohm", "ohms")),
    # NU and adu are WFDB's words for values that nobody has calibrated.
    (Unit("1", 1.0), ("1", "", "NU", "adu", "262656", "MDC_DIM_DIMLESS")),
    (Unit("Hz", 1.0), ("Hz", "/s", "1/s", "s-1", "264608", "MDC_DIM_PER_SEC", "264640", "MDC_DIM_HZ")),
    (Unit("s", 1.0), ("s", "264320", "MDC_DIM_SEC", "MDC_DIM_X_SEC")),
    (Unit("s", 1e-3), ("ms", "264338", "MDC_DIM_MILLI_SEC")),
    (Unit("s", 1e-6), ("us", "µs", "264339", "MDC_DIM_MICRO_SEC")),
)
"""Units with their spellings: UCUM's, those in use beside it, and the MDC dimension's code and reference id."""

# casefold makes one of the two micro signs, U+00B5 and U+03BC
_UNIT_BY_SPELLING: Final = {spelling.casefold(): unit for unit, spellings in UNITS for spelling in spellings}


def unit_of(text: str) -> Unit | None:
    """What a unit means, by whatever it is written in `UNITS`; None where it is not known. Empty is dimensionless."""
    return _UNIT_BY_SPELLING.get(text.strip().casefold())


def millivolts_per(text: str) -> float | None:
    """The factor from a voltage in this unit to mV; None where the unit is not known or is no voltage."""
    unit = unit_of(text)
    return unit.factor if unit is not None and unit.ucum == MILLIVOLT else None
