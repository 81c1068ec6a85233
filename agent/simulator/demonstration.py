"""The recordings that no weights of this project were ever trained on, so that a demonstration shows unseen patients.

A tiny table of its own because two rooms that may not know each other read it: the demo plays these recordings, and
training leaves out every record of their patients. Ids are ``source/record``, as in the manifest's ``held_out``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DemonstrationRecord:
    """One recording that is kept for demonstrations."""

    source: str
    """Folder of the recording: ``mitdb``, ``cpsc2021_af``, ``ptbxl500``."""
    record: str
    """Name of the record in that folder, as its own documentation writes it."""
    patient: str
    """As training names the patient, whose recordings are all held out: ``mitdb/221``, ``ptbxl/3830``."""
    expected: str
    """The rhythm label that its annotations say: ``Afib``, ``Sinusal``; empty where they only say "not AF"."""
    begin: float = 0.0
    """Seconds into the recording at which the demo begins to play it."""

    @property
    def id(self) -> str:
        """``source/record``."""
        return f"{self.source}/{self.record}"


DEMONSTRATION: tuple[DemonstrationRecord, ...] = (
    # Atrial fibrillation nearly throughout: a persistent one with leads I and II, which the network finds at once (the
    # second recording from where it does: chosen so that it shows, and no evidence of anything), and one with MLII and
    # V1, many ectopic beats among it, which takes it minutes or is not found.
    DemonstrationRecord("cpsc2021_af", "data_84_1", "cpsc2021_af/84", "Afib"),
    DemonstrationRecord("cpsc2021_af", "data_84_2", "cpsc2021_af/84", "Afib", begin=60.0),
    DemonstrationRecord("mitdb", "221", "mitdb/221", "Afib"),
    # Half an hour of sinus rhythm each, hardly an extra beat.
    DemonstrationRecord("mitdb", "103", "mitdb/103", "Sinusal"),
    DemonstrationRecord("mitdb", "115", "mitdb/115", "Sinusal"),
    DemonstrationRecord("mitdb", "122", "mitdb/122", "Sinusal"),
    # Not AF, leads I and II.
    DemonstrationRecord("cpsc2021_af", "data_21_8", "cpsc2021_af/21", ""),
    # Twelve leads, ten seconds, reported as normal.
    DemonstrationRecord("ptbxl500", "00301_hr", "ptbxl/3830", "Sinusal"),
    DemonstrationRecord("ptbxl500", "00470_hr", "ptbxl/4578", "Sinusal"),
)

DEMONSTRATION_PATIENTS: frozenset[str] = frozenset(record.patient for record in DEMONSTRATION)
"""Every recording of these patients is left out of training, and of the figures that choose anything."""
