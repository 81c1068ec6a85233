"""The findings cover the 77 labels, by names that exist."""

from __future__ import annotations

from agent.core.labels import LABEL_NAMES, index_of
from training.labels.findings import FINDINGS, WITHOUT_PHRASE
from training.labels.places import LABELS_BY_REGION

IN_REFERENCE_WITHOUT_PHRASE = (
    "QRS complex negative in III",
    "QS complex in V1-V2-V3",
    "R complex in V5-V6",
    "RV1 + SV6 > 11 mm",
    "RaVL > 11 mm",
    "Right superior axis",
    "no_qrs",
    "qRS in V5-V6-I, aVL",
    "rSR' in V1-V2",
)


def named() -> set[str]:
    out = set()
    for finding in FINDINGS.values():
        out.update(finding.meaning.there, finding.implies, finding.acute.there if finding.acute else ())
        if finding.change:
            out.update(LABELS_BY_REGION[finding.change].values())
    return out


def test_names_are_labels() -> None:
    for finding in FINDINGS.values():
        for name in (
            *finding.meaning.there,
            *finding.meaning.leaves_open,
            *finding.excludes,
            *finding.denies,
            *finding.old,
        ):
            index_of(name)
    for name in WITHOUT_PHRASE:
        index_of(name)


def test_every_label_can_be_said() -> None:
    assert set(LABEL_NAMES) == named()


def test_labels_that_the_reference_has_no_phrase_for_have_one_here() -> None:
    assert set(IN_REFERENCE_WITHOUT_PHRASE) <= named()


def test_a_finding_does_not_contradict_itself() -> None:
    for key, finding in FINDINGS.items():
        assert not set(finding.meaning.there) & set(finding.excludes), key
