"""Folders, tables, leads and numbers as archives have them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import Lead
from training.data.readers.files import Lookup, age, number, pick_leads, rows, sex, table_file, walk


def test_numbers_and_words_of_tables() -> None:
    assert [number(t) for t in ("1.5", "", "NaN", "inf", "x", None)] == [1.5, None, None, None, None, None]
    assert [age(t) for t in ("56", "-1", "300", "")] == [56, None, None, None]
    assert [sex(t) for t in ("Male", "F", " female ", "unknown", None)] == ["M", "F", "F", "", ""]


def test_leads_are_named_and_scaled() -> None:
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    leads, signal, notes = pick_leads(["avr", "MLII", "PLETH", "DII", "V6"], ["uV", "mV", "NU", "mV", "V"], x)
    assert leads == (Lead.AVR, Lead.II, Lead.V6)
    np.testing.assert_allclose(signal, x[[0, 1, 4]] * np.array([[1e-3], [1], [1e3]]))
    assert notes == ("channel PLETH (NU) is none of the twelve leads", "channel DII repeats lead II")


@pytest.mark.parametrize("name", ["MLII", "DII", "Lead II", "ECG II", "ECG_II", "MDC_ECG_ELEC_POTL_II", "ii"])
@pytest.mark.parametrize(
    ("unit", "factor"), [("millivolts", 1), ("microV", 1e-3), ("\u00b5V", 1e-3), ("\u03bcV", 1e-3), ("volts", 1e3)]
)
def test_usual_spellings_are_read(name: str, unit: str, factor: float) -> None:
    leads, signal, notes = pick_leads([name], [unit], np.ones((1, 3), np.float32))
    assert (leads, notes) == ((Lead.II,), ())
    np.testing.assert_allclose(signal, factor)


def test_a_lead_in_an_unknown_unit_is_left_out_and_the_unit_named() -> None:
    leads, _, notes = pick_leads(["II", "V"], ["furlongs", "mV"], np.ones((2, 3), np.float32))
    assert leads == ()
    assert notes == (
        "channel II is lead II, but its unit 'furlongs' is no voltage that is known here",
        "channel V (mV) is none of the twelve leads",
    )


def test_a_walk_is_always_in_the_same_order(tmp_path: Path) -> None:
    for name in ("b/2.hea", "b/1.hea", "a/9.HEA", "0.hea", "b/1.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in walk(tmp_path, ".hea")] == ["0.hea", "a/9.HEA", "b/1.hea", "b/2.hea"]


@pytest.mark.parametrize("packed", [True, False])
def test_tables_plain_or_gzipped(tmp_path: Path, packed: bool) -> None:
    text = "\ufeffid,name\n1,ä\n2,b\n1,c\n"
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert table_file(tmp_path, "t.csv") == path
    assert table_file(tmp_path, "u.csv") is None
    assert [row["name"] for row in rows(path, "id")] == ["ä", "b", "c"]
    lookup = Lookup(rows(path), "id", ["name"])
    assert (lookup["1"], lookup["2"], lookup["3"]) == ({"name": "c"}, {"name": "b"}, {})
    with pytest.raises(ValueError, match="no column age"):
        next(rows(path, "id", "age"))
