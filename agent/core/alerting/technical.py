"""Technical conditions: what is told where there is no ECG to analyse (IEC 60601-1-8, IHE PCD-04)."""

from __future__ import annotations

from agent.core.alerting.life_cycle import name_uuid
from agent.core.alerting.settings import AlertingSettings
from agent.core.ecg import Alert, Encounter, Phase
from agent.core.nomenclature import ECG_ELEC_POTL

ECG_MISSING = "ECG missing"
LEADS_OFF = "Leads off"

TECHNICAL: dict[str, tuple[int, str, str]] = {
    ECG_MISSING: (197378, "MDC_EVT_DATA_MISSING", "No ECG to analyse: advisories paused"),
    LEADS_OFF: (196882, "MDC_EVT_LEADS_OFF", "Leads off, no ECG to analyse: advisories paused"),
}
"""Technical conditions by the ``label`` of their alerts: event code, reference id, text."""


def condition(settings: AlertingSettings, *, invalid: bool) -> str:
    """What silence is called; ``invalid``: the last that came was marked so by the monitor."""
    return LEADS_OFF if settings.leads_off and invalid else ECG_MISSING


def start_technical(
    label: str,
    bed: str,
    device: str,
    settings: AlertingSettings,
    *,
    model: str,
    received: float,
    encounter: Encounter | None,
    wall: float,
) -> Alert:
    """The first message of a technical alert: ``device`` was the last that measured, until ``received``."""
    code, ref_id, text = TECHNICAL[label]
    alert_id = name_uuid(bed, device, label, repr(wall))
    return Alert(
        alert_id=alert_id,
        message_id=name_uuid(alert_id, Phase.START),
        bed=bed,
        device=device,
        label=label,
        code=code,
        ref_id=ref_id,
        text=f"{text} (advisory)",
        priority=settings.feed_lost_priority,
        phase=Phase.START,
        active=True,
        opened=wall,
        time=wall,
        created=wall,
        probability=None,
        threshold=None,
        model=model,
        received=received,
        source_code=ECG_ELEC_POTL,
        encounter=encounter,
    )


def event_time(alert: Alert, wall: float) -> float:
    """Time of a message's event: silence lasts until now, a finding until the last window that was seen."""
    return wall if alert.label in TECHNICAL else alert.time
