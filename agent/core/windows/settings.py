"""How windows are cut: the part of the configuration that this room owns."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class WindowingSettings(BaseModel):
    """How windows are cut."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seconds: int = Field(default=10, ge=1, le=60)
    """Length of a window; the networks' manifest must ask for the same."""
    stride: int = Field(default=5, ge=1, le=60)
    """Seconds from the start of a window to that of the next."""
    late: float = Field(default=2.0, ge=0.0, le=30.0)
    """Seconds of signal that are waited for a late block or lead before the window is cut without it."""
    max_gap: float = Field(default=10.0, ge=1.0, le=600.0)
    """A longer hole ends the strip: windowing starts anew behind it."""
    tolerance: float = Field(default=0.01, ge=0.0, le=0.2)
    """Seconds by which a block's time stamp may miss the end of the block before and still follow it seamlessly. A lost
    block of no more than this length cannot be told from jitter, so keep it below the devices' shortest block."""
    drift: float = Field(default=0.25, gt=0.0, le=2.0)
    """Seconds that a device's samples and its stamps may drift apart before the strip is broken and anchored anew."""
    min_rate: int = Field(default=100, ge=50)
    """Hz. A lead that is slower is not used, and counted."""
    max_rate: int = Field(default=1000, le=4000)
    """Hz. A lead that is faster is not used, and counted."""
    idle: float = Field(default=600.0, gt=0.0)
    """Seconds without samples after which a bed is forgotten."""
    max_block: float = Field(default=60.0, ge=1.0, le=3600.0)
    """Seconds of the longest message; a longer one is refused as invalid. Bounds a bed's memory."""
    max_beds: int = Field(default=2048, ge=1)
    """Samples of further beds are refused and counted. Bounds the agent's memory."""

    @model_validator(mode="after")
    def _no_signal_is_skipped(self) -> WindowingSettings:
        if self.stride > self.seconds:
            raise ValueError("stride must not be longer than seconds, or the signal between windows is never looked at")
        if self.min_rate > self.max_rate:
            raise ValueError("min_rate must not be above max_rate")
        return self
