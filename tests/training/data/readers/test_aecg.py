"""aECG files by the implementation guide: origin, scale and digits, a derived beat that is no recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import LEADS, FloatArray
from agent.simulator.ecg import Rhythm, synthesize
from training.data.readers.aecg import read, recognise
from training.data.recording import Recording, Source

ORIGIN, SCALE = 50.0, 2.5


def sequences(signal: FloatArray, time: str, increment: str) -> str:
    leads = "".join(
        f'<component><sequence classCode="OBS"><code code="MDC_ECG_LEAD_{lead.upper()}" '
        f'codeSystem="2.16.840.1.113883.6.24"/><value xsi:type="SLIST_PQ"><origin value="{ORIGIN}" unit="uV"/>'
        f'<scale value="{SCALE}" unit="uV"/><digits>{" ".join(map(str, row))}</digits></value></sequence></component>'
        for lead, row in zip(LEADS, np.rint((signal * 1000 - ORIGIN) / SCALE).astype(int), strict=False)
    )
    return (
        f'<component><sequenceSet><component><sequence><code code="TIME_ABSOLUTE" codeSystem="2.16.840.1.113883.5.4"/>'
        f'<value xsi:type="{time}"><head value="20230615103000.000"/>{increment}</value></sequence></component>'
        f"{leads}</sequenceSet></component>"
    )


def write(path: Path, signal: FloatArray, time: str = "GLIST_TS", increment: str = "", rhythm: bool = True) -> None:
    step = increment or '<increment value="0.002" unit="s"/>'
    beat = sequences(signal[:, :600], "GLIST_PQ", step)
    own = sequences(signal, time, step) if rhythm else ""
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><id root="61d1a24f-b47e-41aa"/>'
        '<effectiveTime><low value="20230615103000"/><high value="20230615103010"/></effectiveTime>'
        "<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>"
        '<id root="2.16.840.1.113883" extension="SUBJ-17"/><subjectDemographicPerson><name>EM</name>'
        '<administrativeGenderCode code="F"/><birthTime value="19620616"/></subjectDemographicPerson></trialSubject>'
        "</subject></subjectAssignment></componentOf></timepointEvent></componentOf>"
        '<component><series><code code="RHYTHM"/>'
        f"{own}<subjectOf><annotationSet><component><annotation>"
        '<code code="MDC_ECG_INTERPRETATION"/><component><annotation><code code="MDC_ECG_INTERPRETATION_STATEMENT"/>'
        '<value xsi:type="ST">Sinus rhythm</value></annotation></component></annotation></component><component>'
        '<annotation><code code="MDC_ECG_HEART_RATE"/><value xsi:type="PQ" value="60"/></annotation></component>'
        "</annotationSet></subjectOf><derivation><derivedSeries>"
        f'<code code="REPRESENTATIVE_BEAT"/>{beat}</derivedSeries></derivation></series></component></AnnotatedECG>'
    )


def the_one(folder: Path) -> Recording:
    (pending,) = read(Source("trial", "aecg", folder, b"key"))
    found = pending.load()
    assert isinstance(found, Recording)
    return found


@pytest.fixture
def signal() -> FloatArray:
    return synthesize(Rhythm.SINUS, 10.0, 500, LEADS, 2)


def test_the_rhythm_series(tmp_path: Path, signal: FloatArray) -> None:
    write(tmp_path / "SUBJ-17.xml", signal)
    assert recognise(tmp_path)
    found = the_one(tmp_path)
    assert (found.leads, found.rate, found.sex, found.report) == (LEADS, 500.0, "F", "Sinus rhythm")
    assert found.age == 60, "the day before the birthday"
    np.testing.assert_allclose(found.signal, signal, atol=SCALE / 1000)
    assert found.patient == Source("b", "muse", tmp_path, b"key").pseudonym("SUBJ-17")
    assert "SUBJ" not in found.record


def test_relative_time_in_milliseconds(tmp_path: Path, signal: FloatArray) -> None:
    write(tmp_path / "a.xml", signal, "GLIST_PQ", '<increment value="4" unit="ms"/>')
    assert the_one(tmp_path).rate == 250.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("<scale value=", "<scale value='x' old="), "scale of lead I is 'x'"),
        (('unit="uV"/><scale', 'unit="mmHg"/><scale'), "origin of lead I is not in uV, mV or V"),
        (("<digits>", "<digits>a "), "digits of lead I are not all numbers"),
        (('value="0.002"', 'value="0"'), "increment is not a number"),
        (("GLIST_TS", "OTHER"), "0 sampling rates"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, signal: FloatArray, change: tuple[str, str], sentence: str) -> None:
    write(tmp_path / "a.xml", signal)
    path = tmp_path / "a.xml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(ValueError, match=sentence):
        the_one(tmp_path)


def test_a_derived_beat_is_no_recording(tmp_path: Path, signal: FloatArray) -> None:
    write(tmp_path / "a.xml", signal, rhythm=False)
    with pytest.raises(ValueError, match="0 sampling rates"):
        the_one(tmp_path)
