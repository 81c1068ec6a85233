"""Thresholds, persistence and hysteresis in device time; what is suppressed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from agent.core.alerting.alerting import Alerting
from agent.core.alerting.settings import AlertingSettings
from agent.core.ecg import (
    Encounter,
    Phase,
    Priority,
)

X = Encounter(patient_ids=("1^^^H^MR",), family_name="Canary", location="ICU^1^1")
Y = Encounter(patient_ids=("2^^^H^MR",), family_name="Finch")
WALL = 1_700_000_000.0
NORMAL, AFIB, LBBB = (0.1, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9)


def test_consecutive_windows_open_one_alert(make: SimpleNamespace) -> None:
    ward = make.Ward()
    assert ward.see(AFIB, AFIB) == ()
    (start,) = ward.see(AFIB)
    assert (start.label, start.code, start.ref_id) == ("Afib", 199736, "MDC_EVT_ECG_ATR_FIB")
    assert start.phase is Phase.START and start.active and start.priority is Priority.MEDIUM
    assert start.text == "Atrial fibrillation (advisory)"
    assert start.opened == start.time == 1020.0 and start.created == WALL + 10
    assert (start.probability, start.threshold, start.model) == (pytest.approx(0.9), 0.8, "sl/1")
    assert start.received == 110.0 and start.encounter is None and start.source_code == 131328
    assert ward.see(AFIB, AFIB, AFIB) == (), "one open alert per bed and label"


def test_a_window_below_the_threshold_starts_the_count_anew(make: SimpleNamespace) -> None:
    assert make.Ward().see(AFIB, AFIB, NORMAL, AFIB, AFIB) == ()


def test_the_threshold_itself_counts_and_hysteresis_keeps_open(make: SimpleNamespace) -> None:
    ward = make.Ward(Alerting(make.manifest_of(("Afib", make.rule_of(open_after=1)))))
    assert make.phases(ward.see((0.5,), (0.79,))) == []
    assert make.phases(ward.see((np.nextafter(np.float32(0.8), np.float32(1)),))) == [("Afib", "start", "")]
    assert ward.see((0.6,), (0.5,), (0.1,), (0.6,), (0.1,)) == (), "at or above release is not recovered"
    (end,) = ward.see((0.1,))
    assert make.phases([end]) == [("Afib", "end", "recovered")] and not end.active
    assert end.opened == ward.sent[0].opened and end.time == 1010.0 + 5 * (ward.n - 1)


def test_a_label_without_a_rule_raises_nothing(make: SimpleNamespace) -> None:
    assert make.Ward().see(*[(1.0, 0.1, 0.1)] * 10) == ()


def test_nan_is_no_evidence_either_way(make: SimpleNamespace) -> None:
    nan = (0.1, float("nan"), 0.1)
    ward = make.Ward()
    assert ward.see(AFIB, AFIB, nan, AFIB, AFIB) == ()
    assert make.phases(ward.see(AFIB)) == [("Afib", "start", "")]
    assert ward.see(NORMAL, nan, NORMAL) == ()
    assert make.phases(ward.see(NORMAL)) == [("Afib", "end", "recovered")]


def test_a_gap_in_device_time_starts_the_count_anew(make: SimpleNamespace) -> None:
    ward = make.Ward()
    ward.see(AFIB, AFIB)
    ward.n += 2  # the next window starts 5 s after the last one's end
    assert ward.see(AFIB, AFIB) == ()
    assert make.phases(ward.see(AFIB)) == [("Afib", "start", "")]
    ward.see(NORMAL)
    ward.n += 2
    assert ward.see(NORMAL) == (), "recovery is counted anew too"
    assert make.phases(ward.see(NORMAL)) == [("Afib", "end", "recovered")]


def test_a_dropped_window_whose_signal_the_next_ones_cover_is_no_gap(make: SimpleNamespace) -> None:
    ward = make.Ward()
    ward.see(AFIB, AFIB)
    ward.n += 1  # touches: 1015 and 1015
    assert make.phases(ward.see(AFIB)) == [("Afib", "start", "")]


def test_a_clock_set_back_starts_anew_and_a_window_that_comes_twice_is_passed_over(make: SimpleNamespace) -> None:
    ward = make.Ward()
    ward.see(AFIB, AFIB)
    ward.n -= 1
    assert ward.see(AFIB) == () and ward.alerting.take_suppressed() == {"repeated": 1}
    ward.n -= 3
    assert ward.see(AFIB, AFIB) == ()
    assert make.phases(ward.see(AFIB)) == [("Afib", "start", "")]


def test_two_devices_of_a_bed_have_their_own_count_and_one_alert(make: SimpleNamespace) -> None:
    ward = make.Ward()
    for n in range(3):
        ward.see(AFIB, device="m1")
        ward.n = n
        ward.see(NORMAL if n < 1 else AFIB, device="m2")
    assert make.phases(ward.sent) == [("Afib", "start", "")] and ward.sent[0].device == "m1"
    ward.see(AFIB, device="m2")
    assert ward.alerting.take_suppressed() == {"other_device": 1}
    assert make.phases(ward.see(NORMAL, NORMAL, device="m1")) == [("Afib", "end", "recovered")]
    ward.n -= 2
    (start,) = ward.see(AFIB, device="m2")
    assert start.phase is Phase.START and start.device == "m2", "the other device still sees it"


def test_suppressed_labels_and_paced_patients(make: SimpleNamespace) -> None:
    ward = make.Ward(Alerting(make.MANIFEST, AlertingSettings(suppress=("Afib",))))
    assert ward.see(*[AFIB] * 5) == () and ward.alerting.take_suppressed() == {"label": 1}
    assert ward.see(LBBB, LBBB, paced=True) == () and ward.alerting.take_suppressed() == {"paced": 1}
    assert make.phases(ward.see(LBBB, paced=False)) == [("Left bundle branch block", "start", "")]
    assert make.phases(ward.see(LBBB, paced=True)) == [("Left bundle branch block", "end", "recovered")]


def test_what_was_seen_while_paced_does_not_count_afterwards(make: SimpleNamespace) -> None:
    ward = make.Ward(Alerting(make.manifest_of(("Left bundle branch block", make.rule_of(open_after=3)))))
    ward.see((0.9,), (0.9,), paced=True)
    assert ward.see((0.9,), (0.9,)) == ()
    assert make.phases(ward.see((0.9,))) == [("Left bundle branch block", "start", "")]


def test_suppressing_an_unknown_label_is_an_error_that_names_it(make: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="'Afibb' is no label of sl/1"):
        Alerting(make.MANIFEST, AlertingSettings(suppress=("Afibb",)))
