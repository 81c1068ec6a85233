"""What can be asked for, in which order it comes, and what is said of what cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bench.measure import BenchError
from agent.bench.sections import QUICK, SECTIONS, lines, run


def test_a_section_comes_as_soon_as_it_is_measured_after_the_machine_it_is_of() -> None:
    results = run(["preprocessing"])
    name, machine = next(results)
    assert name == "machine"
    assert machine["cores"] >= 1
    name, numbers = next(results)
    assert name == "preprocessing"
    assert numbers["windows_per_cpu_second"] > 0
    assert not list(results)


def test_what_takes_long_is_measured_on_request_only() -> None:
    assert set(QUICK) < set(SECTIONS)
    assert set(SECTIONS) - set(QUICK) == {"speed"}


def test_figures_for_a_person() -> None:
    assert [" ".join(line.split()) for line in lines({"a": {"b": 1.5, "c": {"d": "x"}}, "e": [1]})] == [
        "a.b 1.5",
        "a.c.d x",
        "e [1]",
    ]


def test_an_unknown_section_or_bundle_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no section 'sped'; choose from feeds"):
        run(["sped"])
    with pytest.raises(BenchError, match="there is no bundle"):
        list(run(["preprocessing"], tmp_path / "none"))
