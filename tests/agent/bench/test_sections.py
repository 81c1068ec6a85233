"""What can be asked for, and what is said of what cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bench.measure import BenchError
from agent.bench.sections import run


def test_a_section_with_the_machine_it_is_of() -> None:
    results = run(["preprocessing"])
    assert list(results) == ["machine", "preprocessing"]
    assert results["machine"]["cores"] >= 1
    assert results["preprocessing"]["windows_per_cpu_second"] > 0


def test_an_unknown_section_or_bundle_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no section 'sped'; choose from feeds"):
        run(["sped"])
    with pytest.raises(BenchError, match="there is no bundle"):
        run(["preprocessing"], tmp_path / "none")
