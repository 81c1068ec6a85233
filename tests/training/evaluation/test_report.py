"""The report: self-contained, accessible, and never a number where there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from agent.demo.screenshot import open_browser
from training.evaluation.assess import assess
from training.evaluation.cases import Cases
from training.evaluation.intervals import Estimate, Interval
from training.evaluation.report import (
    ADVISORY,
    Facts,
    axis_of,
    card,
    figure,
    html,
    interval,
    number,
    percent,
    plain,
    write,
)
from training.evaluation.resources import NO_COUNTER, Latency, Resources
from training.evaluation.study import Study, StudySettings

VOID = {"meta", "br", "circle", "line", "path", "use", "rect"}
COST = Resources(
    name="a network",
    parameters=1234,
    parameter_mb=0.005,
    macs=5_000_000,
    samples=2500,
    device="CPU",
    machine="some processor",
    energy=NO_COUNTER,
    latencies=(Latency(1, 1, 5, 10.0, 9.0, 11.0, 100.0, 300.0, 20.0, None, None),),
)


class Page(HTMLParser):
    """Elements with their attributes, the texts, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def study(simulate: Callable[..., Cases]) -> Study:
    cases, validation = simulate(500), simulate(400, 8, prefix="v", sharpness=1.5)
    truth = cases.truth.copy()
    truth[:, 3] = np.where(np.arange(500) == 7, 1, 0)  # one positive record: not evaluable
    return assess(replace(cases, truth=truth), StudySettings(resamples=60), validation=validation, resources=COST)


@pytest.fixture(scope="module")
def page(study: Study) -> Page:
    return Page(html(study, Facts(details="a test", training="nothing real")))


def test_every_element_is_closed(page: Page) -> None:
    assert page.open == []


def test_nothing_is_asked_for_from_outside(study: Study) -> None:
    text = html(study)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "script", "base")
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), f"<{tag} {name}={value}>"
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.startswith("#"), target


def test_ids_are_unique_and_every_reference_has_its_target(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"] for _, attributes in page.elements if attributes.get("href")}
    assert {target.removeprefix("#") for target in targets if target} <= set(ids)
    labelled = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert labelled <= set(ids)


def test_tables_and_figures_can_be_read_aloud(page: Page) -> None:
    for tag, attributes in page.elements:
        if tag == "th":
            assert attributes.get("scope") in ("col", "row", "colgroup", "rowgroup")
        if tag == "svg":
            named = attributes.get("role") == "img" and attributes.get("aria-labelledby")
            assert named or attributes.get("aria-hidden") == "true", "a bar beside its numbers, or a named figure"
    figures = [a for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]
    assert len(figures) == 3
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == tags.count("main") == 1
    assert dict(page.elements[0][1]) == {"lang": "en"}


def test_it_says_what_it_must(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    assert ADVISORY in text
    assert "1 positive patient, 5 needed" in text
    assert "Acute pericarditis" in text
    assert NO_COUNTER in text
    assert "not measured" in text
    assert "is assumed" in text, "what is not known of the paper's resampling"
    for word in ("nan", "inf", "None", "undefined"):
        assert not re.search(rf"(?<![\w.]){word}(?![\w.])", text), word


def test_a_name_cannot_break_the_page(simulate: Callable[..., Cases]) -> None:
    names = ("<script>alert(1)</script>", "a & b", "x $\\alpha$ | y", "d", "e", "f")
    cases = replace(simulate(300), names=names, source=np.full(300, "<b>"))
    study = assess(cases, StudySettings(model="</title><script>", resamples=30))
    page = Page(html(study))
    assert page.open == []
    tags = {tag for tag, _ in page.elements}
    assert "script" not in tags
    assert "b" not in tags or "<b>" not in [a.get("class") for _, a in page.elements]
    assert "x $\\alpha$ | y" in "".join(page.text)
    assert "| x $\\alpha$ \\| y |" in card(study)


def test_bare_predictions_make_a_report_too(simulate: Callable[..., Cases]) -> None:
    """No validation, no age, no sex, one source, and not one output with enough patients."""
    cases = simulate(40, per_patient=20)
    bare = replace(cases, sex=np.full(40, ""), age=np.full(40, np.nan, np.float32), source=np.full(40, "one"))
    study = assess(bare, StudySettings(resamples=20))
    assert study.evaluated == []
    page = Page(html(study))
    assert page.open == []
    text = " ".join(page.text)
    assert "No output has enough patients" in text
    assert "No patient's age is known" in text
    assert "Fairness" not in text
    assert "Operating points" not in text
    assert "Neither sex nor age is known" in card(study)


def test_json_has_every_number_and_no_nan(study: Study, tmp_path: Path) -> None:
    written = write(study, tmp_path / "out", Facts(made="2026-01-01"))
    assert set(written) == {"report.html", "evaluation.json", "model-card.md"}
    read = json.loads(written["evaluation.json"].read_text("utf-8"), parse_constant=pytest.fail)
    assert read["schema"] == "deepecg-evaluation/1"
    by_name = {output["name"]: output for output in read["outputs"]}
    assert by_name["Acute pericarditis"]["auroc"] is None
    afib = next(output for output in study.outputs if output.name == "Afib")
    assert afib.auroc is not None
    assert by_name["Afib"]["auroc"]["value"] == afib.auroc.value
    assert by_name["Afib"]["rates"]["sensitivity"]["value"] == afib.rates["sensitivity"].value  # type: ignore[union-attr]
    assert read["settings"]["bands"][-1] == "80+"
    assert read["facts"]["made"] == "2026-01-01"
    assert "p17" not in written["evaluation.json"].read_text("utf-8"), "no patient is named"
    assert number(afib.auroc.value) in written["report.html"].read_text("utf-8")


def test_the_same_study_gives_the_same_files(study: Study) -> None:
    assert html(study) == html(study)
    assert json.dumps(plain(study, Facts())) == json.dumps(plain(study, Facts()))


def test_the_card_has_its_parts(study: Study) -> None:
    text = card(study, Facts(training="nothing real"))
    for part in (
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats and recommendations",
    ):
        assert f"## {part}" in text
    assert ADVISORY in text
    assert "nothing real" in text
    assert "Acute pericarditis" in text.split("Not evaluable here")[1]
    for line in text.splitlines():
        if line.startswith("| Afib"):
            assert line.count("|") == 9
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    for table in tables:
        assert len({row.replace("\\|", "").count("|") for row in table.splitlines()}) == 1


COLOURS = """() => Object.fromEntries(["ground", "ink", "soft", "accent", "mark"].map(name => {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(--${name})`;
  const [r, g, b] = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
  probe.remove();
  return [name, [r, g, b]];
}))"""


def contrast(a: list[int], b: list[int]) -> float:
    """WCAG 2's contrast of two colours."""

    def luminance(colour: list[int]) -> float:
        parts = [v / 255 for v in colour]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


async def test_a_browser_shows_it_and_asks_for_nothing(
    study: Study, tool: Callable[[str], str], tmp_path: Path
) -> None:
    tool("chromium")
    path = write(study, tmp_path)["report.html"]
    asked: list[str] = []
    complaints: list[str] = []
    async with open_browser() as browser:
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(path.as_uri())
        assert asked == [path.as_uri()]
        assert complaints == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        grounds = set()
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            colours = await page.evaluate(COLOURS)
            grounds.add(tuple(colours["ground"]))
            for name in ("ink", "soft", "accent", "mark"):
                assert contrast(colours[name], colours["ground"]) >= 4.5, f"{name}, {scheme}"
            line = page.locator("figure svg path[style*='var(--accent)']").first
            stroke = await line.evaluate("line => getComputedStyle(line).stroke")
            assert stroke == f"rgb({', '.join(map(str, colours['accent']))})", "figures follow the page"
        assert len(grounds) == 2


def test_numbers_are_written_as_journals_do() -> None:
    assert [number(v) for v in (0.9534, 1.0, 0.0, -0.0123, -0.0001, None)] == [
        ".953",
        "1.000",
        ".000",
        "−.012",
        ".000",
        "–",
    ]
    assert [percent(v) for v in (0.042, 0.00042, 0.0, 1.0, None)] == ["4.2 %", "0.042 %", "0.0 %", "100.0 %", "–"]
    assert figure(Estimate(0.9, Interval(0.85, 0.94))) == ".900 (.850–.940)"
    assert figure(Estimate(1.0, Interval(0.83, 1.0, exact=True))) == "1.000 (.830–1.000, exact)"
    assert percent(1e-9) == "<0.001 %"
    assert figure(Estimate(0.9)) == ".900 (no interval)"
    assert interval(Estimate(0.0, Interval(-0.01, 0.01))) == "−.010 to .010"
    assert figure(None) == interval(None) == "–"


def test_axes_hold_what_is_drawn() -> None:
    found = axis_of([Estimate(0.83, Interval(0.78, 0.91)), None, Estimate(0.97)], top=1.0)
    assert (found.low, found.high) == (pytest.approx(0.7), 1.0)
    assert len(found.ticks) <= 5
    assert axis_of([]).ticks == (0.0, 0.5, 1.0)
    one = axis_of([Estimate(1.0)], top=1.0)
    assert one.low < one.high
    assert 0 <= one.at(-5) <= one.at(0.999) <= one.at(5) <= 200
