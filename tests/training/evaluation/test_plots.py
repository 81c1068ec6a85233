"""Figures as SVG that parse, follow the page's colours, and hold what they should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from defusedxml import ElementTree

from training.evaluation import plots
from training.evaluation.assess import assess
from training.evaluation.cases import Cases
from training.evaluation.study import Study, StudySettings


@pytest.fixture(scope="module")
def study(simulate: Callable[..., Cases]) -> Study:
    return assess(simulate(400), StudySettings(resamples=20), validation=simulate(400, 8, prefix="v"))


@pytest.mark.parametrize("draw", [plots.roc, plots.pr, plots.reliability])
def test_svg_is_well_formed_and_wears_the_pages_colours(study: Study, draw: Callable[[Study], str]) -> None:
    text = draw(study)
    root = ElementTree.fromstring(text)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert "width" not in root.attrib
    assert root.find("title") is not None
    for stand_in in (plots.INK, plots.SOFT, plots.LINE, plots.ACCENT):
        assert stand_in not in text
    assert "var(--accent)" in text
    assert "DejaVu" not in text
    assert "metadata" not in text
    assert draw(study) == text, "the same again"


def texts(svg: str) -> set[str]:
    return {"".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter("text")}


def test_panels_are_categories_and_outputs(study: Study) -> None:
    assert {"Rhythm Disorders", "Conduction Disorder", "Pericarditis", "All outputs", "sensitivity"} <= texts(
        plots.roc(study)
    )
    drawn = [output.name for output in plots.drawn_reliably(study)]
    assert drawn[0] == "Sinusal", "by positive patients"
    assert {"Sinusal", "Afib", "predicted", "observed"} <= texts(plots.reliability(study))


def test_every_curve_is_drawn(study: Study) -> None:
    """Rhythm: two outputs and the pool; every panel has its pool and the diagonal."""
    panels = [group for group in study.groupings if group.outputs and not group.name.startswith("Severity")]
    single = sum(group.outputs for group in panels if group.name != "All outputs")
    found = plots.roc(study)
    assert found.count("stroke: var(--accent)") == len(panels)
    assert found.count("stroke: var(--soft)") == single


def test_ids_do_not_meet_in_one_page(study: Study) -> None:
    ids = [
        element.attrib["id"]
        for svg in (plots.roc(study), plots.pr(study))
        for element in ElementTree.fromstring(svg).iter()
        if "id" in element.attrib
    ]
    assert len(ids) == len(set(ids))


def test_without_figures_there_is_nothing_to_draw(study: Study) -> None:
    assert plots.drawn_reliably(replace(study, outputs=())) == []


def test_inline_names_and_escapes() -> None:
    head = '<?xml version="1.0"?><!DOCTYPE svg>'
    raw = head + '<svg xmlns="http://x" width="9pt" height="9pt" viewBox="0 0 1 1"><g id="a"/></svg>'
    found = plots.inline(raw, "f", "less < more & so on")
    assert found.startswith('<svg viewBox="0 0 1 1" role="img" aria-labelledby="f-title">')
    assert '<title id="f-title">less &lt; more &amp; so on</title>' in found
    assert 'id="f-a"' in found
    assert "http" not in found
