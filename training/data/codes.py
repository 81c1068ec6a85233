"""SCP-ECG statements (PTB-XL) and SNOMED CT codes (PhysioNet/CinC 2020-21) as the 77 labels.

A label is 1, 0 or unknown. Three rules make it:

1. A code says which labels *are* there, and which it leaves *open* (an incomplete bundle branch block says nothing
   firm about "Right bundle branch block"). A label said once is 1, even where another code leaves it open.
2. A label that the source's vocabulary can express, and that no code says or leaves open, is 0: its annotators would
   have written it. Every other label is unknown.
3. Rhythms exclude each other: with one of them said, sinus rhythm is 0; with none said, all of them are unknown.

Labels of localised ST, T and Q changes stay unknown throughout: neither vocabulary, as used in these recordings, says
where (only infarction statements do, and they speak of a diagnosis, not of the wave).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from training.data.recording import Labels, set_labels, unknown_labels

SINUS = "Sinusal"
REGULAR = "Regular"
IRREGULAR = "Irregularly irregular"
REGULARLY_IRREGULAR = "Regularly irregular"
MONOMORPH = "Monomorph"
POLYMORPH = "Polymorph"
AF = "Afib"
FLUTTER = "Atrial flutter"
SVT = "Supraventricular tachycardia"
AT = "Atrial tachycardia (>= 100 BPM)"
VT = "Ventricular tachycardia"
VR = "Ventricular Rhythm"
JUNCTIONAL = "Junctional rhythm"
ECTOPIC_ATRIAL = "Ectopic atrial rhythm (< 100 BPM)"
BRADY = "Bradycardia"
PVC = "Premature ventricular complex"
PAC = "Premature atrial complex"
V_PACED = "Ventricular paced"
A_PACED = "Atrial paced"
LV_PACED = "LV pacing"
LBBB = "Left bundle branch block"
RBBB = "Right bundle branch block"
RSR = "rSR' in V1-V2"
IVCD = "Nonspecific intraventricular conduction delay"
LAFB = "Left anterior fascicular block"
LPFB = "Left posterior fascicular block"
LAD = "Left axis deviation"
RAD = "Right axis deviation"
SUPERIOR = "Right superior axis"
AVB1 = "1st degree AV block"
MOBITZ1 = "2nd degree AV block - mobitz 1"
MOBITZ2 = "2nd degree AV block - mobitz 2"
AVB3 = "Third Degree AV Block"
WPW = "Wolff-Parkinson-White (Pre-excitation syndrome)"
DELTA = "Delta wave"
QT = "Prolonged QT"
LVH = "Left ventricular hypertrophy"
LV_VOLTAGE = "SV1 + RV5 or RV6 > 35 mm"
RVH = "Right ventricular hypertrophy"
RV_VOLTAGE = "RV1 + SV6 > 11 mm"
LAE = "Left atrial enlargement"
RAE = "Right atrial enlargement"
BAE = "Bi-atrial enlargement"
LOW_VOLTAGE = "Low voltage"
ACUTE_MI = "Acute MI"
PERICARDITIS = "Acute pericarditis"
EARLY = "Early repolarization"
BRUGADA = "Brugada"
MISPLACED = "Lead misplacement"
U_WAVE = "U wave"

RHYTHMS = (SINUS, AF, FLUTTER, SVT, AT, VT, VR, JUNCTIONAL, ECTOPIC_ATRIAL)
"""At most one of these is the rhythm of ten seconds (runs apart)."""

PACING_HIDES = (LBBB, RBBB, IVCD, LAFB, LPFB, LAD, RAD, SUPERIOR, QT, LVH, LV_VOLTAGE, RVH, RV_VOLTAGE, AVB1, MONOMORPH)
"""A paced beat has its own shape and axis: what lies beneath cannot be read."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one code says."""

    there: tuple[str, ...] = ()
    leaves_open: tuple[str, ...] = ()
    irregular: bool = False
    """The rhythm need not be regular (ectopy, sinus arrhythmia, block)."""


_PACED = Meaning((V_PACED,), (SINUS, AF, FLUTTER, A_PACED, LV_PACED, BRADY, *PACING_HIDES))

SCP: Mapping[str, Meaning] = {
    # Rhythm statements.
    "SR": Meaning((SINUS,)),
    "STACH": Meaning((SINUS,)),
    "SBRAD": Meaning((SINUS, BRADY)),
    "SARRH": Meaning((SINUS,), (IRREGULAR,), irregular=True),
    "AFIB": Meaning((AF, IRREGULAR), (BRADY, FLUTTER), irregular=True),  # "fibrillation/flutter" is often one report
    "AFLT": Meaning((FLUTTER,), (AF, SVT, BRADY, IRREGULAR, REGULARLY_IRREGULAR), irregular=True),  # any conduction
    "SVTAC": Meaning((SVT,), (AT,)),
    "PSVT": Meaning((SVT,), (AT,)),
    "SVARR": Meaning((), (AF, FLUTTER, SVT, AT, PAC, JUNCTIONAL, IRREGULAR, ECTOPIC_ATRIAL), irregular=True),
    "BIGU": Meaning((REGULARLY_IRREGULAR,), (PVC, PAC), irregular=True),  # of unknown origin
    "TRIGU": Meaning((REGULARLY_IRREGULAR,), (PVC, PAC), irregular=True),
    "PACE": _PACED,  # in PTB-XL nearly always ventricular or dual-chamber
    # Form statements.
    "PVC": Meaning((PVC,), (MONOMORPH, POLYMORPH, REGULARLY_IRREGULAR), irregular=True),
    "PAC": Meaning((PAC,), (REGULARLY_IRREGULAR, IRREGULAR), irregular=True),
    "PRC(S)": Meaning((), (PVC, PAC, MONOMORPH, POLYMORPH, REGULARLY_IRREGULAR, IRREGULAR), irregular=True),
    "LPR": Meaning((AVB1,)),  # a prolonged PR interval is first-degree block
    "LVOLT": Meaning((LOW_VOLTAGE,)),
    "HVOLT": Meaning((), (LV_VOLTAGE, RV_VOLTAGE, LVH)),
    "VCLVH": Meaning((LV_VOLTAGE,), (LVH,)),  # voltage criteria only
    "ABQRS": Meaning((), (IVCD, RSR, LBBB, RBBB)),  # "abnormal QRS", of any kind
    # Diagnostic statements.
    "LVH": Meaning((LVH,), (LV_VOLTAGE,)),
    "SEHYP": Meaning((), (LVH,)),
    "RVH": Meaning((RVH,), (RV_VOLTAGE, RAD)),
    "LAO/LAE": Meaning((LAE,), (BAE,)),
    "RAO/RAE": Meaning((RAE,), (BAE,)),
    "LAFB": Meaning((LAFB, LAD)),  # an axis beyond -45 degrees is part of its definition
    "LPFB": Meaning((LPFB,), (RAD,)),
    "CLBBB": Meaning((LBBB,), (LV_VOLTAGE, LVH, IVCD, LAFB, LAD, QT)),
    "ILBBB": Meaning((), (LBBB, IVCD)),
    "CRBBB": Meaning((RBBB,), (RSR, IVCD, RV_VOLTAGE, QT)),
    "IRBBB": Meaning((RSR,), (RBBB, IVCD)),  # rSR' with a QRS below 120 ms is what the statement means
    "IVCD": Meaning((IVCD,), (LBBB, RBBB)),
    "1AVB": Meaning((AVB1,)),
    "2AVB": Meaning((), (MOBITZ1, MOBITZ2), irregular=True),
    "3AVB": Meaning((AVB3,), (SINUS, JUNCTIONAL, VR)),
    "WPW": Meaning((WPW, DELTA), (LBBB, RBBB, IVCD)),
    "LNGQT": Meaning((QT,)),
    # Infarction with injury current may be acute; stages are read from another column.
    **{code: Meaning((), (ACUTE_MI,)) for code in ("INJAS", "INJAL", "INJIN", "INJLA", "INJIL", "STE_")},
}
"""SCP statements that bear on one of the labels. Infarction statements without a stage are handled by `from_scp`."""

SCP_INFARCTION = frozenset({"IMI", "ASMI", "AMI", "ALMI", "LMI", "ILMI", "IPMI", "IPLMI", "PMI"})

SCP_EXPRESSIBLE = frozenset(
    {AF, FLUTTER, SVT, BRADY, PVC, PAC, V_PACED, LBBB, RBBB, RSR, IVCD, LAFB, LPFB, AVB1, MOBITZ1, MOBITZ2, AVB3, WPW}
    | {DELTA, QT, LVH, LV_VOLTAGE, RVH, LAE, RAE, LOW_VOLTAGE, ACUTE_MI, IRREGULAR, REGULARLY_IRREGULAR}
)
"""Labels that a PTB-XL annotator would have written."""

_SINUS_ARRHYTHMIA = SCP["SARRH"]

SNOMED: Mapping[str, Meaning] = {
    # Rhythm.
    "426783006": Meaning((SINUS,)),  # sinus rhythm
    "426177001": Meaning((SINUS, BRADY)),  # sinus bradycardia
    "427084000": Meaning((SINUS,)),  # sinus tachycardia
    "427393009": _SINUS_ARRHYTHMIA,
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
    "10370003": _PACED,
    "251266004": _PACED,  # ventricular pacing pattern
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

PROXIES: Mapping[str, str] = {
    IRREGULAR: "said of every atrial fibrillation, and denied of every regular sinus rhythm",
    REGULAR: "said of sinus rhythm without arrhythmia or ectopy, denied of atrial fibrillation",
    MONOMORPH: "said of sinus rhythm without ventricular ectopy or pacing; never denied",
    DELTA: "said with every pre-excitation statement",
    RSR: "said of incomplete right bundle branch block",
    LAD: "said by the axis column or code, or with left anterior fascicular block",
    LV_VOLTAGE: "said of the statement 'voltage criteria for LVH'",
    V_PACED: "said of 'pacemaker', whose chamber the sources do not give",
}
"""Labels that no source names by these words, and what they stand on: to be told beside every figure."""


def _labels(meanings: Collection[Meaning], expressible: Collection[str]) -> Labels:
    labels = unknown_labels()
    there = {name for meaning in meanings for name in meaning.there}
    leaves_open = {name for meaning in meanings for name in meaning.leaves_open} - there
    set_labels(labels, 0, *(set(expressible) - there - leaves_open))
    set_labels(labels, 1, *there)
    rhythms = there.intersection(RHYTHMS)
    if not rhythms:
        # No rhythm is said at all: its absence says nothing.
        set_labels(labels, -1, *RHYTHMS, REGULAR, IRREGULAR)
        if V_PACED not in there:
            return labels
    if rhythms == {SINUS}:
        if not any(meaning.irregular for meaning in meanings):
            set_labels(labels, 1, REGULAR)
            set_labels(labels, 0, IRREGULAR)
        if not there.intersection({PVC, V_PACED}) and not leaves_open.intersection({MONOMORPH, PVC}):
            set_labels(labels, 1, MONOMORPH)
            set_labels(labels, 0, POLYMORPH)
    elif SINUS in rhythms and there.intersection({AF, FLUTTER}):
        # Two rhythms in one report: which of them these ten seconds show is not said.
        set_labels(labels, -1, SINUS, REGULAR)
    elif rhythms and SINUS not in rhythms and SINUS not in leaves_open:
        set_labels(labels, 0, SINUS)
    if AF in there:
        set_labels(labels, 0, REGULAR)
        if SINUS in there:
            set_labels(labels, -1, IRREGULAR)
    return labels


def from_scp(statements: Mapping[str, float], heart_axis: str = "", stages: Collection[str] = ()) -> Labels:
    """(77,) labels of a PTB-XL record.

    Args:
        statements: ``scp_codes``, code to likelihood in percent; 0 = likelihood not given. A diagnostic statement with
            a likelihood above 0 and below 50 is only considered: its labels are left open.
        heart_axis: The column of that name; empty where not given, and then the axis stays unknown.
        stages: ``infarction_stadium1`` and ``2``.
    """
    meanings = []
    for code, likelihood in statements.items():
        meaning = SCP.get(code)
        if meaning is None:
            continue
        if 0 < likelihood < 50:
            meaning = Meaning((), meaning.there + meaning.leaves_open, meaning.irregular)
        meanings.append(meaning)
    if SCP_INFARCTION.intersection(statements):
        acute, dated = "Stadium I" in stages, bool({"Stadium II", "Stadium III", "Stadium II-III"}.intersection(stages))
        meanings.append(Meaning((ACUTE_MI,)) if acute else Meaning() if dated else Meaning((), (ACUTE_MI,)))
    labels = _labels(meanings, SCP_EXPRESSIBLE)
    # ALAD and ARAD are abnormal deviations; LAD, RAD and AXL are mild or of unsaid side, so they stay unknown.
    axis = {"ALAD": LAD, "ARAD": RAD, "AXR": SUPERIOR}.get(heart_axis)
    if axis is not None or heart_axis == "MID":
        set_labels(labels, 0, *({LAD, RAD, SUPERIOR} - {axis}))
    if axis is not None:
        set_labels(labels, 1, axis)
    return labels


def from_snomed(codes: Collection[str], collection: str) -> Labels:
    """(77,) labels of a challenge record.

    Args:
        codes: The ``#Dx`` codes.
        collection: Letters of the record's name: ``A``, ``Q``, ``HR``, ``E``, ``JS``.

    Raises:
        ValueError: an unknown collection.
    """
    if collection not in SNOMED_EXPRESSIBLE:
        raise ValueError(f"no rule for records {collection}…; add what its annotators can express to codes.py")
    return _labels([SNOMED[code] for code in codes if code in SNOMED], SNOMED_EXPRESSIBLE[collection])
