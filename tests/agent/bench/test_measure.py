"""The clocks."""

from __future__ import annotations

import time

from agent.bench.measure import machine, resident_mb, times


def test_waiting_takes_the_wall_s_time_and_none_of_the_processor_s() -> None:
    wall, cpu = times(lambda: time.sleep(0.02), 3)
    assert len(wall) == len(cpu) == 3
    assert min(wall) >= 20
    assert sum(cpu) < sum(wall)


def test_the_machine_and_its_memory() -> None:
    assert machine()["cores"] >= 1
    now, most = resident_mb()
    assert 0 < now <= most
