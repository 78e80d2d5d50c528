"""The fields of an event that any analysis needs, as typed structs: the least that a decoder can be asked for.

Deliberately less than probe reads (no shapes, no launch shapes, no collectives): a floor, not a reader.
"""

from __future__ import annotations

import msgspec


class Args(msgspec.Struct, gc=False):
    """What links events to each other."""

    external_id: int | None = msgspec.field(default=None, name="External id")
    correlation: int | None = None
    stream: int | None = None


class Event(msgspec.Struct, gc=False):
    """One event; times in microseconds."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: int | str | None = None
    tid: int | str | None = None
    ts: float | None = None
    dur: float | None = None
    args: Args | None = None


class File(msgspec.Struct, gc=False):
    """A trace file."""

    events: list[Event] = msgspec.field(default_factory=list, name="traceEvents")


class RawEvent(msgspec.Struct, gc=False):
    """One event with its arguments as undecoded text."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: int | str | None = None
    tid: int | str | None = None
    ts: float | None = None
    dur: float | None = None
    args: msgspec.Raw = msgspec.field(default=msgspec.Raw())


class RawFile(msgspec.Struct, gc=False):
    """A trace file whose events keep their arguments as text."""

    events: list[RawEvent] = msgspec.field(default_factory=list, name="traceEvents")
