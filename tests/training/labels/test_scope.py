"""What cues bear on: one case for each rule of the module's head."""

from __future__ import annotations

import pytest

from training.labels.findings import FINDINGS
from training.labels.lexicon import lexicon
from training.labels.scope import read
from training.labels.text import fold

DENIALS = {"de": "Kein Hinweis auf", "en": "No evidence of", "fr": "Pas de"}
DOUBTS = {
    "de": ("V.a.", "nicht auszuschließen"),
    "en": ("Possible", "cannot be excluded"),
    "fr": ("Possible", "à discuter"),
}


def statuses(text: str, language: str = "de") -> dict[str, str]:
    return {m.finding: m.status for m in read(fold(text), text, lexicon(language))}


def plain_phrases(language: str) -> list[tuple[str, str]]:
    """One whole phrase of each finding, without gaps and endings, and without a cue of its own."""
    out = []
    cues = lexicon(language)
    for phrases in cues.phrases.values():
        for phrase in phrases:
            finding = FINDINGS.get(phrase.meaning)
            if finding is None or finding.alone or set("*.,?'>") & set(phrase.written) or len(phrase.written) < 4:
                continue
            own = [h for h in cues.hits(fold(phrase.written).text) if h.is_cue]
            if not own:
                out.append((phrase.meaning, phrase.written.replace("-", "")))
    return out


@pytest.mark.parametrize("language", ["de", "en", "fr"])
def test_every_phrase_can_be_denied_and_doubted(language: str) -> None:
    before, after = DOUBTS[language]
    phrases = plain_phrases(language)
    assert len(phrases) > 300
    wrong = []
    for finding, phrase in phrases:
        for sentence, status in (
            (f"{DENIALS[language]} {phrase}.", "negated"),
            (f"{before} {phrase}", "uncertain"),
            (f"{phrase} {after}", "uncertain"),
            (f"{phrase}.", "affirmed"),
        ):
            found = {(m.finding, m.status) for m in read(fold(sentence), sentence, lexicon(language))}
            if (finding, status) not in found:
                wrong.append((finding, status, sentence, sorted(found)))
    assert not wrong


def test_a_cue_ends_at_the_next_finding() -> None:
    assert statuses("linksschenkelblock linkshypertrophie möglich") == {
        "left_bundle_branch_block": "affirmed",
        "left_ventricular_hypertrophy": "uncertain",
    }


def test_a_list_shares_its_cue() -> None:
    assert statuses("Kein AV-Block, LSB oder RSB") == {
        "av_block": "negated",
        "left_bundle_branch_block": "negated",
        "right_bundle_branch_block": "negated",
    }
    assert set(statuses("LVH oder LSB möglich").values()) == {"uncertain"}


def test_a_comma_alone_does_not() -> None:
    assert statuses("Keine ES, LSB") == {"ectopy": "negated", "left_bundle_branch_block": "affirmed"}


def test_a_sentence_end_and_a_breaking_word_stop_a_cue() -> None:
    assert statuses("Kein Vergleich möglich. LSB")["left_bundle_branch_block"] == "affirmed"
    assert statuses("No acute changes but LBBB", "en")["left_bundle_branch_block"] == "affirmed"


def test_a_new_line_stops_a_cue_but_not_a_phrase() -> None:
    assert statuses("Keine Besonderheiten\nLSB")["left_bundle_branch_block"] == "affirmed"
    assert statuses("old inferior\nmyocardial infarction", "en")["infarction"] == "historical"
    assert statuses("no evidence of\nleft bundle branch block", "en")["left_bundle_branch_block"] == "negated"


def test_a_remark_in_brackets_is_its_own() -> None:
    assert statuses("Sinusbradykardie (Betablocker fraglich)")["sinus_bradycardia"] == "affirmed"
    assert statuses("LVH (fraglich)")["left_ventricular_hypertrophy"] == "uncertain"


def test_pseudo_cues() -> None:
    assert statuses("Keine Änderung gegenüber dem Vor-EKG: LSB")["left_bundle_branch_block"] == "affirmed"
    assert statuses("No change in LBBB", "en")["left_bundle_branch_block"] == "affirmed"


def test_old_bears_on_infarction_alone() -> None:
    assert statuses("Alter Vorderwandinfarkt, chronisches Vorhofflimmern") == {
        "infarction": "historical",
        "atrial_fibrillation": "affirmed",
    }


def test_a_question_mark_doubts() -> None:
    assert statuses("LVH? RSB") == {
        "left_ventricular_hypertrophy": "uncertain",
        "right_bundle_branch_block": "affirmed",
    }


def test_both_sides_of_versus_are_doubted() -> None:
    assert set(statuses("VT vs SVT", "en").values()) == {"uncertain"}


def test_a_cue_within_a_phrase() -> None:
    assert statuses("T waves are not inverted", "en") == {"t_inversion": "negated"}
    assert statuses("T in V5 nicht negativ") == {"t_inversion": "negated"}


def leads(text: str, language: str = "de") -> dict[str, set[str]]:
    return {m.finding: {name.split("(")[1][:3] for name in m.says} for m in read(fold(text), text, lexicon(language))}


def test_leads_go_with_their_wave() -> None:
    assert leads("ST-Hebung in V1-V3, T negativ in II, III, aVF") == {
        "st_elevation": {"sep", "ant"},
        "t_inversion": {"inf"},
    }
    assert leads("T neg. in V5-6, inferiore ST-Senkung") == {"t_inversion": {"lat"}, "st_depression": {"inf"}}
    assert leads("T in V3-V4 negativ, in II, III biphasisch")["t_inversion"] == {"ant"}
    assert leads("ST segments are depressed and T waves inverted in V5, V6", "en") == {
        "st_depression": {"lat"},
        "t_inversion": {"lat"},
    }
    both = "ST segments are depressed in V5, V6. T waves are inverted in these leads."
    assert leads(both, "en")["t_inversion"] == {"lat"}


def test_mentions_tell_what_they_stand_on() -> None:
    text = "Sinusrhythmus. Kein Hinweis auf Überleitungsstörung oder LSB"
    last = read(fold(text), text, lexicon("de"))[-1]
    assert (last.finding, last.text, last.status, last.language) == ("left_bundle_branch_block", "LSB", "negated", "de")
    assert text[slice(*last.span)] == "LSB"
    assert last.phrase == "lsb"
    assert last.cues == ("kein* hinweis* auf",)
