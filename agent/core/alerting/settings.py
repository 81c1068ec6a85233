"""When findings become alerts: the part of the configuration that this room owns."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from agent.core.ecg import Priority


class AlertingSettings(BaseModel):
    """When findings become alerts, beyond the thresholds and persistence of the bundle's manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    suppress: tuple[str, ...] = ()
    """Labels, or patterns as `ST elevation*`, that never alert here, whatever the manifest says."""
    suppress_when_paced: tuple[str, ...] = (
        "Left bundle branch block",
        "Right bundle branch block",
        "Nonspecific intraventricular conduction delay",
        "Left ventricular hypertrophy",
        "Right ventricular hypertrophy",
        "Prolonged QT",
        "Delta wave",
        "Wolff-Parkinson-White*",
        "Ventricular Rhythm",
        "ST *",
        "T wave *",
        "Q wave *",
        "Acute MI",
    )
    """The same while the monitor says that the patient is paced: pacing itself makes the ECG look like these."""
    continue_every: float = Field(default=300.0, ge=0)
    """Seconds between `continue` messages of an open alert, by which a receiver gets back in step; 0 sends none."""
    stale_after: float = Field(default=30.0, gt=0)
    """Seconds without an analysed window after which a bed's alerts end as `feed_lost`."""
    forget_after: float = Field(default=3600.0, gt=0)
    """Seconds without one after which the technical alert ends too and the bed is forgotten (monitor put away)."""
    feed_lost_alert: bool = True
    """Raise a technical alert when a bed that was analysed no longer is."""
    feed_lost_priority: Priority = Priority.LOW
    """Its priority: PH, PM, PL or PN."""
    leads_off: bool = False
    """Call it `leads off` (196882) rather than `data missing` (197378) where the monitor marks the signal invalid."""
