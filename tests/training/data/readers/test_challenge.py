"""The challenge's MATLAB files and their headers' quirks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from agent.core.ecg import LEADS
from agent.core.labels import index_of
from training.data.readers.challenge import header, read, recognise
from training.data.recording import Recording, Source


@pytest.mark.data
def test_the_real_ones(data_dir: Path) -> None:
    source = Source("cinc2021_mix", "cinc2021", data_dir / "cinc2021_mix")
    assert recognise(source.folder)
    assert not recognise(data_dir)
    found = {p.record: p for p in read(source)}
    assert len(found) == 239
    original = found["HR00001"].load()
    assert isinstance(original, Recording)
    assert original.patient == "ptbxl/15709"
    far = found["HR00599"].load()
    assert isinstance(far, Recording)
    assert far.patient == "ptbxl/4389", "by PTB-XL's table beside the folder"
    georgia = found["E00001"].load()  # wfdb rejects this header's date
    assert isinstance(georgia, Recording)
    assert (georgia.leads, georgia.rate, georgia.age, georgia.sex) == (LEADS, 500.0, None, "F")
    assert georgia.labels[index_of("Sinusal")] == 1


def test_header_units() -> None:
    text = "X1 2 500 10\nX1.mat 16+24 1000/mv 16 0 1 2 0 I\nX1.mat 16+24 4.88(-3)/uV 16 0 1 2 0 II\n#Age: 5\n#Dx: 1,2\n"
    rate, names, gains, baselines, comments = header(text)
    assert (rate, names, baselines, comments["Dx"]) == (500.0, ["I", "II"], [0.0, -3.0], "1,2")
    assert gains == pytest.approx([1000.0, 4880.0])
    with pytest.raises(ValueError, match="units per mV"):
        header("X1 1 500 10\nX1.mat 16+24 1000/mmHg 16 0 1 2 0 I\n")


def test_the_challenge_s_groups(tmp_path: Path) -> None:
    """``training/georgia/g1``: counts minus baseline over gain, sites by the names' letters."""
    for collection, name in (("georgia", "E00001"), ("st_petersburg_incart", "I0001")):
        folder = tmp_path / collection / "g1"
        folder.mkdir(parents=True)
        counts = np.arange(24, dtype=np.int16).reshape(12, 2) * 100
        savemat(folder / f"{name}.mat", {"val": counts})
        lines = [f"{name} 12 257 2"] + [f"{name}.mat 16x1+24 200(100)/mV 16 0 0 0 0 {lead}" for lead in LEADS]
        (folder / f"{name}.hea").write_text("\n".join([*lines, "# Age: 44", "# Sex: Male", "# Dx: 164889003"]) + "\n")
    assert recognise(tmp_path)
    georgia, petersburg = (p.load() for p in read(Source("c", "cinc2021", tmp_path)))
    assert isinstance(georgia, Recording)
    assert isinstance(petersburg, Recording)
    assert (georgia.site, georgia.age, georgia.sex, georgia.patient) == ("E", 44.0, "M", "cinc2021/E00001")
    np.testing.assert_allclose(georgia.signal[1], [(200 - 100) / 200, (300 - 100) / 200])
    af, pvc = index_of("Afib"), index_of("Premature ventricular complex")
    assert georgia.labels[[af, pvc]].tolist() == [1, 0]
    assert petersburg.labels[[af, pvc]].tolist() == [1, -1], "what its annotators would have written is not known"
