"""What the configuration says of serving: how long windows may wait, and which models look beside the first."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ServingSettings(BaseModel):
    """How long windows may wait for the engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    answer_within: float = Field(default=2.0, gt=0.0)
    """Seconds from a window's last sample in which its answer is due. Further models and engines on trial only get time
    that does not put this at risk."""
    expire_after: float = Field(default=30.0, gt=0.0)
    """Seconds from a window's last sample after which it is dropped and counted rather than answered too late."""
    shadow_queue: int = Field(default=64, ge=1, le=4096)
    """Windows that may wait for an engine on trial, and comparisons that may wait for their reader."""

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if self.expire_after < self.answer_within:
            raise ValueError(
                "expire_after must not be below answer_within, or windows are dropped before they are late"
            )
        return self


class ModelSettings(BaseModel):
    """A further model: what it says is shown, and is an alert only where that is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bundle: Path
    """Folder of its engine bundle."""
    every: float | None = Field(default=None, gt=0.0)
    """Seconds from one window of a bed to the next that it looks at. This or `once`."""
    once: bool = False
    """Look at one window per admission, as soon as every lead that the model requires is measured; again with the next
    patient, and on request."""
    answer_within: float = Field(default=30.0, gt=0.0)
    """Seconds from a window's last sample in which its answer is wanted: the most urgent goes first."""
    alerts: bool = False
    """Whether its labels that have a rule raise alerts of their own. Rules count consecutive windows, so `every` must
    not be longer than a window."""

    @model_validator(mode="after")
    def _one_rhythm(self) -> Self:
        if (self.every is None) != self.once:
            raise ValueError("a further model looks every so many seconds or once per admission; set every or once")
        if self.alerts and self.once:
            raise ValueError("a model that looks once cannot alert, as rules count consecutive windows; set every")
        return self
