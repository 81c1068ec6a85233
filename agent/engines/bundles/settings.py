"""Which bundle is served and whose signature is believed: the part of `[engine]` that concerns bundles alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agent.engines.bundles.signing import Trust


class BundleSettings(BaseModel):
    """Which bundle, and whom to believe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path | None = None
    """Folder of the engine bundle. Default: the one that `deepecg-agent bundle activate` chose, or else the
    demonstration bundle that comes with the package."""
    trusted_keys: tuple[Path, ...] = ()
    """Files of the public keys (PEM) whose bundles may be served. The demonstration bundle brings its own."""
    revoked: tuple[Annotated[str, Field(pattern=r"^([0-9a-f]{16}|[0-9a-f]{64})$")], ...] = ()
    """Never to be served: ids of keys (16 hexadecimal digits), and SHA-256s of bundles' manifests (64)."""
    require_signature: bool = True
    """Whether a bundle must be signed by a trusted key. When it need not, each start says so in the log."""
    allow_downgrade: bool = False
    """Whether a bundle may be older than the latest of its name that was served here."""

    def trust(self) -> Trust:
        """Whose bundles are served.

        Raises:
            SigningError: a file of `trusted_keys` is no public key.
        """
        return Trust.of(self.trusted_keys, self.revoked, require_signature=self.require_signature)
