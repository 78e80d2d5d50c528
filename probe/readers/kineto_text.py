"""A Kineto trace as a stream of text, cut between events: one piece is in memory, whatever the size of the file."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from typing import Protocol

from probe.errors import TraceError
from probe.readers import kineto_json
from probe.readers.kineto_json import Head, Piece

PIECE = 2 << 20  # bytes of text decoded at once
_LONGEST_HEAD = 64 << 20  # bytes before the first event, or after the last; real ones have a few thousand


class Stream(Protocol):
    """Bytes of a file, unzipped."""

    @property
    def truncated(self) -> bool:
        """Whether a zipped stream broke off."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end."""


class Text:
    """One pass over a trace. Iterate over `texts` or `pieces`; `head` and `cut` are known when they are exhausted."""

    def __init__(self, path: str, stream: Stream) -> None:
        self.path = path
        self.stream = stream
        self.cut = False
        self.head = Head()
        self._before = b""  # text up to the first event
        self._rest = b""  # text that was read and not yet handed out

    def texts(self) -> Iterator[tuple[bytes, bool]]:
        """Runs of whole events without the list's brackets, and whether the text is the last one, with what follows."""
        self._rest = self._find_events()
        wanted = PIECE
        while more := self.stream.read(wanted):
            text = self._rest + more
            at = kineto_json.boundary(text)
            if at is None:  # one event, or something else, longer than a piece
                self._rest, wanted = text, len(text)
                continue
            self._rest, wanted = text[at + 1 :], PIECE
            yield text[:at], False
        text, self._rest = self._rest, b""
        self.cut = self.stream.truncated
        yield text, True

    def pieces(self, wanted: Container[int] | None = None) -> Iterator[Piece]:
        """The events, decoded; of the texts with the wanted numbers where those are given."""
        for number, (text, last) in enumerate(self.texts()):
            if wanted is not None and number not in wanted and not last:
                continue
            for piece in kineto_json.decode(text, last=last):
                yield piece._replace(cut=False)
                self.cut = self.cut or piece.cut
                if piece.end is not None:
                    self._end(text[piece.end :])
                    return
        self._end(b"")

    def _end(self, after: bytes) -> None:
        """Read what follows the list of events, and with it the top level."""
        after += self._rest
        while len(after) < _LONGEST_HEAD and (more := self.stream.read(PIECE)):
            after += more
        self.head = kineto_json.head(self._before, after)

    def _find_events(self) -> bytes:
        """Read up to the first event; returns what was read of the events."""
        text = b""
        while more := self.stream.read(PIECE):
            text += more
            if text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
                return text[text.index(b"[") + 1 :]
            found = kineto_json.START.search(text)
            if found is not None:
                self._before = text[: found.end()]
                return text[found.end() :]
            if len(text) > _LONGEST_HEAD:
                raise TraceError(f"{self.path}: no trace: no traceEvents in the first {_LONGEST_HEAD >> 20} MiB")
        raise TraceError(_why_not(self.path, text, self.stream.truncated))


def _why_not(path: str, text: bytes, truncated: bool) -> str:
    """What is wrong with a file that has no list of events."""
    if not text.strip():
        return f"{path}: the file is empty; record it again"
    characters = text.decode("utf-8", errors="replace").removeprefix("\ufeff")
    try:
        json.loads(characters)
    except json.JSONDecodeError as error:
        why = "the file is cut" if truncated or error.pos >= len(characters.rstrip()) - 1 else "not JSON"
        return f"{path}: {why} at character {error.pos}, and no traceEvents before it"
    except (ValueError, RecursionError):
        return f"{path}: JSON that cannot be read, and no traceEvents in it"
    return f"{path}: JSON, but no trace: it has no traceEvents"
