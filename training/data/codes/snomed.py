"""SNOMED CT codes, as the PhysioNet/CinC Challenges 2020 and 2021 use them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from training.data.codes.scp import SCP, SCP_EXPRESSIBLE
from training.data.codes.vocabulary import (
    A_PACED,
    ACUTE_MI,
    AF,
    AT,
    AVB1,
    AVB3,
    BAE,
    BRADY,
    BRUGADA,
    EARLY,
    ECTOPIC_ATRIAL,
    FLUTTER,
    IRREGULAR,
    IVCD,
    JUNCTIONAL,
    LAD,
    LAE,
    LAFB,
    LBBB,
    LPFB,
    LV_VOLTAGE,
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
    RSR,
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

SNOMED: Mapping[str, Meaning] = {
    # Rhythm.
    "426783006": Meaning((SINUS,)),  # sinus rhythm
    "426177001": Meaning((SINUS, BRADY)),  # sinus bradycardia
    "427084000": Meaning((SINUS,)),  # sinus tachycardia
    "427393009": SCP["SARRH"],
    "426627000": Meaning((BRADY,)),  # bradycardia
    "164889003": SCP["AFIB"],
    "282825002": SCP["AFIB"],  # paroxysmal AF
    "426749004": SCP["AFIB"],  # chronic AF
    "195080001": Meaning((), (AF, FLUTTER, IRREGULAR, BRADY), irregular=True),  # AF and flutter
    "164890007": SCP["AFLT"],
    "713422000": Meaning((AT,), (SVT,)),  # atrial tachycardia
    "426761007": Meaning((SVT,), (AT,)),
    "67198005": Meaning((SVT,), (AT,)),  # paroxysmal supraventricular tachycardia
    "233897008": Meaning((SVT,)),  # re-entrant atrioventricular tachycardia
    "233896004": Meaning((SVT,)),  # AV nodal re-entrant tachycardia
    "425856008": Meaning((), (VT, PVC), irregular=True),  # paroxysmal ventricular tachycardia: not in every ten seconds
    "164895002": Meaning((VT,), (PVC, SINUS)),
    "195101003": Meaning((), (ECTOPIC_ATRIAL, SINUS, IRREGULAR), irregular=True),  # wandering pacemaker
    "106068003": Meaning((ECTOPIC_ATRIAL,), (AT,)),  # atrial rhythm
    "426995002": Meaning((), (JUNCTIONAL, BRADY), irregular=True),  # junctional escape: a beat or a rhythm
    "426664006": Meaning((JUNCTIONAL,)),  # accelerated junctional rhythm
    "61277005": Meaning((VR,)),  # accelerated idioventricular rhythm
    "49260003": Meaning((VR,)),  # idioventricular rhythm
    "81898007": Meaning((), (VR, AVB3, BRADY), irregular=True),  # ventricular escape
    "10370003": PACED,
    "251266004": PACED,  # ventricular pacing pattern
    "251268003": Meaning((A_PACED,), (V_PACED, SINUS)),
    # Ectopy.
    "284470004": SCP["PAC"],
    "63593006": SCP["PAC"],  # supraventricular premature beats
    "251170000": SCP["PAC"],  # blocked PAC
    "164884008": SCP["PVC"],  # ventricular ectopics
    "427172004": SCP["PVC"],
    "17338001": SCP["PVC"],
    "251182009": SCP["PVC"],  # paired
    "13640000": Meaning((), (PVC, WPW, V_PACED, MONOMORPH), irregular=True),  # fusion beats
    "11157007": Meaning((PVC, REGULARLY_IRREGULAR), (MONOMORPH, POLYMORPH), irregular=True),  # ventricular bigeminy
    "251180001": Meaning((PVC, REGULARLY_IRREGULAR), (MONOMORPH, POLYMORPH), irregular=True),  # trigeminy
    # Conduction.
    "164909002": SCP["CLBBB"],
    "733534002": SCP["CLBBB"],
    "251120003": SCP["ILBBB"],
    "59118001": SCP["CRBBB"],
    "713427006": SCP["CRBBB"],
    "713426002": SCP["IRBBB"],
    "6374002": Meaning((), (LBBB, RBBB, RSR, IVCD)),  # bundle branch block of either side
    "698252002": SCP["IVCD"],
    "82226007": SCP["IVCD"],  # diffuse intraventricular block
    "445118002": SCP["LAFB"],
    "445211001": SCP["LPFB"],
    "39732003": Meaning((LAD,), (LAFB,)),
    "47665007": Meaning((RAD,), (LPFB,)),
    "251200008": Meaning((), (LAD, RAD, SUPERIOR)),  # indeterminate axis
    "270492004": SCP["1AVB"],
    "164947007": SCP["LPR"],
    "195042002": SCP["2AVB"],
    "54016002": Meaning((MOBITZ1,), irregular=True),
    "426183003": Meaning((MOBITZ2,), irregular=True),
    "27885002": SCP["3AVB"],
    "233917008": Meaning((), (AVB1, MOBITZ1, MOBITZ2, AVB3), irregular=True),  # AV block of unsaid degree
    "74390002": SCP["WPW"],
    "195060002": SCP["WPW"],  # ventricular pre-excitation
    "111975006": SCP["LNGQT"],
    "164937009": Meaning((U_WAVE,)),
    "418818005": Meaning((BRUGADA,)),
    # Chambers and voltage.
    "164873001": SCP["LVH"],
    "55827005": SCP["VCLVH"],  # left ventricular high voltage
    "89792004": SCP["RVH"],
    "67741000119109": SCP["LAO/LAE"],
    "446813000": SCP["LAO/LAE"],  # left atrial hypertrophy
    "253352002": SCP["LAO/LAE"],  # left atrial abnormality
    "446358003": SCP["RAO/RAE"],  # right atrial hypertrophy
    "253339007": SCP["RAO/RAE"],
    "251223006": Meaning((), (RAE, BAE)),  # tall P wave
    "195126007": Meaning((), (LAE, RAE, BAE)),  # atrial hypertrophy
    "251146004": SCP["LVOLT"],
    # The rest.
    "57054005": Meaning((ACUTE_MI,)),
    "164865005": Meaning((), (ACUTE_MI,)),  # infarction of unsaid age
    "164861001": Meaning((), (ACUTE_MI,)),  # ischaemia
    "164931005": Meaning((), (ACUTE_MI, PERICARDITIS, EARLY)),  # ST elevation, where and why unsaid
    "164951009": SCP["ABQRS"],
    "428417006": Meaning((EARLY,)),
    "251139008": Meaning((MISPLACED,)),  # arm leads reversed
}
"""SNOMED CT codes of the challenge that bear on one of the labels."""

_FULL_VOCABULARY = frozenset(SCP_EXPRESSIBLE | {AT, LAD, RAD}) - {RSR, LV_VOLTAGE, ACUTE_MI, IRREGULAR}
SNOMED_EXPRESSIBLE: Mapping[str, frozenset[str]] = {
    # CPSC 2018: nine classes, several of which may be given; nothing beyond them was asked for.
    "A": frozenset({AF, AVB1, LBBB, RBBB, PAC, PVC}),
    # CPSC extra: the classes that the nine did not cover, incompletely said; what is absent stays unknown.
    "Q": frozenset(),
    "I": frozenset(),  # St Petersburg INCART: half-hours of which the header names what is somewhere in them
    "S": frozenset(),  # PTB: diagnoses of the patient, not statements of the recording
    "HR": SCP_EXPRESSIBLE,  # PTB-XL: the challenge translated its SCP statements
    "E": _FULL_VOCABULARY | {IRREGULAR},  # Georgia
    "JS": _FULL_VOCABULARY | {IRREGULAR},  # Chapman-Shaoxing and Ningbo
}
"""By the record name's letters: the labels whose absence means 0."""


def from_snomed(codes: Collection[str], collection: str) -> Labels:
    """(77,) labels of a challenge record.

    Args:
        codes: The ``#Dx`` codes.
        collection: Letters of the record's name: ``A``, ``Q``, ``HR``, ``E``, ``JS``.

    Raises:
        ValueError: an unknown collection.
    """
    if collection not in SNOMED_EXPRESSIBLE:
        raise ValueError(f"no rule for records {collection}…; add what its annotators can express to snomed.py")
    return labels_from([SNOMED[code] for code in codes if code in SNOMED], SNOMED_EXPRESSIBLE[collection])
