"""Where a wave's change is: lists of leads ("II, III, aVF", "V4,5,6", "v2-6") and names of walls, as labels.

A region's label is said where two of its leads show the change, or one of its chest leads with a neighbour (two
contiguous leads, as the Fourth Universal Definition of Myocardial Infarction asks, Thygesen et al., 2018). A single
lead of a region leaves its label open.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_V = tuple(f"v{i}" for i in range(1, 10))

REGIONS: Mapping[str, tuple[str, ...]] = {
    "inferior": ("ii", "iii", "avf"),
    "lateral": ("i", "avl", "v5", "v6"),
    "high_lateral": ("i", "avl"),
    "low_lateral": ("v5", "v6"),
    "anterior": ("v3", "v4"),
    "septal": ("v1", "v2"),
    "anteroseptal": ("v1", "v2", "v3", "v4"),
    "anterolateral": ("v3", "v4", "v5", "v6", "i", "avl"),
    "inferolateral": ("ii", "iii", "avf", "v5", "v6"),
    "right_precordial": ("v1", "v2", "v3"),
    "precordial": ("v1", "v2", "v3", "v4", "v5", "v6"),
    "limb": ("i", "ii", "iii", "avl", "avf"),
    "posterior": ("v7", "v8", "v9"),
    "everywhere": ("i", "ii", "iii", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6"),
    "same": (),
}
"""Names of places and their leads; "same": the leads named before ("these leads")."""

LABELS_BY_REGION: Mapping[str, Mapping[str, str]] = {
    "st_elevation": {
        "inferior": "ST elevation (inferior - II, III, aVF)",
        "lateral": "ST elevation (lateral - I, aVL, V5-V6)",
        "anterior": "ST elevation (anterior - V3-V4)",
        "septal": "ST elevation (septal - V1-V2)",
        "posterior": "ST elevation (posterior - V7-V8-V9)",
    },
    "st_depression": {
        "inferior": "ST depression (inferior - II, III, aVF)",
        "lateral": "ST depression (lateral - I, avL, V5-V6)",
        "anterior": "ST depression (anterior - V3-V4)",
        "septal": "ST depression (septal- V1-V2)",
    },
    "t_inversion": {
        "inferior": "T wave inversion (inferior - II, III, aVF)",
        "lateral": "T wave inversion (lateral -I, aVL, V5-V6)",
        "anterior": "T wave inversion (anterior - V3-V4)",
        "septal": "T wave inversion (septal- V1-V2)",
    },
    "q_wave": {
        "inferior": "Q wave (inferior - II, III, aVF)",
        "lateral": "Q wave (lateral- I, aVL, V5-V6)",
        "anterior": "Q wave (anterior - V3-V4)",
        "septal": "Q wave (septal- V1-V2)",
        "posterior": "Q wave (posterior - V7-V9)",
    },
    "qs": {"right_precordial": "QS complex in V1-V2-V3"},
    "rsr": {"septal": "rSR' in V1-V2"},
    "qrs_shape": {"lateral": "qRS in V5-V6-I, aVL"},
    "r_wave": {"low_lateral": "R complex in V5-V6"},
}
"""Of a wave's change: the label of each region that has one."""

_ONE = r"(?:d?i{1,3}|d[1-3]|a?v-?[rlf]|v\s?[1-9])"
_SEPARATOR = r"(?:\s*(?:[,+/&;-]|\b(?:bis|to|through|u|und|and|et|a)\b)\s*|\s+)"
LEADS = re.compile(rf"(?<![\w']){_ONE}(?:{_SEPARATOR}(?:{_ONE}|[1-9]|[lfr])(?![\w']))*(?![\w'])")
"""A list of leads in a folded text; "l", "f", "vl" and "vf" are aVL and aVF, "d2" is II, a bare figure a chest lead."""

_PIECE = re.compile(
    r"(?P<range>-|\b(?:bis|to|through|a)\b)|d(?P<d>[1-3])\b|(?:v\s?)?(?P<n>[1-9])|(?P<limb>d?i{1,3}|(?:a?v-?)?[rlf])\b"
)


def leads_of(written: str) -> tuple[str, ...]:
    """The leads of a list as `LEADS` finds it; ranges of chest leads ("v2-6") and of limb leads ("i-iii") filled in."""
    out: list[str] = []
    ranging = False
    for piece in _PIECE.finditer(written):
        if piece["range"]:
            ranging = bool(out)
            continue
        if piece["n"]:
            lead = f"v{piece['n']}"
        elif piece["d"]:
            lead = "i" * int(piece["d"])
        else:
            limb = piece["limb"].lstrip("d").replace("-", "")
            lead = f"av{limb[-1]}" if limb[-1] in "lfr" else limb
        if ranging and out and out[-1] in _V and lead in _V:
            out.extend(_V[_V.index(out[-1]) + 1 : _V.index(lead)])
        elif ranging and (out[-1], lead) == ("i", "iii"):
            out.append("ii")
        out.append(lead)
        ranging = False
    return tuple(dict.fromkeys(out))


def labels_at_leads(change: str, leads: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels that a change in these leads says, and those that it leaves open: all of them where no lead is named."""
    labels = LABELS_BY_REGION[change]
    if not leads:
        return (), tuple(labels.values())
    there = set(leads)
    beside = {_V[i + step] for i, v in enumerate(_V) if v in there for step in (-1, 1) if 0 <= i + step < len(_V)}
    said, opened = [], []
    for region, label in labels.items():
        shown = there.intersection(REGIONS[region])
        if len(shown) >= 2 or shown & beside:
            said.append(label)
        elif shown:
            opened.append(label)
    return tuple(said), tuple(opened)
