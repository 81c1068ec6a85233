# ruff: noqa: E501  (the table: one label, one line)
"""The 77 diagnoses of the DeepECG models: names, categories, severities, alert priorities and event codes.

Names are exactly those of the published label list, irregularities included (``avL``, ``- V1-V2``, ``downslopping``),
because weights, thresholds and published tables are keyed by them; compare them through :func:`normalised`.

The *categories* are the published ones. The *severity* of each label and its *priority* are this project's own clinical
assignment: the paper publishes only the counts (41 pathological, 24 borderline, 12 normal), which the assignment keeps.
A priority is the default with which the label alerts (IHE PCD-04; a bundle's manifest may say otherwise): high where
seconds matter, medium for what a clinician should see soon, low for the other pathological findings, none for the rest.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import Enum, StrEnum

from agent.core.ecg import Priority
from agent.core.nomenclature import ECG_ELEC_POTL


class Category(StrEnum):
    """The six published categories; the values are the published names."""

    RHYTHM = "Rhythm Disorders"
    CONDUCTION = "Conduction Disorder"
    ENLARGEMENT = "Enlargement of the heart chambers"
    PERICARDITIS = "Pericarditis"
    INFARCTION = "Infarction or ischemia"
    OTHER = "Other diagnoses"


class Severity(StrEnum):
    """How much a finding matters by itself; the values are those of the manifest."""

    PATHOLOGICAL = "pathological"
    BORDERLINE = "borderline"
    NORMAL = "normal"


class EventCode(Enum):
    """MDC event codes (ISO/IEEE 11073-10101, partition 3: 196608 + term) and their reference ids.

    Reference ids as in DICOM CID 3038 where it lists the term, otherwise by the same pattern (``MDC_EVT_ECG_…``).
    """

    NONE = (0, "")
    HIGH = (196648, "MDC_EVT_HI")
    LOW = (196670, "MDC_EVT_LO")
    ASYSTOLE = (199684, "MDC_EVT_ECG_ASYSTOLE")
    SINUS_BRADY = (199692, "MDC_EVT_ECG_SINUS_BRADY")
    ATR_FIB = (199736, "MDC_EVT_ECG_ATR_FIB")
    AV_BLOCK_1 = (199754, "MDC_EVT_ECG_AV_HEART_BLK_DEG_1")
    AV_BLOCK_2 = (199756, "MDC_EVT_ECG_AV_HEART_BLK_DEG_2")
    AV_BLOCK_3 = (199866, "MDC_EVT_ECG_AV_HEART_BLK_DEG_3")
    RATE_IRREG = (199766, "MDC_EVT_ECG_CARD_BEAT_RATE_IRREG")
    SV_PC = (199798, "MDC_EVT_ECG_SV_P_C")
    SV_TACHY = (199800, "MDC_EVT_ECG_SV_TACHY")
    V_RHY = (199828, "MDC_EVT_ECG_V_RHY")
    V_TACHY = (199832, "MDC_EVT_ECG_V_TACHY")
    ATR_FLUT = (199884, "MDC_EVT_ECG_ATR_FLUT")


@dataclass(frozen=True, slots=True)
class LabelInfo:
    """One diagnosis."""

    name: str
    """As published, irregular spelling kept."""
    categories: tuple[Category, ...]
    """One; two for ``ST depression (anterior - V3-V4)``."""
    severity: Severity
    priority: Priority
    """With which it alerts unless a manifest says otherwise."""
    text: str
    """Plain English for the person at the bedside."""
    event: EventCode = EventCode.NONE
    source_code: int = ECG_ELEC_POTL
    """MDC code of the metric that the event is about: the ST amplitude (131840 + lead) for ST changes, which are sent
    as MDC_EVT_HI or MDC_EVT_LO of it."""

    @property
    def code(self) -> int:
        """MDC event code; 0 where the standard has none."""
        return self.event.value[0]

    @property
    def ref_id(self) -> str:
        """Reference id of ``code``; empty where the standard has none."""
        return self.event.value[1]


C, S, P, E = Category, Severity, Priority, EventCode

# fmt: off
LABELS: tuple[LabelInfo, ...] = (
    LabelInfo("Sinusal", (C.RHYTHM,), S.NORMAL, P.NONE, "Sinus rhythm"),
    LabelInfo("Regular", (C.RHYTHM,), S.NORMAL, P.NONE, "Regular rhythm"),
    LabelInfo("Monomorph", (C.OTHER,), S.NORMAL, P.NONE, "QRS complexes of one shape"),
    LabelInfo("QS complex in V1-V2-V3", (C.OTHER,), S.BORDERLINE, P.NONE, "QS complexes in V1 to V3"),
    LabelInfo("R complex in V5-V6", (C.OTHER,), S.NORMAL, P.NONE, "R complexes in V5 and V6"),
    LabelInfo("T wave inversion (inferior - II, III, aVF)", (C.OTHER,), S.PATHOLOGICAL, P.LOW, "Inferior T wave inversion"),
    LabelInfo("Left bundle branch block", (C.CONDUCTION,), S.PATHOLOGICAL, P.LOW, "Left bundle branch block"),
    LabelInfo("RaVL > 11 mm", (C.OTHER,), S.BORDERLINE, P.NONE, "High R wave in aVL (over 11 mm)"),
    LabelInfo("SV1 + RV5 or RV6 > 35 mm", (C.OTHER,), S.BORDERLINE, P.NONE, "High left ventricular voltage (SV1 + RV5 or RV6 over 35 mm)"),
    LabelInfo("T wave inversion (lateral -I, aVL, V5-V6)", (C.OTHER,), S.PATHOLOGICAL, P.LOW, "Lateral T wave inversion"),
    LabelInfo("T wave inversion (anterior - V3-V4)", (C.OTHER,), S.PATHOLOGICAL, P.LOW, "Anterior T wave inversion"),
    LabelInfo("Left axis deviation", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "Left axis deviation"),
    LabelInfo("Left ventricular hypertrophy", (C.ENLARGEMENT,), S.PATHOLOGICAL, P.LOW, "Left ventricular hypertrophy"),
    LabelInfo("Bradycardia", (C.RHYTHM,), S.BORDERLINE, P.LOW, "Slow heart rate (bradycardia)", E.SINUS_BRADY),
    LabelInfo("Q wave (inferior - II, III, aVF)", (C.INFARCTION,), S.PATHOLOGICAL, P.LOW, "Inferior Q waves"),
    LabelInfo("Afib", (C.RHYTHM,), S.PATHOLOGICAL, P.MEDIUM, "Atrial fibrillation", E.ATR_FIB),
    LabelInfo("Irregularly irregular", (C.RHYTHM,), S.PATHOLOGICAL, P.LOW, "Irregularly irregular rhythm", E.RATE_IRREG),
    LabelInfo("Atrial tachycardia (>= 100 BPM)", (C.RHYTHM,), S.PATHOLOGICAL, P.MEDIUM, "Atrial tachycardia (100/min or more)", E.SV_TACHY),
    LabelInfo("Nonspecific intraventricular conduction delay", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "Nonspecific intraventricular conduction delay"),
    LabelInfo("Premature ventricular complex", (C.RHYTHM,), S.BORDERLINE, P.NONE, "Premature ventricular complexes"),
    LabelInfo("Polymorph", (C.OTHER,), S.BORDERLINE, P.NONE, "QRS complexes of several shapes"),
    LabelInfo("T wave inversion (septal- V1-V2)", (C.OTHER,), S.NORMAL, P.NONE, "Septal T wave inversion"),
    LabelInfo("Right bundle branch block", (C.CONDUCTION,), S.PATHOLOGICAL, P.LOW, "Right bundle branch block"),
    LabelInfo("Ventricular paced", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "Ventricular paced rhythm"),
    LabelInfo("ST elevation (anterior - V3-V4)", (C.INFARCTION,), S.PATHOLOGICAL, P.MEDIUM, "Anterior ST elevation", E.HIGH, 131845),
    LabelInfo("ST elevation (septal - V1-V2)", (C.INFARCTION,), S.PATHOLOGICAL, P.MEDIUM, "Septal ST elevation", E.HIGH, 131844),
    LabelInfo("1st degree AV block", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "First-degree AV block", E.AV_BLOCK_1),
    LabelInfo("Premature atrial complex", (C.RHYTHM,), S.BORDERLINE, P.NONE, "Premature atrial complexes", E.SV_PC),
    LabelInfo("Atrial flutter", (C.RHYTHM,), S.PATHOLOGICAL, P.MEDIUM, "Atrial flutter", E.ATR_FLUT),
    LabelInfo("rSR' in V1-V2", (C.OTHER,), S.NORMAL, P.NONE, "rSR' pattern in V1 and V2"),
    LabelInfo("qRS in V5-V6-I, aVL", (C.OTHER,), S.NORMAL, P.NONE, "qRS complexes in the lateral leads"),
    LabelInfo("Left anterior fascicular block", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "Left anterior fascicular block"),
    LabelInfo("Right axis deviation", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "Right axis deviation"),
    LabelInfo("2nd degree AV block - mobitz 1", (C.CONDUCTION,), S.PATHOLOGICAL, P.LOW, "Second-degree AV block, Mobitz I (Wenckebach)", E.AV_BLOCK_2),
    LabelInfo("ST depression (inferior - II, III, aVF)", (C.INFARCTION,), S.PATHOLOGICAL, P.MEDIUM, "Inferior ST depression", E.LOW, 131842),
    LabelInfo("Acute pericarditis", (C.PERICARDITIS,), S.PATHOLOGICAL, P.MEDIUM, "Acute pericarditis"),
    LabelInfo("ST elevation (inferior - II, III, aVF)", (C.INFARCTION,), S.PATHOLOGICAL, P.MEDIUM, "Inferior ST elevation", E.HIGH, 131842),
    LabelInfo("Low voltage", (C.OTHER,), S.BORDERLINE, P.NONE, "Low voltage"),
    LabelInfo("Regularly irregular", (C.RHYTHM,), S.BORDERLINE, P.NONE, "Regularly irregular rhythm"),
    LabelInfo("Junctional rhythm", (C.RHYTHM,), S.PATHOLOGICAL, P.MEDIUM, "Junctional rhythm"),
    LabelInfo("Left atrial enlargement", (C.ENLARGEMENT,), S.BORDERLINE, P.NONE, "Left atrial enlargement"),
    LabelInfo("ST elevation (lateral - I, aVL, V5-V6)", (C.INFARCTION,), S.PATHOLOGICAL, P.MEDIUM, "Lateral ST elevation", E.HIGH, 131847),
    LabelInfo("Atrial paced", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "Atrial paced rhythm"),
    LabelInfo("Right ventricular hypertrophy", (C.ENLARGEMENT,), S.PATHOLOGICAL, P.LOW, "Right ventricular hypertrophy"),
    LabelInfo("Delta wave", (C.CONDUCTION,), S.PATHOLOGICAL, P.LOW, "Delta wave (pre-excitation)"),
    LabelInfo("Wolff-Parkinson-White (Pre-excitation syndrome)", (C.RHYTHM,), S.PATHOLOGICAL, P.LOW, "Pre-excitation (Wolff-Parkinson-White)"),
    LabelInfo("Prolonged QT", (C.CONDUCTION,), S.PATHOLOGICAL, P.MEDIUM, "Prolonged QT interval"),
    LabelInfo("ST depression (anterior - V3-V4)", (C.INFARCTION, C.OTHER), S.PATHOLOGICAL, P.MEDIUM, "Anterior ST depression", E.LOW, 131845),
    LabelInfo("QRS complex negative in III", (C.OTHER,), S.NORMAL, P.NONE, "Negative QRS complex in lead III"),
    LabelInfo("Q wave (lateral- I, aVL, V5-V6)", (C.INFARCTION,), S.PATHOLOGICAL, P.LOW, "Lateral Q waves"),
    LabelInfo("Supraventricular tachycardia", (C.RHYTHM,), S.PATHOLOGICAL, P.MEDIUM, "Supraventricular tachycardia", E.SV_TACHY),
    LabelInfo("ST downslopping", (C.OTHER,), S.PATHOLOGICAL, P.LOW, "Downsloping ST segment"),
    LabelInfo("ST depression (lateral - I, avL, V5-V6)", (C.INFARCTION,), S.PATHOLOGICAL, P.MEDIUM, "Lateral ST depression", E.LOW, 131847),
    LabelInfo("2nd degree AV block - mobitz 2", (C.CONDUCTION,), S.PATHOLOGICAL, P.MEDIUM, "Second-degree AV block, Mobitz II", E.AV_BLOCK_2),
    LabelInfo("U wave", (C.CONDUCTION,), S.NORMAL, P.NONE, "U wave"),
    LabelInfo("R/S ratio in V1-V2 >1", (C.OTHER,), S.NORMAL, P.NONE, "R wave larger than S in V1 and V2"),
    LabelInfo("RV1 + SV6 > 11 mm", (C.OTHER,), S.BORDERLINE, P.NONE, "High right ventricular voltage (RV1 + SV6 over 11 mm)"),
    LabelInfo("Left posterior fascicular block", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "Left posterior fascicular block"),
    LabelInfo("Right atrial enlargement", (C.ENLARGEMENT,), S.BORDERLINE, P.NONE, "Right atrial enlargement"),
    LabelInfo("ST depression (septal- V1-V2)", (C.OTHER,), S.PATHOLOGICAL, P.MEDIUM, "Septal ST depression", E.LOW, 131844),
    LabelInfo("Q wave (septal- V1-V2)", (C.INFARCTION,), S.PATHOLOGICAL, P.LOW, "Septal Q waves"),
    LabelInfo("Q wave (anterior - V3-V4)", (C.INFARCTION,), S.PATHOLOGICAL, P.LOW, "Anterior Q waves"),
    LabelInfo("ST upslopping", (C.OTHER,), S.NORMAL, P.NONE, "Upsloping ST segment"),
    LabelInfo("Right superior axis", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "Right superior (extreme) axis"),
    LabelInfo("Ventricular tachycardia", (C.RHYTHM,), S.PATHOLOGICAL, P.HIGH, "Ventricular tachycardia", E.V_TACHY),
    LabelInfo("ST elevation (posterior - V7-V8-V9)", (C.INFARCTION,), S.PATHOLOGICAL, P.MEDIUM, "Posterior ST elevation"),
    LabelInfo("Ectopic atrial rhythm (< 100 BPM)", (C.RHYTHM,), S.BORDERLINE, P.NONE, "Ectopic atrial rhythm (below 100/min)"),
    LabelInfo("Lead misplacement", (C.OTHER,), S.BORDERLINE, P.NONE, "Leads may be swapped or misplaced"),
    LabelInfo("Third Degree AV Block", (C.CONDUCTION,), S.PATHOLOGICAL, P.HIGH, "Third-degree (complete) AV block", E.AV_BLOCK_3),
    LabelInfo("Acute MI", (C.INFARCTION,), S.PATHOLOGICAL, P.HIGH, "Acute myocardial infarction pattern"),
    LabelInfo("Early repolarization", (C.OTHER,), S.NORMAL, P.NONE, "Early repolarization"),
    LabelInfo("Q wave (posterior - V7-V9)", (C.INFARCTION,), S.PATHOLOGICAL, P.LOW, "Posterior Q waves"),
    LabelInfo("Bi-atrial enlargement", (C.ENLARGEMENT,), S.PATHOLOGICAL, P.LOW, "Enlargement of both atria"),
    LabelInfo("LV pacing", (C.CONDUCTION,), S.BORDERLINE, P.NONE, "Left ventricular pacing"),
    LabelInfo("Brugada", (C.RHYTHM,), S.PATHOLOGICAL, P.MEDIUM, "Brugada pattern"),
    LabelInfo("Ventricular Rhythm", (C.RHYTHM,), S.PATHOLOGICAL, P.MEDIUM, "Ventricular rhythm", E.V_RHY),
    LabelInfo("no_qrs", (C.OTHER,), S.PATHOLOGICAL, P.HIGH, "No QRS complexes found", E.ASYSTOLE),
)
"""In the order of DeepECG-SL's outputs."""
# fmt: on

LABEL_NAMES: tuple[str, ...] = tuple(label.name for label in LABELS)

# fmt: off
SSL_INDEX_FROM_SL: tuple[int, ...] = (
    15, 23, 16, 1, 57, 63, 73, 41, 39, 36, 2, 29, 30, 65, 34, 12, 55, 56, 21, 8, 42, 71, 37, 50, 13, 38, 46, 24, 49,
    9, 66, 26, 40, 4, 22, 0, 11, 74, 64, 7, 76, 58, 33, 70, 17, 6, 28, 69, 44, 61, 32, 72, 45, 25, 75, 18, 14, 5, 3,
    31, 27, 67, 62, 10, 43, 51, 52, 47, 19, 68, 53, 48, 60, 20, 59, 54, 35,
)
# fmt: on
"""Published permutation: ``probabilities_in_sl_order[i] = probabilities_ssl[SSL_INDEX_FROM_SL[i]]``."""

SSL_ORDER: tuple[str, ...] = tuple(
    name for _, name in sorted(zip(SSL_INDEX_FROM_SL, LABEL_NAMES, strict=True), key=lambda pair: pair[0])
)
"""The names in the order of DeepECG-SSL's outputs."""


def normalised(name: str) -> str:
    """A key under which two spellings of one label are equal.

    Compatibility forms are folded (a no-break space becomes a space, a typographic apostrophe a plain one), case and
    all white space dropped: ``ST depression (lateral - I, avL, V5-V6)`` = ``st depression (lateral -I, aVL, V5-V6)``.
    """
    folded = unicodedata.normalize("NFKC", name).replace("’", "'").replace("–", "-").casefold()
    return "".join(folded.split())


_INDEX = {normalised(label.name): i for i, label in enumerate(LABELS)}


def index_of(name: str) -> int:
    """Position of the label in ``LABELS``, compared normalised.

    Raises:
        KeyError: no such label.
    """
    try:
        return _INDEX[normalised(name)]
    except KeyError:
        raise KeyError(f"{name!r} is none of the 77 labels; see agent.core.labels.LABEL_NAMES") from None


def label(name: str) -> LabelInfo:
    """The diagnosis of that name, compared normalised.

    Raises:
        KeyError: no such label.
    """
    return LABELS[index_of(name)]
