"""Tables of reports: columns found, codes read, faults told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.core.labels import index_of
from training.labels.reports import read_reports


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "reports.csv"
    path.write_text(text, "utf-8")
    return path


def test_ptbxl_form(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "ecg_id,patient_id,report,scp_codes,heart_axis,infarction_stadium1,infarction_stadium2,strat_fold\n"
        "1,11,\"SR, LSB Edit: CLBBB 100\",\"{'SR': 0.0, 'CLBBB': 100.0}\",ALAD,,,1\n"
        "2,12,VHF,{'AFIB': 0.0},,,,2\n",
    )
    first, second = read_reports(path)
    assert (first.id, first.patient, first.fold, first.text) == (
        "1",
        "11",
        1,
        "SR, LSB ",
    )  # without the annotator's codes
    assert first.truth is not None
    assert first.truth[index_of("Left bundle branch block")] == 1
    assert first.truth[index_of("Left axis deviation")] == 1
    assert second.truth is not None
    assert second.truth[index_of("Afib")] == 1
    assert [r.id for r in read_reports(path, folds=[2])] == ["2"]


def test_label_columns_and_unknown_labels(tmp_path: Path) -> None:
    path = table(
        tmp_path, "id,Text,Afib,ST depression (lateral - I, avL; V5-V6),left bundle branch block\na,VHF,1,0,\n"
    )
    (report,) = read_reports(path)
    assert report.truth is not None
    assert report.truth[index_of("Afib")] == 1
    assert report.truth[index_of("Left bundle branch block")] == -1
    assert np.sum(report.truth >= 0) == 1
    assert (report.patient, report.fold) == ("a", None)


def test_machine_statements_in_parts(tmp_path: Path) -> None:
    path = table(tmp_path, "study_id,subject_id,report_0,report_1,report_2\n7,3,Sinus rhythm,Left axis deviation,\n")
    (report,) = read_reports(path)
    assert (report.id, report.patient, report.text) == ("7", "3", "Sinus rhythm\nLeft axis deviation")
    assert report.truth is None


def test_a_named_column(tmp_path: Path) -> None:
    path = table(tmp_path, "finding,report\nLSB,x\n")
    assert [r.text for r in read_reports(path, text="finding")] == ["LSB"]


@pytest.mark.parametrize(
    ("content", "arguments", "sentence"),
    [
        ("a,b\n1,2\n", {}, "has no column 'report'; name the reports' column with --column"),
        ("report\nx\n", {"text": "befund"}, "has no column 'befund'"),
        ("report\nx\n", {"folds": [1]}, "has no column 'strat_fold' or 'fold'"),
        ("report,scp_codes\nx,nonsense(\n", {}, "row 2 .* has labels or codes that cannot be read"),
        ("report,Afib\nx,yes\n", {}, "row 2 .* has labels or codes that cannot be read"),
    ],
)
def test_faults(tmp_path: Path, content: str, arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        list(read_reports(table(tmp_path, content), **arguments))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no table of reports"):
        list(read_reports(tmp_path / "none.csv"))


@pytest.mark.data
def test_real_table(data_dir: Path) -> None:
    rows = list(read_reports(data_dir / "ptbxl_reports" / "reports.csv", folds=[7]))
    assert len(rows) == 2178
    assert all(r.truth is not None and r.fold == 7 for r in rows)
    assert not any("Edit:" in r.text for r in rows)
    assert len({r.patient for r in rows}) < len(rows)
