"""Preprocessing: raw windows in, the network's input out. The same code serves training and the ward."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Preprocessing(BaseModel):
    """Constants of the preprocessing, stored in the bundle's manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["fixed"] = "fixed"
    rate: float = Field(default=250.0, gt=0)
    seconds: float = Field(default=10.0, gt=0)
    gain: float = Field(default=1 / 0.0048, gt=0)
    """Network units per mV (ADC counts of 4.8 µV)."""
    highpass: float = Field(default=0.5, ge=0)
    """Hz; 0 = none. Monitors filter at 0.5 Hz themselves; without it, drift dominates a bedside window."""
    notches: tuple[float, ...] = (50.0, 60.0, 100.0, 120.0)
    """Mains lines and their harmonics, Hz."""
    notch_width: float = Field(default=1.0, gt=0)
    """Half width of each notch, Hz."""
