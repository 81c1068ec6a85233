"""MIT-format rhythm and beat annotations as the labels of a window."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.data.codes.vocabulary import (
    AF,
    AT,
    BRADY,
    DELTA,
    FLUTTER,
    IRREGULAR,
    JUNCTIONAL,
    LBBB,
    MOBITZ1,
    MOBITZ2,
    MONOMORPH,
    PAC,
    PVC,
    RBBB,
    REGULAR,
    REGULARLY_IRREGULAR,
    RHYTHMS,
    SINUS,
    SVT,
    V_PACED,
    VR,
    VT,
    WPW,
)
from training.data.recording import Annotations, Labels, set_labels, unknown_labels

BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")
"""MIT beat codes; everything else is not a beat."""

MITDB_RHYTHMS: Mapping[str, tuple[str, ...]] = {
    "N": (SINUS,),
    "SBR": (SINUS, BRADY),
    "AFIB": (AF, IRREGULAR),
    "AFL": (FLUTTER,),
    "SVTA": (SVT,),
    "VT": (VT,),
    "IVR": (VR,),
    "NOD": (JUNCTIONAL,),
    "P": (V_PACED,),  # the pacemakers of the database pace the ventricle
    "B": (REGULARLY_IRREGULAR,),  # ventricular bigeminy
    "T": (REGULARLY_IRREGULAR,),  # ventricular trigeminy
    "AB": (REGULARLY_IRREGULAR,),  # atrial bigeminy
    "PREX": (SINUS, WPW, DELTA),
    "BII": (),  # second-degree block; which type is not said
    "VFL": (),  # ventricular flutter is none of the 77
}
"""What ten seconds entirely within a rhythm are."""

_RUN_SECONDS = 2.0
"""A run of VT or SVT that fills this much of a window is the window's label; a shorter one leaves it open."""

_EXPRESSIBLE = (AF, FLUTTER, SVT, VT, VR, JUNCTIONAL, V_PACED, WPW, DELTA, REGULARLY_IRREGULAR)
"""The annotators would have marked these rhythms."""

_LEAVES_OPEN: Mapping[str, tuple[str, ...]] = {
    "P": (SINUS, AF, FLUTTER, IRREGULAR, LBBB, RBBB, PVC),
    "VFL": (SINUS, VT, VR, PVC, PAC, AF),
    "VT": (SINUS, VR, PVC, PAC, AF),
    "IVR": (VT, PVC, SINUS),
    "AFIB": (PAC, FLUTTER),  # an aberrant beat in AF is no premature atrial one; AF and flutter shade into each other
    "AFL": (PAC, AF, SVT, IRREGULAR),
    "SVTA": (PAC, AT, AF, FLUTTER),
    "B": (SINUS,),
    "T": (SINUS,),
    "AB": (SINUS,),
    "NOD": (PAC,),
    "BII": (SINUS, MOBITZ1, MOBITZ2),
}
"""What a rhythm that touches a window leaves open in it."""

_HYSTERESIS = 2.0
"""A rate within so many beats a minute of 60 decides nothing about bradycardia."""


def _beat_labels(labels: Labels, annotations: Annotations, start: float, seconds: float, ectopy: bool) -> bool | None:
    """Write what the beats say; True = evenly spaced, False = not, None = not known (too few, or ectopic)."""
    first, last = np.searchsorted(annotations.beat_times, (start, start + seconds))
    times = annotations.beat_times[first:last]
    symbols = annotations.beat_symbols[first:last]
    if len(times) < 3:
        return None
    set_labels(labels, 0, "no_qrs")
    intervals = np.diff(times)
    rate = 60.0 / float(np.mean(intervals))
    if abs(rate - 60.0) > _HYSTERESIS:
        set_labels(labels, int(rate < 60.0), BRADY)
    kinds = set(symbols)
    if "V" in kinds:
        set_labels(labels, 1, PVC)
    elif ectopy and not kinds & set("FE!?Qr"):
        set_labels(labels, 0, PVC)
    if kinds & set("Aa"):
        set_labels(labels, 1, PAC)
    elif ectopy and not kinds & set("JSjenQ?"):
        set_labels(labels, 0, PAC)
    if not ectopy:
        return None if kinds - {"N"} else bool(np.max(np.abs(intervals / np.median(intervals) - 1.0)) < 0.1)
    normal = [s for s in symbols if s not in "VFE/fQ?!"]
    for label, code in ((LBBB, "L"), (RBBB, "R")):
        share = normal.count(code) / max(1, len(normal))
        if share >= 0.8:
            set_labels(labels, 1, label)
        elif share == 0 and normal:
            set_labels(labels, 0, label)
    if len(kinds) > 1:
        return None
    set_labels(labels, 1, MONOMORPH)
    return bool(np.max(np.abs(intervals / np.median(intervals) - 1.0)) < 0.1)


def _touching(annotations: Annotations, start: float, seconds: float) -> dict[str, float]:
    """Rhythm to the seconds of it in the window."""
    overlap: dict[str, float] = {}
    for span in annotations.spans:
        shared = min(span.end, start + seconds) - max(span.start, start)
        if shared > 0.05:  # a change exactly at the border, rounded to a sample
            overlap[span.rhythm] = overlap.get(span.rhythm, 0.0) + shared
    return overlap


def mitdb_labels(annotations: Annotations, start: float, seconds: float) -> Labels:
    """(77,) labels of the window from ``start`` s, of a recording annotated as the MIT-BIH Arrhythmia Database is.

    A rhythm is 1 where it fills the window (a run of tachycardia: two seconds of it), 0 where none of it is there,
    unknown between. Bundle branch block and ectopy come from the beats, bradycardia from their spacing.
    """
    labels = unknown_labels()
    overlap = _touching(annotations, start, seconds)
    set_labels(labels, 0, *_EXPRESSIBLE, MOBITZ1, MOBITZ2)
    even = _beat_labels(labels, annotations, start, seconds, ectopy=True)
    for rhythm in overlap:
        set_labels(labels, -1, *_LEAVES_OPEN.get(rhythm, ()))
    if len(overlap) > 1:
        # Part of a rhythm decides nothing about it, nor about regularity.
        for rhythm in overlap:
            set_labels(labels, -1, *MITDB_RHYTHMS.get(rhythm, ()))
        set_labels(labels, -1, SINUS, REGULAR, IRREGULAR)
        for rhythm, label in (("VT", VT), ("SVTA", SVT)):
            if overlap.get(rhythm, 0.0) >= _RUN_SECONDS:
                set_labels(labels, 1, label)
        return labels
    for rhythm in overlap:
        set_labels(labels, 1, *MITDB_RHYTHMS.get(rhythm, ()))
        if rhythm in {"AFIB", "AFL", "SVTA", "NOD"}:
            set_labels(labels, 0, *(set(RHYTHMS) & {SINUS}))
        if rhythm == "AFIB":
            set_labels(labels, 0, REGULAR)
        elif rhythm in {"N", "SBR", "PREX"}:
            if even:
                set_labels(labels, 1, REGULAR)
            if even is not None:
                set_labels(labels, 0, IRREGULAR)  # no ectopy: sinus arrhythmia at most
            if even is False:
                set_labels(labels, -1, REGULAR)
    return labels


def cpsc2021_labels(annotations: Annotations, start: float, seconds: float) -> Labels:
    """(77,) labels of a window of the CPSC 2021 recordings, whose annotators mark AF and everything else.

    What is not AF is not thereby sinus rhythm: only AF, regularity and rate are known.
    """
    labels = unknown_labels()
    even = _beat_labels(labels, annotations, start, seconds, ectopy=False)
    overlap = _touching(annotations, start, seconds)
    if len(overlap) > 1:
        return labels
    if "AFIB" in overlap:
        set_labels(labels, 1, AF, IRREGULAR)
        set_labels(labels, 0, SINUS, REGULAR)
    elif "N" in overlap:
        set_labels(labels, 0, AF)
        if even:
            set_labels(labels, 1, REGULAR)
            set_labels(labels, 0, IRREGULAR)
    return labels
