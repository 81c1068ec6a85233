"""The labels' names, what a code says of them, and how what several codes say becomes the 77 labels.

A label is 1, 0 or unknown. Three rules make it, for every vocabulary of codes alike:

1. A code says which labels *are* there, and which it leaves *open* (an incomplete bundle branch block says nothing
   firm about "Right bundle branch block"). A label said once is 1, even where another code leaves it open.
2. A label that the source's vocabulary can express, and that no code says or leaves open, is 0: its annotators would
   have written it. Every other label is unknown.
3. Rhythms exclude each other: with one of them said, sinus rhythm is 0; with none said, all of them are unknown.

Labels of localised ST, T and Q changes stay unknown throughout: no vocabulary, as used in the collections, says where
(only infarction statements do, and they speak of a diagnosis, not of the wave).
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


PACED = Meaning((V_PACED,), (SINUS, AF, FLUTTER, A_PACED, LV_PACED, BRADY, *PACING_HIDES))
"""A pacemaker at work; which chamber is nearly always the ventricle, or both."""

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


def labels_from(meanings: Collection[Meaning], expressible: Collection[str]) -> Labels:
    """(77,) labels of what the codes of one recording say, in a vocabulary that can express so much."""
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
