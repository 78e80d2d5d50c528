"""A Kineto trace as a stream of text, cut between events: one piece is in memory, whatever the size of the file."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Protocol

import msgspec

from probe.errors import TraceError
from probe.readers import kineto_json
from probe.readers.kineto_json import LONGEST_EVENT, Head, Piece

PIECE = 256 << 10  # bytes of text decoded at once at first: more takes memory that a small trace does not
_LARGEST_PIECE = 1 << 20  # later on: what is done once a piece counts less, and more no longer stays in a core's cache
_GROWTH = 1 / 64  # of what was read
_LONGEST_HEAD = 64 << 20  # bytes before the first event, or after the last; real ones have a few thousand

_MARK = b"\xef\xbb\xbf"  # with which some editors begin a text in UTF-8
_PLACE = re.compile(r"\(byte (\d+)\)")


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
        self._read = 0  # bytes of text

    def texts(self) -> Iterator[tuple[bytes, bool]]:
        """Runs of whole events without the list's brackets, and whether the text is the last one, with what follows."""
        self._rest = self._find_events()
        wanted = self._wanted()
        while more := self.stream.read(wanted):
            self._read += len(more)
            text = self._rest + more
            at = kineto_json.boundary(text)
            if at is None and len(text) <= LONGEST_EVENT:  # one event longer than a piece
                self._rest, wanted = text, len(text)
                continue
            at = len(text) if at is None else at  # no events, or what follows them: it need not stay whole
            self._rest, wanted = text[at + 1 :], self._wanted()
            yield text[:at], False
        text, self._rest = self._rest, b""
        self.cut = self.stream.truncated
        yield text, True

    def _wanted(self) -> int:
        """How much to read for the next piece."""
        return max(PIECE, min(_LARGEST_PIECE, int(self._read * _GROWTH)))

    def pieces(self, wanted: Container[int] | None = None) -> Iterator[Piece]:
        """The events, decoded; of the texts with the wanted numbers where those are given."""
        begun = b""  # an event that the text before began and did not end
        enough = 0
        for number, (text, last) in enumerate(self.texts()):
            if wanted is not None and number not in wanted and not last:
                continue
            text = b",".join((begun, text)) if begun else text
            if len(text) < enough and not last:  # so that a long event is not tried at each of its pieces
                begun = text
                continue
            for piece in kineto_json.decode(text, last=last):
                yield piece._replace(cut=False)
                self.cut = self.cut or piece.cut
                if piece.end is not None:
                    self._end(text[piece.end :])
                    return
            begun = text[len(text) - piece.rest :]
            enough = 2 * len(begun)
        self._end(b"")

    def _end(self, after: bytes) -> None:
        """Read what follows the list of events, and with it the top level."""
        after += self._rest
        while len(after) < _LONGEST_HEAD and (more := self.stream.read(max(PIECE, len(after)))):
            after += more
        self.head = kineto_json.head(self._before, after)

    def _find_events(self) -> bytes:
        """Read up to the first event; returns what was read of the events."""
        text = b""
        while more := self.stream.read(max(PIECE, len(text))):
            text += more
            if text.removeprefix(_MARK).lstrip()[:1] == b"[":
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
    try:
        msgspec.json.decode(text.removeprefix(_MARK), type=msgspec.Raw)  # Raw: nothing is made of it
    except RecursionError:
        return f"{path}: JSON that is nested too deeply to be read, and no traceEvents in it"
    except msgspec.DecodeError as error:
        place = _PLACE.search(str(error))
        if truncated or place is None:
            return f"{path}: the file is cut, and no traceEvents before the cut; copy or record it again"
        return f"{path}: not JSON at byte {place[1]}, and no traceEvents before it; name a trace"
    return f"{path}: JSON, but no trace: it has no traceEvents; name a trace or a run"
