"""The rules that all vocabularies share."""

from __future__ import annotations

from itertools import chain

from agent.core.labels import index_of
from training.data.codes import AHA, AHA_EXPRESSIBLE, CODE15, PROXIES, SCP, SCP_EXPRESSIBLE, SNOMED, SNOMED_EXPRESSIBLE
from training.data.codes.vocabulary import AF, LBBB, PVC, REGULAR, RHYTHMS, SINUS, Meaning, labels_from


def test_every_name_in_the_maps_is_a_label() -> None:
    for meaning in chain(SCP.values(), SNOMED.values(), AHA.values(), CODE15.values()):
        for name in (*meaning.there, *meaning.leaves_open):
            index_of(name)
    for name in chain(SCP_EXPRESSIBLE, AHA_EXPRESSIBLE, PROXIES, *SNOMED_EXPRESSIBLE.values()):
        index_of(name)


def test_there_goes_before_open_and_open_before_absent() -> None:
    labels = labels_from([Meaning((SINUS,)), Meaning((LBBB,), (PVC,)), Meaning((), (LBBB,))], {LBBB, PVC, AF})
    assert [labels[index_of(name)] for name in (LBBB, PVC, AF)] == [1, -1, 0]


def test_without_a_rhythm_none_is_denied() -> None:
    labels = labels_from([Meaning((LBBB,))], {AF, PVC})
    assert {int(labels[index_of(name)]) for name in (*RHYTHMS, REGULAR)} == {-1}
    assert labels[index_of(PVC)] == 0
