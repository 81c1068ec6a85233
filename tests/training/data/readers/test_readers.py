"""Formats are told by a folder's own marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.readers import FORMATS, find_sources, format_of


@pytest.mark.data
def test_the_collections_at_hand_in_the_order_in_which_copies_are_kept(data_dir: Path) -> None:
    assert [(name, folder.name) for name, folder in find_sources(data_dir)] == [
        ("ptbxl", "ptbxl500"),
        ("cinc2021", "cinc2021_mix"),
        ("cpsc2021", "cpsc2021_af"),
        ("mitdb", "mitdb"),
        ("cinc2015", "cinc2015_alarms"),
        ("brugada", "brugada_huca"),
    ], "and nothing of the folder of reports"
    assert list(find_sources(data_dir / "mitdb")) == [("mitdb", data_dir / "mitdb")]


def test_an_empty_folder_is_none_of_them(tmp_path: Path) -> None:
    assert format_of(tmp_path) is None
    (tmp_path / "inside").mkdir()
    with pytest.raises(FileNotFoundError, match="say --source FORMAT=FOLDER"):
        list(find_sources(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        list(find_sources(tmp_path / "none"))


def test_every_format_has_a_licence_and_hospitals_own_files_get_pseudonyms() -> None:
    assert all(format_.licence.text for format_ in FORMATS.values())
    assert {name for name, format_ in FORMATS.items() if format_.personal} == {"muse", "aecg", "dicom", "wfdb"}
    assert {name for name, format_ in FORMATS.items() if format_.licence.share_alike} == {"brugada", "mimic"}
