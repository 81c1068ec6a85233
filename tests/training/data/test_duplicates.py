"""Copies are found by their content, whatever their name, scale, rounding, filter or rate; and nothing else is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.signal import butter, resample_poly, sosfiltfilt

from agent.core.ecg import LEADS, FloatArray
from agent.simulator.demonstration import DEMONSTRATION
from agent.simulator.ecg import Rhythm, synthesize
from training.data.duplicates import SAME, SCHEMA, Fingerprints, fingerprint, finish
from training.data.prepare import recordings
from training.data.readers import FORMATS
from training.data.recording import Recording, Source

Make = Callable[..., Recording]


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def find(database: sqlite3.Connection, found: list[Recording]) -> dict[str, str]:
    """Later copy to the first, as preparation goes through the recordings."""
    prints, out = Fingerprints(database), {}
    for recording in found:
        print_ = fingerprint(recording)
        if print_ is not None:
            first = prints.see(recording, print_)
            if first is not None:
                out[recording.id] = first.name
    return out


def by_every_pair(found: list[Recording]) -> dict[str, str]:
    """The rule without buckets and without rounding: later copy to the first."""
    known = [(r.id, p) for r in found if (p := fingerprint(r)) is not None]
    matrix = np.stack([p for _, p in known])
    first = np.argmax(matrix @ matrix.T > SAME, axis=1)
    return {name: known[i][0] for k, ((name, _), i) in enumerate(zip(known, first, strict=True)) if i < k}


def highpass(x: FloatArray, hertz: float, rate: float) -> FloatArray:
    filtered = sosfiltfilt(butter(2, hertz, "highpass", fs=rate, output="sos"), x, axis=1)
    return np.ascontiguousarray(filtered, np.float32)


COPIES: dict[str, Callable[[FloatArray], tuple[FloatArray, float]]] = {
    "scaled": lambda x: (x * np.float32(0.37), 500),
    "rounded to 5 µV": lambda x: (np.rint(x * 205).astype(np.float32) / 205, 500),
    "high-pass of 0.05 Hz": lambda x: (highpass(x, 0.05, 500), 500),
    "high-pass of 0.5 Hz": lambda x: (highpass(x, 0.5, 500), 500),
    "250 Hz": lambda x: (resample_poly(x, 1, 2, axis=1).astype(np.float32), 250),
    "400 Hz": lambda x: (resample_poly(x, 4, 5, axis=1).astype(np.float32), 400),
    "1000 Hz": lambda x: (resample_poly(x, 2, 1, axis=1).astype(np.float32), 1000),
    "wandering": lambda x: (x + 0.3 * np.sin(np.arange(x.shape[1], dtype=np.float32) / 400), 500),
    "cut at the end": lambda x: (x[:, :4600], 500),
}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), rhythm=st.sampled_from([Rhythm.SINUS, Rhythm.AFIB, Rhythm.VT, Rhythm.PACED]))
def test_every_kind_of_copy_is_found_and_other_recordings_of_the_person_are_not(
    make_recording: Make, seed: int, rhythm: Rhythm
) -> None:
    minute = synthesize(rhythm, 60.0, 500, LEADS, seed)
    strips = [minute[:, s : s + 5000] for s in range(0, 30000, 5000)]
    found = [make_recording(strip, record=f"strip {i}", patient="one") for i, strip in enumerate(strips)]
    for name, change in COPIES.items():
        signal, rate = change(strips[0])
        found.append(make_recording(signal, record=name, rate=float(rate), patient="another"))
    database = sqlite3.connect(":memory:")
    database.executescript(SCHEMA)
    assert find(database, found) == {f"made/{name}": "made/strip 0" for name in COPIES}
    database.close()


@pytest.mark.data
def test_it_agrees_with_comparing_every_pair_of_the_real_recordings(
    data_dir: Path, database: sqlite3.Connection
) -> None:
    found = []
    for name, format_ in (("ptbxl500", "ptbxl"), ("cinc2021_mix", "cinc2021"), ("brugada_huca", "brugada")):
        assert FORMATS[format_].recognise(data_dir / name)
        read = recordings(Source(name, format_, data_dir / name))
        found += [r for r in read if isinstance(r, Recording)]
    copies = find(database, found)
    assert copies == by_every_pair(found)
    assert {f"cinc2021_mix/HR{i:05d}": f"ptbxl500/{i:05d}_hr" for i in range(1, 11)}.items() <= copies.items()


def test_a_copy_s_copy_is_found(make_recording: Make, database: sqlite3.Connection) -> None:
    """Each step is alike enough, the last and the first are not: the last is still no new recording."""
    x = synthesize(Rhythm.SINUS, 10.0, 500, LEADS, 1, noise=0.0)
    noise = np.random.default_rng(0).normal(0, 0.011, x.shape).astype(np.float32)
    chain = [make_recording(x + k * noise, record=str(k)) for k in range(3)]
    first, middle, last = (fingerprint(r) for r in chain)
    assert first is not None
    assert middle is not None
    assert last is not None
    assert first @ middle > SAME < middle @ last
    assert first @ last < SAME
    assert find(database, chain) == {"made/1": "made/0", "made/2": "made/1"} == by_every_pair(chain)


def test_one_person_has_one_name(make_recording: Make, database: sqlite3.Connection) -> None:
    prints = Fingerprints(database)
    for one, other in (("a", "b"), ("c", "d"), ("b", "c"), ("a", "d"), ("e", "e")):
        prints.same_person(one, other)
    demo = DEMONSTRATION[0].patient
    prints.same_person("f", demo)
    database.execute("CREATE TABLE record (patient TEXT, held_out INTEGER DEFAULT 0)")
    database.executemany(
        "INSERT INTO record (patient) VALUES (?)", [(name,) for name in ("a", "b", "c", "d", "e", "f", demo)]
    )
    finish(database)
    found = database.execute("SELECT patient, held_out FROM record").fetchall()
    assert found == [*[("a", 0)] * 4, ("e", 0), (demo, 1), (demo, 1)]


def test_what_cannot_be_compared(make_recording: Make, database: sqlite3.Connection) -> None:
    a = make_recording(seed=1)
    assert fingerprint(replace(a, leads=LEADS[:2], signal=a.signal[:2])) is None
    assert fingerprint(replace(a, signal=a.signal[:, :1000])) is None
    assert fingerprint(replace(a, signal=np.zeros_like(a.signal))) is None
    assert find(database, [replace(a, record=name, continuous=True) for name in ("a", "b")]) == {}
