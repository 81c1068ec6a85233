"""`[station]`: where the page listens, who may ask for it, and what its tiles show."""

from __future__ import annotations

import ipaddress
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.ecg import Lead


class StationSettings(BaseModel):
    """The live page, /metrics and /healthz."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on. The page has no log-in: leave it on the machine itself, behind a reverse proxy."""
    port: int = Field(default=8080, ge=0, le=65535)
    """TCP port; 0 takes any free one."""
    allow_remote: bool = False
    """Must be true before host may be anything but a loopback address: whoever reaches the port sees every bed."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names, beside the loopback ones and host, that a browser or Prometheus may ask for; others are refused."""
    title: str = ""
    """Shown on top of the page, as the ward's name."""
    lead: Lead = Lead.II
    """Lead of the strip where the bed has it; otherwise the next best."""
    findings: int = Field(default=3, ge=1, le=8)
    """Findings named for each bed."""
    show_patients: bool = False
    """Show patients' names. Off: bed ids only."""
    synthetic_beds: tuple[str, ...] = ()
    """Beds that a signal generator feeds; the page marks them."""
    stale_after: float = Field(default=10.0, gt=0)
    """Seconds without a sample after which a bed is greyed out; some gateways send every 5.5 s."""
    strip_seconds: float = Field(default=12.0, ge=8.0, le=60.0)
    """Signal kept for each bed's strip and heart rate."""
    max_viewers: int = Field(default=32, ge=1)
    """Pages open at once; further ones are refused."""

    @model_validator(mode="after")
    def _local(self) -> Self:
        if not self.allow_remote and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reachable from other machines and the page has no log-in; "
                "use 127.0.0.1 behind a reverse proxy, or set allow_remote = true"
            )
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
