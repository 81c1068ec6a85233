"""Lists of leads and names of walls as labels."""

from __future__ import annotations

import pytest

from agent.core.labels import index_of
from training.labels.places import LABELS_BY_REGION, LEADS, REGIONS, labels_at_leads, leads_of


@pytest.mark.parametrize(
    ("written", "leads"),
    [
        ("in ii, iii, avf", "ii iii avf"),
        ("in v4,5,6", "v4 v5 v6"),
        ("in v2-6", "v2 v3 v4 v5 v6"),
        ("v1 -v3", "v1 v2 v3"),
        ("v1 bis v3", "v1 v2 v3"),
        ("i, avl, v5-6", "i avl v5 v6"),
        ("ii,iii,f,v3 - v5", "ii iii avf v3 v4 v5"),
        ("i-iii", "i ii iii"),
        ("d2, d3, vf", "ii iii avf"),
        ("d1-avl", "i avl"),
        ("v1 und v2", "v1 v2"),
        ("v8", "v8"),
    ],
)
def test_lists(written: str, leads: str) -> None:
    found = LEADS.search(written)
    assert found
    assert leads_of(found.group()) == tuple(leads.split())


@pytest.mark.parametrize("written", ["vii", "iv", "vvi", "qs", "viel", "rsr'"])
def test_no_lists(written: str) -> None:
    assert not LEADS.search(written)


def test_labels_exist_and_regions_are_known() -> None:
    for labels in LABELS_BY_REGION.values():
        for region, label in labels.items():
            assert region in REGIONS
            index_of(label)


def test_two_leads_make_a_region_and_one_leaves_it_open() -> None:
    assert labels_at_leads("q_wave", ["iii"]) == ((), ("Q wave (inferior - II, III, aVF)",))
    assert labels_at_leads("q_wave", ["iii", "avf"]) == (("Q wave (inferior - II, III, aVF)",), ())


def test_contiguous_chest_leads_over_two_regions() -> None:
    said, opened = labels_at_leads("st_elevation", ["v2", "v3"])
    assert set(said) == {"ST elevation (septal - V1-V2)", "ST elevation (anterior - V3-V4)"}
    assert opened == ()


def test_no_leads_leave_all_open() -> None:
    said, opened = labels_at_leads("t_inversion", [])
    assert said == ()
    assert set(opened) == set(LABELS_BY_REGION["t_inversion"].values())
