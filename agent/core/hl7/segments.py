"""The segments' fields by their names in the standard (HL7 v2.6): one table, by which they are read and written.

``segment.raw(OBX.VALUE)`` reads what ``write([(OBX, {OBX.VALUE: …})])`` has written. A class's name is the segment's.
"""

from __future__ import annotations


class FieldNumbers:
    """A segment's fields: plain numbers, since every message asks for them many times."""

    @classmethod
    def by_name(cls) -> dict[str, int]:
        """The numbers by their names, in order."""
        return {name: number for name, number in vars(cls).items() if name.isupper()}


class MSH(FieldNumbers):
    """Message header (2.15.9); MSH-1 and MSH-2 are the delimiters."""

    SENDING_APPLICATION = 3
    SENDING_FACILITY = 4
    RECEIVING_APPLICATION = 5
    RECEIVING_FACILITY = 6
    TIME = 7
    TYPE = 9
    CONTROL_ID = 10
    PROCESSING_ID = 11
    VERSION = 12
    ACCEPT_ACKNOWLEDGEMENT = 15
    APPLICATION_ACKNOWLEDGEMENT = 16
    CHARACTER_SET = 18
    PROFILE = 21


class MSA(FieldNumbers):
    """Message acknowledgement (2.15.8)."""

    CODE = 1
    CONTROL_ID = 2
    TEXT = 3
    """Withdrawn in 2.7."""


class ERR(FieldNumbers):
    """Error (2.15.5)."""

    CODE_AND_LOCATION = 1
    """The whole error until v2.4."""
    LOCATION = 2
    CODE = 3
    SEVERITY = 4
    DIAGNOSTIC = 7
    USER_MESSAGE = 8


class PID(FieldNumbers):
    """Patient identification (3.4.2)."""

    SET_ID = 1
    IDENTIFIERS = 3
    NAME = 5
    BIRTH_TIME = 7
    SEX = 8


class PV1(FieldNumbers):
    """Patient visit (3.4.3)."""

    SET_ID = 1
    PATIENT_CLASS = 2
    LOCATION = 3
    PRIOR_LOCATION = 6
    VISIT_NUMBER = 19


class OBR(FieldNumbers):
    """Observation request (7.4.1)."""

    SET_ID = 1
    PLACER = 2
    FILLER = 3
    SERVICE = 4
    TIME = 7
    END_TIME = 8
    COLLECTOR = 10
    PARENT = 29


class OBX(FieldNumbers):
    """Observation (7.4.2)."""

    SET_ID = 1
    VALUE_TYPE = 2
    OBSERVATION = 3
    SUB_ID = 4
    VALUE = 5
    UNITS = 6
    RANGE = 7
    FLAGS = 8
    STATUS = 11
    TIME = 14
    EQUIPMENT = 18
