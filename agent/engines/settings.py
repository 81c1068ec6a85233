"""`[engine]`: which bundle is served, and how windows are batched for its network."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agent.engines.bundles.settings import BundleSettings


class EngineSettings(BundleSettings):
    """The network, and how windows are batched for it."""

    threads: int = Field(default=1, ge=1, le=64)
    """Processor threads for the network. One serves about a hundred beds and leaves the rest to the feeds."""
    cache: Path | None = None
    """Folder for what the engine compiles, so that the next start is faster. Default: none is kept."""
    max_batch: int = Field(default=8, ge=1, le=256)
    """Most windows in one batch."""
    max_wait: float = Field(default=0.01, ge=0.0, le=1.0)
    """Seconds that the first window of a batch may wait for others."""
    queue_per_bed: int = Field(default=2, ge=1, le=64)
    """Windows of one bed that may wait; one more drops that bed's oldest."""
    queue: int = Field(default=1024, ge=1, le=65536)
    """Windows of all beds that may wait; one more drops the oldest of the bed with the most."""
    deadline: float = Field(default=20.0, gt=0.0)
    """Seconds that one batch may take; an engine that takes longer has failed and the agent exits to be restarted."""
    start_deadline: float = Field(default=300.0, gt=0.0)
    """Seconds that loading and the self-test may take."""
