"""Each label's line says the words that it stands on."""

from __future__ import annotations

from training.labels.dictionary import labels_of_mentions, mentions
from training.labels.explain import explain


def lines(text: str, *, closed: bool = False) -> dict[str, str]:
    found = mentions(text)
    given = explain(found, labels_of_mentions(found, closed=closed))
    return dict(line.split(": ", 1) for line in given)


def test_said_denied_excluded_considered() -> None:
    told = lines("Sinusrhythmus, V.a. LVH, kein Hinweis auf LSB, PQ normal, alter Infarkt.")
    assert told["Sinusal"] == "yes; “Sinusrhythmus” [de]"
    assert told["Regular"] == "yes; follows from “Sinusrhythmus” [de]"
    assert told["Afib"] == "no; excluded by “Sinusrhythmus” [de]"
    assert told["Left ventricular hypertrophy"] == "unknown; left open by “LVH” with “v a” [de]"
    assert told["Left bundle branch block"] == "no; denied: “LSB” with “kein* hinweis* auf” [de]"
    assert told["1st degree AV block"] == "no; excluded by “PQ normal” [de]"
    assert told["Acute MI"] == "no; excluded by “Infarkt” with “alte*” [de]"
    assert "Brugada" not in told


def test_not_named() -> None:
    assert lines("Sinus rhythm, otherwise normal ECG")["Brugada"] == "no; not named beside “otherwise normal ECG” [en]"
    assert lines("Linkstyp, LSB", closed=True)["Brugada"] == "no; not named"
