"""AHA/ACC/HRS statements (Mason, Hancock, Gettes 2007, part II), as the Shandong Provincial Hospital set uses them.

A statement is a primary code with modifiers: ``60+310`` is "ventricular premature complexes, frequent".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from training.data.codes.scp import SCP
from training.data.codes.snomed import SNOMED
from training.data.codes.vocabulary import (
    A_PACED,
    ACUTE_MI,
    AF,
    AT,
    AVB1,
    AVB3,
    BRADY,
    BRUGADA,
    DELTA,
    EARLY,
    ECTOPIC_ATRIAL,
    FLUTTER,
    IRREGULAR,
    IVCD,
    JUNCTIONAL,
    LAD,
    LAE,
    LBBB,
    LV_PACED,
    LV_VOLTAGE,
    LVH,
    MISPLACED,
    MOBITZ1,
    MOBITZ2,
    MONOMORPH,
    PAC,
    PACED,
    PERICARDITIS,
    POLYMORPH,
    PVC,
    RAD,
    RAE,
    RBBB,
    REGULARLY_IRREGULAR,
    RV_VOLTAGE,
    RVH,
    SINUS,
    SUPERIOR,
    SVT,
    U_WAVE,
    V_PACED,
    VR,
    VT,
    WPW,
    Meaning,
    labels_from,
)
from training.data.recording import Labels

_PAUSE = Meaning((), (SINUS, IRREGULAR, BRADY), irregular=True)
_NO_RATE = Meaning((AF, IRREGULAR), (FLUTTER,), irregular=True)

AHA: Mapping[int, Meaning] = {
    1: Meaning((SINUS,)),  # a normal ECG is sinus rhythm, and a set that says 1 says nothing else
    10: Meaning((MISPLACED,)),  # extremity electrodes reversed
    11: Meaning((MISPLACED,)),
    # C. Sinus node.
    20: SCP["SR"],
    21: SCP["STACH"],
    22: SCP["SBRAD"],
    23: SCP["SARRH"],
    **dict.fromkeys((24, 25, 26), _PAUSE),  # sinoatrial block, pause or arrest
    27: SCP["SVARR"],
    # D. Supraventricular arrhythmias.
    30: SCP["PAC"],
    31: SCP["PAC"],  # not conducted
    33: SNOMED["195101003"],  # wandering pacemaker
    34: SNOMED["106068003"],  # ectopic atrial rhythm
    35: Meaning((ECTOPIC_ATRIAL,), (AT, IRREGULAR), irregular=True),  # multifocal
    36: Meaning((), (PAC, REGULARLY_IRREGULAR, IRREGULAR), irregular=True),  # junctional premature complexes
    37: SNOMED["426995002"],  # junctional escape
    38: Meaning((JUNCTIONAL,), (BRADY,)),
    39: Meaning((JUNCTIONAL,)),
    40: SCP["SVARR"],
    41: SCP["SVARR"],
    42: Meaning((BRADY,), (JUNCTIONAL, ECTOPIC_ATRIAL, VR, AF)),
    # E. Supraventricular tachyarrhythmias.
    50: SCP["AFIB"],
    51: SCP["AFLT"],
    52: SNOMED["713422000"],
    53: Meaning((AT,), (SVT, IRREGULAR), irregular=True),  # multifocal
    54: Meaning((SVT,), (JUNCTIONAL, AT)),  # junctional tachycardia
    55: SCP["SVTAC"],
    56: Meaning((), (SVT, AT, FLUTTER)),  # narrow QRS tachycardia
    # F, G. Ventricular.
    60: SCP["PVC"],
    61: SNOMED["13640000"],
    62: SNOMED["81898007"],
    63: Meaning((VR,), (BRADY,)),
    64: Meaning((VR,)),
    65: Meaning((VR,), (LBBB, RBBB)),  # fascicular rhythm
    66: Meaning((PVC,), (MONOMORPH, POLYMORPH, REGULARLY_IRREGULAR), irregular=True),  # parasystole
    70: SNOMED["164895002"],
    71: SNOMED["425856008"],  # unsustained
    **dict.fromkeys((72, 73), Meaning((VT,), (PVC, SINUS, POLYMORPH))),  # polymorphous, torsades
    74: Meaning((), (VT, VR, PVC)),  # ventricular fibrillation is none of the labels
    75: SNOMED["164895002"],
    76: Meaning((), (VT, SVT, AT, PVC, LBBB, RBBB)),  # wide QRS tachycardia
    # H. Atrioventricular conduction.
    80: Meaning((), (WPW, DELTA)),  # short PR
    81: Meaning((), (MOBITZ1, MOBITZ2), irregular=True),
    82: SCP["LPR"],
    83: SNOMED["54016002"],
    84: SNOMED["426183003"],
    **dict.fromkeys((85, 86), SCP["2AVB"]),  # 2:1, varying
    87: Meaning((), (MOBITZ2, AVB3, BRADY), irregular=True),  # high-grade
    88: SCP["3AVB"],
    89: Meaning((), (AVB3, SINUS, JUNCTIONAL, VR), irregular=True),  # dissociation
    # I. Intraventricular and intra-atrial conduction.
    100: Meaning((), (LBBB, RBBB, IVCD, PVC)),  # aberrant conduction
    101: SCP["LAFB"],
    102: SCP["LPFB"],
    104: SCP["CLBBB"],
    105: SCP["IRBBB"],
    106: SCP["CRBBB"],
    107: SCP["IVCD"],
    108: SCP["WPW"],
    109: Meaning((), (RAE,)),
    110: Meaning((), (LAE,)),
    # J. Axis and voltage.
    120: SNOMED["47665007"],
    121: SNOMED["39732003"],
    122: Meaning((SUPERIOR,)),
    123: Meaning((), (LAD, RAD, SUPERIOR)),  # indeterminate
    125: SCP["LVOLT"],
    # K. Chambers.
    140: SCP["LAO/LAE"],
    141: SCP["RAO/RAE"],
    142: SCP["LVH"],
    143: SCP["RVH"],
    144: Meaning((LVH, RVH), (LV_VOLTAGE, RV_VOLTAGE, RAD)),
    # L. ST segment, T wave, U wave: where they change is not said.
    **dict.fromkeys((145, 146), Meaning((), (ACUTE_MI, PERICARDITIS, EARLY))),
    148: SCP["LNGQT"],
    150: SNOMED["164937009"],
    155: Meaning((EARLY,)),
    # N. Pacemaker.
    180: SNOMED["251268003"],
    181: PACED,
    182: Meaning((V_PACED, LV_PACED), PACED.leaves_open),  # elsewhere than in the right ventricle's apex
    183: PACED,
    184: Meaning((V_PACED, A_PACED), PACED.leaves_open),
    # Secondary statements and convenience statements.
    200: Meaning((PERICARDITIS,)),
    202: Meaning((BRUGADA,)),
    220: Meaning((), (ACUTE_MI,)),
    224: Meaning((), (MISPLACED,)),
    501: SNOMED["164931005"],  # ST elevation
    503: SCP["LVH"],
}
"""Statements that bear on one of the labels. Infarction is handled by `from_aha`."""

INFARCTION = frozenset({160, 161, 162, 163, 165, 166, 173, 174})

UNSURE = frozenset({301, 302, 312})
"""Borderline, consider, possible: what the statement says is left open. Probable (315) counts as said."""
ACUTE, EVOLVING, OLD = 330, 334, 332
BIGEMINY, TRIGEMINY = 341, 342
RAPID, SLOW = 346, 347
"""Ventricular response."""

AHA_EXPRESSIBLE = frozenset(
    {name for meaning in AHA.values() for name in meaning.there}
    - {SINUS, MISPLACED, PERICARDITIS, BRUGADA, POLYMORPH, REGULARLY_IRREGULAR, LV_PACED, U_WAVE}
) | {ACUTE_MI, MOBITZ1, MOBITZ2, AVB1}
"""Labels that a cardiologist with these statements before him would have written: the primary ones. Secondary
statements, which the set does not use, and what hardly anybody writes down say nothing by their absence."""


def from_aha(statements: str) -> Labels:
    """(77,) labels of an ``AHA_Code`` field: statements separated by ``;``, each a code with ``+`` modifiers.

    Raises:
        ValueError: the field holds anything else.
    """
    meanings = []
    for statement in statements.split(";"):
        try:
            code, *modifiers = (int(part) for part in statement.strip().split("+"))
        except ValueError as error:
            raise ValueError(f"{statements!r} is no list of AHA statements, as 22;60+310") from error
        meaning = _meaning(code, frozenset(modifiers))
        if UNSURE.intersection(modifiers):
            meaning = Meaning((), meaning.there + meaning.leaves_open, meaning.irregular)
        meanings.append(meaning)
    return labels_from(meanings, AHA_EXPRESSIBLE)


def _meaning(code: int, modifiers: Collection[int]) -> Meaning:
    """What a statement with these modifiers says, as surely as it is said."""
    if code in INFARCTION:
        if ACUTE in modifiers or EVOLVING in modifiers:
            return Meaning((ACUTE_MI,))
        return Meaning() if OLD in modifiers else Meaning((), (ACUTE_MI,))
    meaning = AHA.get(code, Meaning())
    if AF in meaning.there and RAPID in modifiers:
        return _NO_RATE  # so it is no bradycardia
    if AF in meaning.there and SLOW in modifiers:
        return Meaning((*_NO_RATE.there, BRADY), _NO_RATE.leaves_open, irregular=True)
    if {PVC, PAC}.intersection(meaning.there) and (BIGEMINY in modifiers or TRIGEMINY in modifiers):
        return Meaning((*meaning.there, REGULARLY_IRREGULAR), meaning.leaves_open, irregular=True)
    return meaning
