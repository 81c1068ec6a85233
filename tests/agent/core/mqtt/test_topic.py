"""Topics: what a template matches, subscribes to and writes; what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.mqtt.topic import Address, TemplateError, TopicTemplate

TEMPLATE = TopicTemplate()
TOPIC = "ward/v1/north/icu/7/ecg/monitor-1"


def test_a_template_subscribes_and_matches() -> None:
    assert TEMPLATE.filter == "ward/v1/+/+/+/ecg/+"
    assert TEMPLATE.match(TOPIC) == Address("north/icu/7", "monitor-1")
    assert TEMPLATE.topic("north/icu/7", "monitor-1") == TOPIC


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "ward/v1/n/i/7/ecg",
        "ward/v1/n/i/7/ecg/d/x",
        "ward/v1/n//7/ecg/d",
        "ward/v2/n/i/7/ecg/d",
        "ward/v1/n/i/7/ecg/\n",
    ],
)
def test_other_topics_do_not_match(topic: str) -> None:
    assert TEMPLATE.match(topic) is None


def test_constants_stand_in_for_levels_that_a_topic_lacks() -> None:
    template = TopicTemplate("monitors/{bed}/wave", site="north", unit="icu", device="gateway")
    assert template.filter == "monitors/+/wave"
    assert template.match("monitors/7/wave") == Address("north/icu/7", "gateway")


def test_a_literal_is_taken_literally() -> None:
    assert TopicTemplate("a.b/{site}/{unit}/{bed}").match("aXb/s/u/b") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ward/{site}/{unit}", "no {bed}"),
        ("ward/{unit}/{bed}", "no {site}"),
        ("ward/{site}/{bed}", "no {unit}"),
        ("ward/{site}/{unit}/{bed}/{bed}", "twice"),
        ("ward/{site}/{unit}/{bed}/{room}", "{room}"),
        ("ward/{site}/{unit}/b{bed}", "by itself"),
        ("ward/+/{site}/{unit}/{bed}", "wildcards"),
        ("ward/{site}/{unit}/{bed}/#", "wildcards"),
        ("ward//{site}/{unit}/{bed}", "plain word"),
        ("", "plain word"),
    ],
)
def test_a_bad_template_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says.replace("{", r"\{").replace("}", r"\}")):
        TopicTemplate(text)


@pytest.mark.parametrize("bed", ["a/b", "a/b/c/d", "a//c", "a/b/+", "a/b/#", "a/b/\x00"])
def test_no_topic_is_made_of_a_bed_that_is_none(bed: str) -> None:
    with pytest.raises(TemplateError):
        TopicTemplate("x/{site}/{unit}/{bed}").topic(bed)


part = st.text(st.characters(blacklist_characters="/+#", blacklist_categories=("Cc", "Cs")), min_size=1, max_size=64)


@given(part, part, part, part)
def test_topic_and_match_are_inverse(site: str, unit: str, bed: str, device: str) -> None:
    address = Address(f"{site}/{unit}/{bed}", device)
    assert TEMPLATE.match(TEMPLATE.topic(address.bed, device)) == address
