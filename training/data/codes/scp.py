"""SCP-ECG statements, as PTB-XL uses them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from training.data.codes.vocabulary import (
    ACUTE_MI,
    AF,
    AT,
    AVB1,
    AVB3,
    BAE,
    BRADY,
    DELTA,
    ECTOPIC_ATRIAL,
    FLUTTER,
    IRREGULAR,
    IVCD,
    JUNCTIONAL,
    LAD,
    LAE,
    LAFB,
    LBBB,
    LOW_VOLTAGE,
    LPFB,
    LV_VOLTAGE,
    LVH,
    MOBITZ1,
    MOBITZ2,
    MONOMORPH,
    PAC,
    PACED,
    POLYMORPH,
    PVC,
    QT,
    RAD,
    RAE,
    RBBB,
    REGULARLY_IRREGULAR,
    RSR,
    RV_VOLTAGE,
    RVH,
    SINUS,
    SUPERIOR,
    SVT,
    V_PACED,
    VR,
    WPW,
    Meaning,
    labels_from,
)
from training.data.recording import Labels, set_labels

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
    "PACE": PACED,  # in PTB-XL nearly always ventricular or dual-chamber
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
    labels = labels_from(meanings, SCP_EXPRESSIBLE)
    # ALAD and ARAD are abnormal deviations; LAD, RAD and AXL are mild or of unsaid side, so they stay unknown.
    axis = {"ALAD": LAD, "ARAD": RAD, "AXR": SUPERIOR}.get(heart_axis)
    if axis is not None or heart_axis == "MID":
        set_labels(labels, 0, *({LAD, RAD, SUPERIOR} - {axis}))
    if axis is not None:
        set_labels(labels, 1, axis)
    return labels
