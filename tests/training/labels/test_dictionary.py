"""The dictionary on sentences written for this test, in the field's own words; and on real reports, where they are."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.labels import LABELS, Severity, index_of
from training.labels.dictionary import (
    EXPRESSIBLE,
    NOT_NORMAL,
    UNREMARKED,
    considered,
    labels_of_report,
    mentions,
    unread,
)
from training.labels.reports import read_reports

SHORT = {
    "SR": "Sinusal",
    "REG": "Regular",
    "AF": "Afib",
    "IRR": "Irregularly irregular",
    "AFL": "Atrial flutter",
    "SVT": "Supraventricular tachycardia",
    "AT": "Atrial tachycardia (>= 100 BPM)",
    "VT": "Ventricular tachycardia",
    "VR": "Ventricular Rhythm",
    "JR": "Junctional rhythm",
    "EAR": "Ectopic atrial rhythm (< 100 BPM)",
    "BRADY": "Bradycardia",
    "RIRR": "Regularly irregular",
    "PVC": "Premature ventricular complex",
    "PAC": "Premature atrial complex",
    "POLY": "Polymorph",
    "VP": "Ventricular paced",
    "AP": "Atrial paced",
    "LVP": "LV pacing",
    "LBBB": "Left bundle branch block",
    "RBBB": "Right bundle branch block",
    "RSR": "rSR' in V1-V2",
    "IVCD": "Nonspecific intraventricular conduction delay",
    "LAFB": "Left anterior fascicular block",
    "LPFB": "Left posterior fascicular block",
    "AVB1": "1st degree AV block",
    "MOB1": "2nd degree AV block - mobitz 1",
    "MOB2": "2nd degree AV block - mobitz 2",
    "AVB3": "Third Degree AV Block",
    "WPW": "Wolff-Parkinson-White (Pre-excitation syndrome)",
    "DELTA": "Delta wave",
    "QT": "Prolonged QT",
    "U": "U wave",
    "LAD": "Left axis deviation",
    "RAD": "Right axis deviation",
    "NW": "Right superior axis",
    "LVH": "Left ventricular hypertrophy",
    "LVV": "SV1 + RV5 or RV6 > 35 mm",
    "AVL": "RaVL > 11 mm",
    "RVH": "Right ventricular hypertrophy",
    "RVV": "RV1 + SV6 > 11 mm",
    "LAE": "Left atrial enlargement",
    "RAE": "Right atrial enlargement",
    "BAE": "Bi-atrial enlargement",
    "LOW": "Low voltage",
    "MI": "Acute MI",
    "PERI": "Acute pericarditis",
    "EARLY": "Early repolarization",
    "BRUG": "Brugada",
    "SWAP": "Lead misplacement",
    "ASYS": "no_qrs",
    "QS": "QS complex in V1-V2-V3",
    "R56": "R complex in V5-V6",
    "RS1": "R/S ratio in V1-V2 >1",
    "NEG3": "QRS complex negative in III",
    "DOWN": "ST downslopping",
    "UP": "ST upslopping",
    "STEI": "ST elevation (inferior - II, III, aVF)",
    "STEL": "ST elevation (lateral - I, aVL, V5-V6)",
    "STEA": "ST elevation (anterior - V3-V4)",
    "STES": "ST elevation (septal - V1-V2)",
    "STEP": "ST elevation (posterior - V7-V8-V9)",
    "STDI": "ST depression (inferior - II, III, aVF)",
    "STDL": "ST depression (lateral - I, avL, V5-V6)",
    "STDA": "ST depression (anterior - V3-V4)",
    "STDS": "ST depression (septal- V1-V2)",
    "TI": "T wave inversion (inferior - II, III, aVF)",
    "TL": "T wave inversion (lateral -I, aVL, V5-V6)",
    "TA": "T wave inversion (anterior - V3-V4)",
    "TS": "T wave inversion (septal- V1-V2)",
    "QI": "Q wave (inferior - II, III, aVF)",
    "QL": "Q wave (lateral- I, aVL, V5-V6)",
    "QA": "Q wave (anterior - V3-V4)",
    "QSEP": "Q wave (septal- V1-V2)",
}
"""Labels as the tables below write them: +X said, -X denied, ?X unknown."""

GERMAN = [
    # Rhythm, ectopy, pacing.
    ("Sinusrhythmus, normaler EKG-Befund.", "+SR +REG -AF -AFL -LBBB -MI"),
    ("Normofrequenter SR, Indifferenztyp, keine Erregungsrückbildungsstörungen.", "+SR -LAD -RAD -STEI -TA"),
    ("Sinusbradykardie, Steiltyp", "+SR +BRADY -LAD -RAD"),
    ("tachykardes Vorhofflimmern", "+AF +IRR -SR -REG -BRADY"),
    ("Absolute Arrhythmie bei VHF, HF 90/min", "+AF -SR"),
    ("vorhoffllimmern", "+AF"),
    ("Vorhofflattern mit 2:1-Überleitung", "+AFL -SR"),
    ("Vorhofflimmern/-flattern", "+AF ?AFL"),
    ("Kein Vorhofflimmern, kein Vorhofflattern.", "-AF -AFL ?SR"),
    ("Vorhofflimmern nicht mehr nachweisbar, jetzt Sinusrhythmus", "-AF +SR"),
    ("Z.n. Vorhofflimmern, aktuell Sinusrhythmus", "-AF +SR"),
    ("AVNRT, Frequenz 180/min", "+SVT -SR"),
    ("Ektope atriale Tachykardie", "+AT -SR"),
    ("Ventrikuläre Tachykardie", "+VT"),
    ("AV-Knoten-Ersatzrhythmus", "+JR -SR"),
    ("Kammerersatzrhythmus bei AV-Block III°", "+VR +AVB3"),
    ("Sinusrhythmus mit VES, zum Teil polytop", "+SR +PVC +POLY"),
    ("SR, SVES im Bigeminus", "+PAC +RIRR +SR"),
    ("Keine Extrasystolen", "-PVC -PAC"),
    ("SR, keine ES, Linksschenkelblock", "+LBBB -PVC -PAC"),
    ("Schrittmacher-EKG", "+VP ?SR ?LBBB"),
    ("DDD-Schrittmacher mit Vorhof- und Kammerstimulation", "+VP +AP"),
    ("Biventrikuläre Stimulation (CRT)", "+VP +LVP"),
    ("Asystolie", "+ASYS"),
    # Conduction.
    ("kompletter Linksschenkelblock", "+LBBB"),
    ("Inkompletter Rechtsschenkelblock", "+RSR ?RBBB"),
    ("kompl. RSB, LAHB", "+RBBB +LAFB +LAD"),
    ("Überdrehter Linkstyp, linksanteriorer Hemiblock", "+LAD +LAFB"),
    ("Rechtstyp, linksposteriorer Hemiblock", "+RAD +LPFB -LAD"),
    ("Linkstyp", "?LAD -RAD"),
    ("Kein Schenkelblock", "-LBBB -RBBB"),
    ("AV-Block 1. Grades", "+AVB1"),
    ("AV-Block I. Grades, keine weiteren Blockbilder", "+AVB1 -LBBB ?AVB3"),
    ("AV-Block II° Typ Wenckebach", "+MOB1"),
    ("AV-Block 2. Grades Typ Mobitz II", "+MOB2"),
    ("Kein höhergradiger AV-Block", "-AVB3 -MOB2"),
    ("PQ-Zeit verlängert, QTc-Zeit normal", "+AVB1 -QT"),
    ("Unspezifische intraventrikuläre Leitungsverzögerung", "+IVCD"),
    ("WPW-Muster mit Delta-Welle", "+WPW +DELTA"),
    ("QT-Verlängerung; QTc 510 ms", "+QT"),
    ("Prominente U-Wellen", "+U"),
    # Chambers.
    ("Zeichen der Linksherzhypertrophie", "+LVH"),
    ("Sokolow-Lyon-Index positiv", "+LVV ?LVH"),
    ("Linkshypertrophie möglich", "?LVH"),
    ("Kein Hinweis auf Links- oder Rechtshypertrophie", "-RVH"),
    ("Kein Anhalt für LVH oder RVH", "-LVH -RVH"),
    ("V.a. P-mitrale", "?LAE"),
    ("P-pulmonale", "+RAE"),
    ("P-biatriale", "+BAE +LAE +RAE"),
    ("periphere Niederspannung", "+LOW"),
    ("Nordwest-Achse", "+NW"),
    # Infarction and its waves.
    ("Alter Hinterwandinfarkt", "-MI"),
    ("Z.n. Vorderwandinfarkt", "-MI"),
    ("inferiorer Infarkt wahrscheinlich alt", "-MI"),
    ("anteroseptaler infarkt     alter unbest.", "?MI"),
    ("Akuter Hinterwandinfarkt", "+MI"),
    ("V.a. frischen Vorderwandinfarkt", "?MI"),
    ("Kein Hinweis auf frischen Infarkt", "-MI"),
    ("Infarkt ausgeschlossen", "-MI"),
    ("Infarkt nicht ausgeschlossen", "?MI"),
    ("Infarkt nicht auszuschließen", "?MI"),
    ("STEMI der Vorderwand", "+MI"),
    ("ST-Hebungen in V2-V4", "+STES +STEA ?STEI"),
    ("ST-Hebung II, III, aVF, reziproke ST-Senkung I, aVL", "+STEI +STDL ?STEL"),
    ("T-Negativierung V4-V6", "+TL +TA"),
    ("T neg. in III", "?TI"),
    ("terminal negatives T in I, aVL", "+TL"),
    ("inferiore T-Negativierung", "+TI ?TL"),
    ("pathologische Q-Zacken in II, III, aVF", "+QI"),
    ("Keine ST-Hebungen", "-STEI -STEA -STES -STEL"),
    ("Keine ST-Strecken-Senkung in V5-V6", "-STDL ?STDI"),
    ("Deszendierende ST-Senkung in V5, V6", "+DOWN"),
    ("QS-Komplexe in V1-V3", "+QS"),
    ("Akute Perikarditis", "+PERI"),
    ("Frühe Repolarisation", "+EARLY"),
    ("Brugada-Muster Typ 1", "+BRUG"),
    ("Armelektroden vertauscht", "+SWAP"),
    ("EKG unverändert zum Vorbefund: LSB", "+LBBB"),
    ("Neu aufgetretener Linksschenkelblock", "+LBBB"),
    ("Fraglicher Infarkt, kein Vorhofflimmern", "?MI -AF"),
    ("LVH? RSB.", "?LVH +RBBB"),
    ("Linksschenkelblock oder Linkshypertrophie möglich", "?LBBB ?LVH"),
    ("linksschenkelblock linkshypertrophie moeglich", "+LBBB ?LVH"),
    ("SINUSRHYTHMUS UEBERDREHTER LINKSTYP", "+SR +LAD"),
]

ENGLISH = [
    ("Normal sinus rhythm. Normal ECG.", "+SR +REG -AF -LBBB -MI"),
    ("Sinus bradycardia, rate 48, otherwise normal ECG", "+SR +BRADY -LVH -RBBB"),
    ("Atrial fibrillation with rapid ventricular response", "+AF +IRR -SR -BRADY"),
    ("Sinus rhythm has replaced atrial fibrillation", "+SR -AF"),
    ("History of atrial fibrillation, now in sinus rhythm", "+SR -AF"),
    ("No evidence of atrial fibrillation", "-AF"),
    ("Atrial flutter with variable AV block", "+AFL"),
    ("Possible atrial flutter", "?AFL"),
    ("Narrow complex tachycardia, likely AVNRT", "+SVT"),
    ("Junctional rhythm", "+JR -SR"),
    ("Ectopic atrial rhythm", "+EAR"),
    ("Accelerated idioventricular rhythm", "+VR"),
    ("Run of VT, non-sustained", "+VT"),
    ("Frequent PVCs in a bigeminal pattern", "+PVC"),
    ("Occasional premature atrial complexes", "+PAC"),
    ("Ventricular paced rhythm", "+VP ?LBBB"),
    ("AV dual-paced rhythm", "+VP +AP"),
    ("Complete heart block", "+AVB3"),
    ("Second degree AV block, Mobitz I (Wenckebach)", "+MOB1"),
    ("Second degree AV block, type II", "+MOB2"),
    ("First degree AV block", "+AVB1"),
    ("PR interval is normal", "-AVB1"),
    ("Left bundle branch block, unchanged from previous tracing", "+LBBB"),
    ("Previous LBBB", "?LBBB"),
    ("RBBB and LAFB", "+RBBB +LAFB +LAD"),
    ("Incomplete right bundle branch block", "+RSR ?RBBB"),
    ("Bundle branch block not present", "-LBBB -RBBB"),
    ("Left axis deviation", "+LAD"),
    ("Rightward axis", "+RAD"),
    ("Normal axis", "-LAD -RAD -NW"),
    ("Extreme axis deviation", "+NW"),
    ("Left ventricular hypertrophy with strain", "+LVH"),
    ("Voltage criteria for LVH", "+LVV ?LVH"),
    ("LVH cannot be excluded", "?LVH"),
    ("No LVH, RVH or RBBB", "-LVH -RVH -RBBB"),
    ("No LVH, right bundle branch block", "-LVH +RBBB"),
    ("No acute ST changes but LBBB", "+LBBB"),
    ("Old inferior infarct", "-MI"),
    ("Inferior infarct, age undetermined", "?MI"),
    ("Inferior infarct of uncertain age, probably old", "-MI"),
    ("Acute inferior myocardial infarction", "+MI"),
    ("Acute MI ruled out", "-MI"),
    ("Cannot rule out acute anterior infarct", "?MI"),
    ("No evidence of acute infarction. Old anterior infarct.", "-MI"),
    ("ST elevation in V1-V4", "+STES +STEA"),
    ("ST elevation in leads II, III and aVF with reciprocal ST depression in I and aVL", "+STEI +STDL ?STDI"),
    ("ST segments are depressed and T waves inverted in I, aVL, V5-6", "+STDL +TL ?TI"),
    ("T waves are flat in II and inverted in III, aVF", "+TI"),
    ("T wave inversion in these leads", "?TI"),
    ("Q waves in III only", "?QI"),
    ("Pathological Q waves in II, III, aVF", "+QI"),
    ("Inferior T wave inversion", "+TI"),
    ("No ST elevation in the inferior leads", "-STEI ?STEA"),
    ("ST elevation in V7-V9", "+STEP"),
    ("No significant change since previous tracing, LBBB persists", "+LBBB"),
    ("Prolonged QT interval", "+QT"),
    ("Borderline prolonged QTc", "?QT"),
    ("Left atrial enlargement", "+LAE"),
    ("Biatrial enlargement", "+BAE"),
    ("Low voltage in limb leads", "+LOW"),
    ("Early repolarization", "+EARLY"),
    ("Acute pericarditis would be unlikely", "?PERI"),
    ("No ECG evidence to suggest pericarditis", "-PERI"),
    ("Delta waves consistent with WPW", "+DELTA ?WPW"),
    ("Brugada type 1 pattern", "+BRUG"),
    ("Suspected arm lead reversal", "?SWAP"),
    ("Asystole", "+ASYS"),
    ("Tall R waves in V1-V2", "+RS1"),
    ("R in aVL > 11 mm", "+AVL"),
    ("RV1+SV6 > 11 mm", "+RVV"),
    ("rS in III", "+NEG3"),
    ("Downsloping ST depression in V5-V6", "+DOWN"),
    ("Non-specific intraventricular conduction delay", "+IVCD"),
]

FRENCH = [
    ("Rythme sinusal régulier, ECG normal.", "+SR -AF -LBBB -MI"),
    ("Bradycardie sinusale à 48/min", "+SR +BRADY"),
    ("Fibrillation auriculaire à réponse ventriculaire rapide", "+AF -SR -BRADY"),
    ("ACFA", "+AF"),
    ("Flutter auriculaire 2/1", "+AFL"),
    ("Pas de fibrillation auriculaire", "-AF"),
    ("Disparition de la fibrillation auriculaire, rythme sinusal", "-AF +SR"),
    ("Tachycardie ventriculaire non soutenue", "+VT"),
    ("Rythme jonctionnel", "+JR -SR"),
    ("Rythme électro-entraîné ventriculaire", "+VP"),
    ("Extrasystoles ventriculaires polymorphes", "+PVC +POLY"),
    ("Rythme sinusal avec ESV et ESA", "+PVC +PAC"),
    ("Bloc de branche gauche complet", "+LBBB"),
    ("Bloc de branche droit incomplet", "+RSR ?RBBB"),
    ("BBD complet, HBAG", "+RBBB +LAFB"),
    ("Pas de trouble de la conduction", "-LBBB -RBBB -AVB1"),
    ("BAV du premier degré", "+AVB1"),
    ("BAV 2 Mobitz 1", "+MOB1"),
    ("Bloc auriculo-ventriculaire complet", "+AVB3"),
    ("Déviation axiale gauche", "+LAD"),
    ("Axe normal", "-LAD -RAD"),
    ("Hypertrophie ventriculaire gauche", "+LVH"),
    ("Pas de signe d'HVG ni d'HVD", "-LVH -RVH"),
    ("HVG possible", "?LVH"),
    ("HVG à discuter", "?LVH"),
    ("Aspect compatible avec une HVG", "?LVH"),
    ("Hypertrophie auriculaire gauche", "+LAE"),
    ("Microvoltage périphérique", "+LOW"),
    ("QT long", "+QT"),
    ("Allongement de l'intervalle QTc", "+QT"),
    ("Séquelle d'infarctus inférieur", "-MI"),
    ("Infarctus antérieur ancien", "-MI"),
    ("Infarctus inférieur d'âge indéterminé", "?MI"),
    ("Infarctus antérieur aigu", "+MI"),
    ("Pas d'argument en faveur d'un infarctus aigu", "-MI"),
    ("Sus-décalage du segment ST en V2-V4", "+STES +STEA"),
    ("Sous-décalage du ST en V5-V6", "+STDL"),
    ("Ondes T négatives en D2, D3, aVF", "+TI"),
    ("Inversion des ondes T en antérieur", "+TA"),
    ("Ondes Q en inférieur", "+QI"),
    ("Pas de sus-décalage de ST", "-STEI -STEA"),
    ("Péricardite aiguë", "+PERI"),
    ("Préexcitation de type WPW", "+WPW"),
    ("Repolarisation précoce", "+EARLY"),
    ("Aspect de Brugada", "+BRUG"),
    ("Inversion des électrodes", "+SWAP"),
    ("Bloc de branche gauche connu, inchangé", "+LBBB"),
    ("Bloc de branche gauche d'apparition récente", "+LBBB"),
]


def expected(written: str) -> dict[str, int]:
    return {SHORT[word[1:]]: {"+": 1, "-": 0, "?": -1}[word[0]] for word in written.split()}


@pytest.mark.parametrize(
    ("language", "text", "written"),
    [*(("de", *row) for row in GERMAN), *(("en", *row) for row in ENGLISH), *(("fr", *row) for row in FRENCH)],
)
def test_sentences(language: str, text: str, written: str) -> None:
    labels = labels_of_report(text, language)
    found = {name: int(labels[index_of(name)]) for name in expected(written)}
    assert found == expected(written), mentions(text, language)


def at(labels: np.ndarray, name: str) -> int:
    return int(labels[index_of(SHORT[name])])


def test_absence_is_unknown_unless_the_report_is_closed() -> None:
    text = "Vorhofflimmern, Linkstyp"
    opened, closed = labels_of_report(text), labels_of_report(text, closed=True)
    assert at(opened, "LBBB") == -1
    assert at(closed, "LBBB") == 0
    assert at(closed, "LAD") == -1  # Linkstyp leaves it open
    for name in UNREMARKED:
        if opened[index_of(name)] == -1:
            assert closed[index_of(name)] == -1
    changed = opened != closed
    assert (opened[changed] == -1).all()
    assert (closed[changed] == 0).all()
    assert {LABELS[i].name for i in np.flatnonzero(changed)} <= EXPRESSIBLE


def test_normal_denies_what_it_does_not_name_and_no_normal_finding() -> None:
    labels = labels_of_report("Sinusrhythmus, inkompletter RSB, sonst normales EKG")
    assert at(labels, "RSR") == 1
    assert at(labels, "RBBB") == -1  # left open by the incomplete block
    assert at(labels, "LVH") == at(labels, "STEI") == at(labels, "PVC") == 0
    assert all(LABELS[index_of(name)].severity is not Severity.NORMAL for name in NOT_NORMAL)


def test_probably_normal_denies_nothing() -> None:
    assert at(labels_of_report("Sinusrhythmus, wahrscheinlich normales EKG"), "LVH") == -1


def test_a_label_said_once_is_said() -> None:
    assert at(labels_of_report("Kein Linksschenkelblock. Linksschenkelblock."), "LBBB") == 1
    assert at(labels_of_report("Kein LSB. V.a. LSB."), "LBBB") == -1


def test_a_denial_by_name_outweighs_what_another_finding_leaves_open() -> None:
    assert at(labels_of_report("Kein Hinweis auf LVH. LSB."), "LVH") == 0


def test_an_axis_in_words_outweighs_one_that_is_implied() -> None:
    assert at(labels_of_report("LAHB"), "LAD") == 1
    assert at(labels_of_report("Rechtstyp, LAHB"), "LAD") == 0


def test_considered_labels() -> None:
    found = considered(mentions("V.a. LVH, LSB"))
    assert [LABELS[i].name for i in np.flatnonzero(found)] == ["Left ventricular hypertrophy"]


def test_mixed_reports_are_read_in_both_languages() -> None:
    text = "Sinusrhythmus, kein Schenkelblock. Left axis deviation is present, no evidence of hypertrophy."
    found = {(m.language, m.finding, m.status) for m in mentions(text)}
    assert ("de", "bundle_branch_block", "negated") in found
    assert ("en", "left_axis", "affirmed") in found
    assert ("en", "ventricular_hypertrophy", "negated") in found
    shared = "Sinusrhythmus und überdrehter Linkstyp. The rhythm is regular with no LBBB. Kein RBBB."
    status = {m.finding: m.status for m in mentions(shared)}
    assert status["left_bundle_branch_block"] == status["right_bundle_branch_block"] == "negated"


def test_an_abbreviation_alone_is_read_in_every_language() -> None:
    assert [(m.finding, m.status) for m in mentions("LBBB")] == [("left_bundle_branch_block", "affirmed")]
    assert [m.finding for m in mentions("BBG")] == ["left_bundle_branch_block"]


def test_nothing_is_said_by_nothing() -> None:
    for text in ("", "   ", "trace only requested.", "4711"):
        assert (labels_of_report(text) == -1).all()


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(ValueError, match="no dictionary for 'nl'"):
        labels_of_report("sinusritme", "nl")


def test_unread_words() -> None:
    assert unread("Sinusrhythmus, Linksschenkelblock, Zwischenbefund folgt") == ("zwischenbefund", "folgt")


# fmt: off
WORDS = st.sampled_from([
    "sinusrhythmus", "kein", "keine", "hinweis", "auf", "lsb", "linksschenkelblock", "oder", "und", ",", ".", "möglich",
    "v.a.", "infarkt", "alter", "akut", "t", "negativ", "in", "v1-4", "ii,", "iii", "st-hebung", "no", "evidence of",
    "lbbb", "or", "lvh", "possible", "bloc de branche", "gauche", "pas", "de", "?", "(", ")", "\n", "-",
])
# fmt: on


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=25).map(" ".join) | st.text(max_size=80))
def test_any_text_gives_labels_and_mentions_that_point_into_it(text: str) -> None:
    found = mentions(text)
    for mention in found:
        start, end = mention.span
        assert 0 <= start < end <= len(text)
        assert mention.text == text[start:end]
    spans = [m.span for m in found]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    labels = labels_of_report(text)
    assert labels.shape == (77,)
    assert set(np.unique(labels)) <= {-1, 0, 1}


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([row[0] for row in GERMAN]), st.booleans())
def test_case_and_umlauts_do_not_matter(text: str, capitals: bool) -> None:
    plain = text
    for umlaut, spelled in {"ä": "ae", "ö": "oe", "ü": "ue", "Ü": "Ue", "ß": "ss"}.items():
        plain = plain.replace(umlaut, spelled)
    other = plain.upper() if capitals else plain
    np.testing.assert_array_equal(labels_of_report(text, "de"), labels_of_report(other, "de"))


@pytest.mark.data
def test_real_reports_say_what_their_codes_say(data_dir: Path) -> None:
    """Rhythm of the first thousand reports of fold 1: nearly always the same by words and by codes."""
    path = data_dir / "ptbxl_reports" / "reports.csv"
    agree: Counter[tuple[str, int, int]] = Counter()
    for _, report in zip(range(1000), read_reports(path, folds=[1]), strict=False):
        assert report.truth is not None
        labels = labels_of_report(report.text)
        for name in ("Sinusal", "Afib", "Bradycardia", "SV1 + RV5 or RV6 > 35 mm"):
            agree[name, int(report.truth[index_of(name)]), int(labels[index_of(name)])] += 1
    for name in ("Sinusal", "Afib", "Bradycardia", "SV1 + RV5 or RV6 > 35 mm"):
        there, both = sum(n for (k, t, _), n in agree.items() if k == name and t == 1), agree[name, 1, 1]
        assert there >= 20
        assert both >= 0.95 * there * (1 if name != "Sinusal" else 1.02), name
        assert agree[name, 0, 1] <= 0.01 * 1000, name


@pytest.mark.data
def test_no_sentence_of_a_real_report_is_in_the_files(data_dir: Path) -> None:
    """The dictionaries hold terms of the field, not the reports: no phrase is a whole report of some length."""
    from importlib import resources

    with (data_dir / "ptbxl_reports" / "reports.csv").open(encoding="utf-8", newline="") as file:
        reports = {" ".join(row["report"].lower().split()) for row in csv.DictReader(file) if row["strat_fold"] < "8"}
    long = {report for report in reports if len(report.split()) >= 8}
    for language in ("de", "en", "fr", "sv"):
        text = " ".join((resources.files("training.labels") / f"{language}.toml").read_text("utf-8").lower().split())
        assert not [report for report in long if report in text]
