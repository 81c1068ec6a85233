"""MUSE XML as it is exported: eight leads, a median beat before the rhythm, statements in pieces."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import Lead
from agent.simulator.ecg import INDEPENDENT, Rhythm, synthesize
from training.data import DatasetSettings, WindowTable, prepare
from training.data.readers.muse import read, recognise
from training.data.recording import Recording, Source

STEP = 4.88


def waveform(kind: str, counts: np.ndarray, change: dict[str, str]) -> str:
    leads = "".join(
        f"<LeadData><LeadByteCountTotal>{2 * len(row)}</LeadByteCountTotal><LeadTimeOffset>0</LeadTimeOffset>"
        f"<LeadSampleCountTotal>{len(row)}</LeadSampleCountTotal>"
        f"<LeadAmplitudeUnitsPerBit>{change.get('scale', STEP)}</LeadAmplitudeUnitsPerBit>"
        f"<LeadAmplitudeUnits>{change.get('unit', 'MICROVOLTS')}</LeadAmplitudeUnits><LeadID>{lead}</LeadID>"
        f"<LeadSampleSize>{change.get('size', '2')}</LeadSampleSize>"
        f"<LeadOff>{'TRUE' if change.get('off') == lead else 'FALSE'}</LeadOff>"
        f"<WaveFormData>\n{base64.encodebytes(row.astype('<i2').tobytes()).decode()}</WaveFormData></LeadData>"
        for lead, row in zip(INDEPENDENT, counts, strict=True)
    )
    return (
        f"<Waveform><WaveformType>{kind}</WaveformType><NumberofLeads>8</NumberofLeads><SampleBase>500</SampleBase>"
        f"<SampleExponent>0</SampleExponent>{leads}</Waveform>"
    )


def write(path: Path, counts: np.ndarray, kinds: tuple[str, ...] = ("Median", "Rhythm"), **change: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>'
        "<PatientDemographics><PatientID>0004711</PatientID><PatientAge>61</PatientAge><AgeUnits>YEARS</AgeUnits>"
        "<DateofBirth>03-04-1962</DateofBirth><Gender>FEMALE</Gender><PatientLastName>M\xfcller</PatientLastName>"
        "<PatientFirstName>Erika</PatientFirstName></PatientDemographics>"
        "<TestDemographics><Site>1</Site><SiteName>North</SiteName></TestDemographics>"
        "<Diagnosis><DiagnosisStatement><StmtFlag>ENDSLINE</StmtFlag><StmtText>Sinus rhythm</StmtText>"
        "</DiagnosisStatement><DiagnosisStatement><StmtText>Left</StmtText></DiagnosisStatement><DiagnosisStatement>"
        "<StmtFlag>ENDSLINE</StmtFlag><StmtText>axis deviation</StmtText></DiagnosisStatement></Diagnosis>"
        "<OriginalDiagnosis><DiagnosisStatement><StmtText>wrong</StmtText></DiagnosisStatement></OriginalDiagnosis>"
        + "".join(waveform(kind, counts[:, :600] if kind == "Median" else counts, change) for kind in kinds)
        + "</RestingECG>",
        "latin-1",
    )


@pytest.fixture
def counts() -> np.ndarray:
    return np.rint(synthesize(Rhythm.SINUS, 10.0, 500, INDEPENDENT, 1) * 1000 / STEP).astype(np.int16)


def the_one(folder: Path) -> Recording:
    (pending,) = read(Source("muse", "muse", folder, b"key"))
    found = pending.load()
    assert isinstance(found, Recording)
    assert found.record == pending.record
    return found


def test_the_rhythm_and_not_the_median(tmp_path: Path, counts: np.ndarray) -> None:
    write(tmp_path / "MÜLLER_ERIKA_0004711.xml", counts)
    assert recognise(tmp_path)
    found = the_one(tmp_path)
    np.testing.assert_allclose(found.signal, counts * STEP / 1000, rtol=1e-5)
    assert (found.leads, found.rate, found.age, found.sex, found.site) == (INDEPENDENT, 500.0, 61.0, "F", "North")
    assert found.report == "Sinus rhythm\nLeft axis deviation"
    assert found.patient == Source("other", "dicom", tmp_path, b"key").pseudonym("0004711")


def test_nothing_of_the_person_enters_the_dataset(tmp_path: Path, counts: np.ndarray) -> None:
    write(tmp_path / "in" / "MÜLLER_ERIKA_0004711.xml", counts)
    (tmp_path / "in" / "damaged_ERIKA.xml").write_text("<RestingECG><PatientLastName>Müller")
    (tmp_path / "in" / "records.csv").write_text("record,target_lvef\nMÜLLER_ERIKA_0004711,38\n")
    prepare(tmp_path / "d", [Source("muse", "muse", tmp_path / "in")], DatasetSettings(), progress=False)
    written = b"".join(path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file())
    for secret in ("MÜLLER", "Müller", "ERIKA", "Erika", "4711", "1962", "03-04"):
        assert secret.encode() not in written, secret
    table = WindowTable.open(tmp_path / "d")
    assert table.targets["lvef"].tolist() == [38], "found by the file's own name"
    x, mask = table.batch(np.array([0]))
    assert mask.all(), "III, aVR, aVL and aVF follow from I and II"
    np.testing.assert_allclose(x[0, 2], x[0, 1] - x[0, 0], atol=1e-6)
    assert table.lead_mask.sum() == 8


def test_decimal_commas_millivolts_and_a_lead_that_is_off(tmp_path: Path, counts: np.ndarray) -> None:
    counts[4, 7] = -32768
    write(tmp_path / "a.xml", counts, scale="4,88e-3", unit="MILLIVOLTS", off="V6")
    found = the_one(tmp_path)
    assert found.leads == INDEPENDENT[:-1]
    assert found.notes == ("lead V6 was off",)
    expected = counts[:7] * STEP / 1000
    expected[4, 7] = np.nan
    np.testing.assert_allclose(found.signal, expected, rtol=1e-5)
    assert found.leads[4] is Lead.V3


@pytest.mark.parametrize(
    ("change", "kinds", "sentence"),
    [
        ({}, ("Median",), "no waveform of the type Rhythm"),
        ({"size": "4"}, ("Rhythm",), "4 bytes a sample"),
        ({"scale": "x"}, ("Rhythm",), "LeadAmplitudeUnitsPerBit of lead I is 'x'"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, counts: np.ndarray, change: dict[str, str], kinds: tuple[str, ...], sentence: str
) -> None:
    write(tmp_path / "a.xml", counts, kinds, **change)
    with pytest.raises(ValueError, match=sentence):
        the_one(tmp_path)


def test_damaged_samples_are_said(tmp_path: Path, counts: np.ndarray) -> None:
    write(tmp_path / "a.xml", counts)
    whole = (tmp_path / "a.xml").read_text("latin-1")
    for old, new, sentence in (
        ("<LeadSampleCountTotal>5000", "<LeadSampleCountTotal>4999", "5000 samples and says 4999"),
        ("<WaveFormData>\n", "<WaveFormData>\n!", "no base64"),
        ("<LeadID>V6</LeadID>", "<LeadID>V5</LeadID>", ""),
    ):
        (tmp_path / "a.xml").write_text(whole.replace(old, new), "latin-1")
        if sentence:
            with pytest.raises(ValueError, match=sentence):
                the_one(tmp_path)
        else:
            assert the_one(tmp_path).notes == ("channel V5 repeats lead V5",)
