from __future__ import annotations

from agent.station.health import Checks, Health


def test_nothing_reported_is_unhealthy() -> None:
    health, reasons = Checks().verdict(0.0)
    assert health is Health.UNHEALTHY
    assert "starting" in reasons["agent"]


def test_the_worst_part_decides_and_every_part_is_named() -> None:
    checks = Checks()
    checks.report("engine", Health.OK, "ignored", 0.0)
    assert checks.verdict(0.0) == (Health.OK, {})
    checks.report("hl7 sink", Health.DEGRADED, "The receiver does not answer.", 0.0)
    assert checks.verdict(0.0) == (Health.DEGRADED, {"hl7 sink": "The receiver does not answer."})
    checks.report("outbox", Health.UNHEALTHY, "The disk is full.", 0.0)
    health, reasons = checks.verdict(0.0)
    assert health is Health.UNHEALTHY
    assert list(reasons) == ["hl7 sink", "outbox"]
    checks.report("outbox", Health.OK, "", 1.0)
    checks.report("hl7 sink", Health.OK, "", 1.0)
    assert checks.verdict(1.0) == (Health.OK, {})


def test_silence_is_unhealthy_where_a_report_was_promised() -> None:
    checks = Checks()
    checks.report("line", Health.OK, "", 100.0, valid_for=10.0)
    assert checks.verdict(109.0)[0] is Health.OK
    health, reasons = checks.verdict(112.0)
    assert health is Health.UNHEALTHY
    assert reasons == {"line": "No report for 12 s."}
