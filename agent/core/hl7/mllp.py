"""MLLP framing without I/O: bytes in, HL7 messages out (HL7 v2 transport specification, release 1, MLLP).

A frame is ``0x0B <message> 0x1C 0x0D``. Engines in the field send several frames in one segment, frames in pieces,
NULs and line ends between frames, and sometimes forget the last byte: all of that is read as it is meant. Whatever
else stands between frames is skipped and counted.
"""

from __future__ import annotations

from agent.core.errors import DeepECGError

START = b"\x0b"
END = b"\x1c"
CR = b"\x0d"
LIMIT = 16 * 1024 * 1024

_FILLER = b"\x00\r\n"


class FrameTooLongError(DeepECGError, ValueError):
    """A message is longer than the limit: the connection is of no more use, for its end is not known."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"a message is longer than {limit} bytes; send fewer seconds in one message or raise `message_limit`"
        )
        self.limit = limit


class Decoder:
    """Cuts one connection's bytes into messages; every byte is looked at a bounded number of times."""

    def __init__(self, limit: int = LIMIT) -> None:
        """``limit`` is the longest message in bytes, its frame not counted."""
        self._limit = limit
        self._inside = False
        self._buffer = bytearray()
        self._error: FrameTooLongError | None = None
        self.stray = 0
        """Bytes outside any frame that are neither NUL nor line ends, so far."""
        self.truncated = 0
        """Frames whose end never came before the next one began, so far."""

    @property
    def partial(self) -> bool:
        """Whether a frame has begun whose end has not come."""
        return self._inside

    def feed(self, data: bytes) -> tuple[bytes, ...]:
        """Take the next bytes and return the messages that they complete, in order.

        Raises:
            FrameTooLongError: the frame under way passed the limit. Messages that the same bytes completed are
                returned first; the error then comes with the next call, and with every call after it.
        """
        if self._error is not None:
            raise self._error
        messages: list[bytes] = []
        position = 0
        while position < len(data):
            if not self._inside:
                start = data.find(START, position)
                between = data[position : start if start >= 0 else len(data)]
                self.stray += len(between.strip(_FILLER))
                if start < 0:
                    break
                self._inside = True
                position = start + 1
            end = data.find(END, position)
            stop = end if end >= 0 else len(data)
            # 0x0B cannot stand inside a message: the sender gave the last one up and began anew.
            restart = data.rfind(START, position, stop)
            if restart >= 0:
                self.truncated += data.count(START, position, stop)
                self._buffer.clear()
                position = restart + 1
            if len(self._buffer) + stop - position > self._limit:
                self._error = FrameTooLongError(self._limit)
                self._buffer.clear()
                break
            if end < 0:
                self._buffer += data[position:]
                break
            # 0x1C ends the message; the CR that should follow is filler between frames, so one forgotten does no harm.
            message = bytes(self._buffer + data[position:end]) if self._buffer else data[position:end]
            self._buffer.clear()
            self._inside = False
            position = end + 1
            if message:
                messages.append(message)
        if self._error is not None and not messages:
            raise self._error
        return tuple(messages)


def encode(message: bytes) -> bytes:
    """The message in its frame."""
    return b"".join((START, message, END, CR))
