"""The keys and types of Kineto's Chrome JSON, known here only, and how a piece of its text becomes events.

Two ways lead through a piece. The fast one decodes it into typed structs. Where that fails (NaN, a damaged event, a
field of an unexpected type) the piece is halved, and what is left small goes event after event: what can be kept is
kept, the rest counted. Environment dumps and unknown metadata at the top level are never read: public traces have
carried access tokens.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

Kind: TypeAlias = Literal[
    "op", "kernel", "copy", "runtime", "annotation", "device annotation", "instant", "frame", "other"
]

KINDS: dict[str, Kind] = {
    "cpu_op": "op",
    "operator": "op",
    "kernel": "kernel",
    "concurrent_kernel": "kernel",
    "mtia_ccp_events": "kernel",
    "gpu_memcpy": "copy",
    "memcpy": "copy",
    "gpu_memset": "copy",
    "memset": "copy",
    "user_annotation": "annotation",
    "gpu_user_annotation": "device annotation",
    "cpu_instant_event": "instant",
    "python_function": "frame",
    "": "instant",  # in 2021 instants had no category
}  # categories by age: capitalised in 2021, lower case since; compared in lower case
# The spelling of today, for a writer.
OPERATOR = "cpu_op"
RUNTIME = "cuda_runtime"  # HIP's runtime calls too
DRIVER = "cuda_driver"
KERNEL = "kernel"
COPY = "gpu_memcpy"
SET = "gpu_memset"
ANNOTATION = "user_annotation"
DEVICE_ANNOTATION = "gpu_user_annotation"
EVENT_LIST = "traceEvents"
COMPLETE = "X"  # phase of an event with a duration
_RUNTIME = re.compile(r"(.+_)?(runtime|driver)")  # cuda_runtime, hip_driver, xpu_runtime, …, in 2021 plain Runtime
_KNOWN_RUNTIME = re.compile(r"((cuda|hip)_)?(runtime|driver)")
STACKS = "python_function"
MEMORY = "[memory]"
_INEXACT_US = 2.0**42  # from here on neighbouring float64 are more than half a nanosecond apart
_SMALL = 32 << 10  # bytes of text that are taken event by event where they cannot be decoded at once
_ATTEMPTS = 1000  # to find a place between two events
LONGEST_EVENT = 8 << 20  # bytes of text; real ones have some hundred, a list of all parameters some hundred thousand
_LEAST_NESTED = 800  # characters that certainly nest where the decoder gave up nesting
_HALF = re.compile("[\ud800-\udfff]")
LIMIT_NS = 2**62  # of a time's magnitude: the difference of any two fits 64 bits, and the time of day does until 2116


class Args(msgspec.Struct, gc=False):
    """The arguments of an event that probe uses; those with structure, or read once per distinct text, as text."""

    external_id: Any = msgspec.field(default=-1, name="External id")
    old_external_id: Any = msgspec.field(default=-1, name="external id")  # of device work in 2021
    correlation: Any = -1
    sequence: Any = msgspec.field(default=-1, name="Sequence number")
    record_function: Any = msgspec.field(default=-1, name="Record function id")
    forward_thread: Any = msgspec.field(default=-1, name="Fwd thread id")
    dims: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input Dims")
    old_dims: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input dims")
    types: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input type")
    strides: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input Strides")
    scalars: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Concrete Inputs")
    kernel_backend: msgspec.Raw = msgspec.Raw()
    kernel_hash: msgspec.Raw = msgspec.Raw()
    kernel_file: msgspec.Raw = msgspec.Raw()
    warps: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="num_warps")
    stages: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="num_stages")
    device: Any = -1
    stream: Any = -1
    bytes: Any = -1
    graph: Any = msgspec.field(default=-1, name="graph id")
    grid: msgspec.Raw = msgspec.Raw()
    block: msgspec.Raw = msgspec.Raw()
    registers: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="registers per thread")
    shared_bytes: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="shared memory")
    occupancy_percent: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="est. achieved occupancy %")
    collective: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Collective name")
    collective_dtype: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="dtype")
    in_elements: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="In msg nelems")
    out_elements: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Out msg nelems")
    group: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Process Group Name")
    group_size: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Group size")
    group_ranks: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Process Group Ranks")
    source_rank: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Src Rank")
    target_rank: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Dst Rank")
    collective_sequence: Any = msgspec.field(default=-1, name="Seq")
    address: Any = msgspec.field(default=-1, name="Addr")  # from here on those of allocations
    allocation_bytes: Any = msgspec.field(default=0, name="Bytes")
    allocated_bytes: Any = msgspec.field(default=-1, name="Total Allocated")
    reserved_bytes: Any = msgspec.field(default=-1, name="Total Reserved")
    device_type: Any = msgspec.field(default=0, name="Device Type")
    device_id: Any = msgspec.field(default=-1, name="Device Id")


NO_ARGS = Args()
_ARGS = {f.encode_name: (f.name, f.type is msgspec.Raw) for f in msgspec.structs.fields(Args)}  # slow to ask for
_TO_TEXT = json.JSONEncoder(default=float).encode


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


class ExactEvent(msgspec.Struct, gc=False):
    """The same for time stamps that a float64 does not hold to the nanosecond."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: int | str | None = None
    tid: int | str | None = None
    ts: Decimal | None = None
    dur: Decimal | None = None
    args: Args | None = None


class Glance(msgspec.Struct, gc=False):
    """What an event is and when it was, without its arguments; time stamps may be rounded."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: float | None = None
    dur: float | None = None


class DeviceProperties(msgspec.Struct, gc=False):
    """A device as the profiler describes it."""

    id: Any = None
    name: Any = None
    major: Any = msgspec.field(default=None, name="computeMajor")
    minor: Any = msgspec.field(default=None, name="computeMinor")
    sm_count: Any = msgspec.field(default=None, name="numSms")
    memory_bytes: Any = msgspec.field(default=None, name="totalGlobalMem")


class DistributedInfo(msgspec.Struct, gc=False):
    """Which rank of how many wrote the file."""

    rank: Any = None
    world_size: Any = None


class Head(msgspec.Struct, gc=False):
    """What is read at the top level beside the events."""

    devices: list[DeviceProperties] | None = msgspec.field(default=None, name="deviceProperties")
    distributed: DistributedInfo | None = msgspec.field(default=None, name="distributedInfo")
    base_ns: Any = msgspec.field(default=None, name="baseTimeNanoseconds")


class _Whole(Head, gc=False):
    events: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="traceEvents")


_BETWEEN = re.compile(r"[, \t\r\n]*")
_REOPENS = re.compile(r"\]\s*,?\s*\{")
START = re.compile(rb'"traceEvents"\s*:\s*\[')
OPENING = b'{"traceEvents":['
_FIRST_KEY = re.compile(rb'\s*,?\s*\{\s*("(?:[^"\\]|\\.)*")\s*:')
_USUAL_KEYS = ("ph", "name", "cat", "ts", "pid", "tid", "args", "dur", "id", "bp", "s")
_QUOTED_KEYS = tuple(f'"{key}"'.encode() for key in _USUAL_KEYS)
_EVENT_START = re.compile(rf'[^:\[\s]\s*(?=\{{\s*"({"|".join(_USUAL_KEYS)})"\s*:)')  # elsewhere than within an event
_LARGE_STAMP = re.compile(rb'"ts"\s*:\s*(\d{13,})\.\d')
_BLANKS = b" \t\r\n"

_EVENTS = msgspec.json.Decoder(list[Event])
_EXACT_EVENTS = msgspec.json.Decoder(list[ExactEvent])
_GLANCES = msgspec.json.Decoder(list[Glance])
_HEAD = msgspec.json.Decoder(Head)
_WHOLE = msgspec.json.Decoder(_Whole)
_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def kind_of(category: str) -> Kind:
    """The table that events of a category belong to, "other" for those that probe does not use."""
    lower = category.lower()
    return KINDS.get(lower) or ("runtime" if _RUNTIME.fullmatch(lower) else "other")


def unknown_device(category: str) -> str | None:
    """The device whose activity a category records, where it is none that probe knows ("mtia")."""
    lower = category.lower()
    if _RUNTIME.fullmatch(lower) and not _KNOWN_RUNTIME.fullmatch(lower):
        return lower.rpartition("_")[0]
    return lower.partition("_")[0] if lower in ("mtia_ccp_events", "hpu_op") else None


class Piece(NamedTuple):
    """Events decoded from a piece of text."""

    events: list[Event] | list[ExactEvent]
    exact: bool
    dropped: int = 0  # events that could not be read
    end: int | None = None  # the list of events closes at this byte of the text, and something else follows
    cut: bool = False  # the text broke off
    rest: int = 0  # bytes at the end of the text that begin an event and do not end it


def boundary(text: bytes, before: int | None = None) -> int | None:
    """Index of the last comma between two events of `text` (before an index), None where none is found.

    An event begins with the key that the first one begins with, or else with a usual one; the same key elsewhere
    follows no comma and brace, and within a string its quotes would be escaped. Objects in a list among the arguments
    can look the same: what stands before such a comma decodes to an event that does not end.
    """
    first = _FIRST_KEY.match(text)
    end = len(text) if before is None else before
    for key in (first[1], *_QUOTED_KEYS) if first is not None else _QUOTED_KEYS:
        comma = _comma_before(text, key, end)
        if comma is not None and comma > 0:
            return comma
    return None


def _comma_before(text: bytes, key: bytes, end: int) -> int | None:
    """Index of the last comma before `end` that an object beginning with this key follows."""
    at = end
    for _ in range(_ATTEMPTS):
        at = text.rfind(key, 0, at)
        if at < 0:
            return None
        brace = _last_visible(text, at)
        comma = _last_visible(text, brace)
        if text[brace : brace + 1] == b"{" and text[comma : comma + 1] == b"," and comma >= 0:
            return comma
    return None


def _last_visible(text: bytes, end: int) -> int:
    """Index of the last byte before `end` that is no blank; blanks longer than any writer leaves count as text."""
    begin = max(end - 256, 0)
    return begin + len(text[begin : max(end, 0)].rstrip(_BLANKS)) - 1


def decode(text: bytes, *, last: bool) -> list[Piece]:
    """The events in text without its outer brackets; the `last` text ends with the list's closing bracket."""
    exact = _is_inexact(text)
    try:
        if not last:
            return [Piece((_EXACT_EVENTS if exact else _EVENTS).decode(b"".join((b"[", text, b"]"))), exact)]
        events = _WHOLE.decode(OPENING + text).events
        return [Piece((_EXACT_EVENTS if exact else _EVENTS).decode(events), exact, end=len(events) - 2)]
    except _ERRORS:
        return _decode_halves(text, last)


def _decode_halves(text: bytes, last: bool) -> list[Piece]:
    """The same for text in which something is wrong: only what is near the damage is taken event by event."""
    middle = boundary(text, len(text) // 2) if len(text) > _SMALL else None
    if middle is None:
        return [salvage(text, last=last)]
    pieces = decode(text[:middle], last=False)
    if pieces[-1].end is not None:
        return pieces
    begin = middle - pieces[-1].rest if pieces[-1].rest else middle + 1
    pieces[-1] = pieces[-1]._replace(rest=0)
    if begin == 0:
        return [salvage(text, last=last)]  # one event, or what looks like its beginning, is all there is
    following = decode(text[begin:], last=last)
    ended = following[-1].end
    if ended is not None:
        following[-1] = following[-1]._replace(end=ended + begin)
    return pieces + following


def _is_inexact(text: bytes) -> bool:
    """Whether a time stamp near the beginning has a fraction and is so large that a float64 rounds it."""
    first = _LARGE_STAMP.search(text, 0, 1 << 16)
    return first is not None and float(first[1]) >= _INEXACT_US


def glance(text: bytes, *, last: bool) -> list[Glance] | None:
    """A first look at the events in text as for `decode`; None where they cannot be decoded at once."""
    try:
        events = _WHOLE.decode(OPENING + text).events if last else b"".join((b"[", text, b"]"))
        return _GLANCES.decode(events)
    except _ERRORS:
        return None


def head(before: bytes, after: bytes) -> Head:
    """What the text around the list of events says."""
    try:
        return _HEAD.decode(before + after)
    except _ERRORS:
        return _find_head((before + after).decode("utf-8", errors="replace"))


def salvage(text: bytes, *, last: bool) -> Piece:
    """The events of a piece of text one by one, skipping what cannot be read."""
    characters = _characters(text)
    decoder = json.JSONDecoder(strict=False, parse_float=_exact)
    events: list[ExactEvent] = []
    dropped = 0
    at = _skip(characters, 0)
    while at < len(characters):
        if characters[at] == "]" and _closes(characters, at):
            return Piece(events, True, dropped, end=len(characters[:at].encode()))
        try:
            raw, following = decoder.raw_decode(characters, at)
            event = _event(raw)
        except (ValueError, RecursionError) as error:
            if not last and _runs_off(error, characters, at):
                return Piece(events, True, dropped, rest=len(characters[at:].encode()))
            event = None
            following = _next_event(characters, at + (_LEAST_NESTED if isinstance(error, RecursionError) else 0))
        if event is None:
            dropped += 1
        else:
            events.append(event)
        at = _skip(characters, following)
    return Piece(events, True, dropped, cut=last)


def _characters(text: bytes) -> str:
    """The text, as many bytes long, with a question mark for each byte that is not UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return printable(text.decode(errors="surrogateescape"))


def _runs_off(error: Exception, characters: str, at: int) -> bool:
    """Whether the event that begins at `at` is whole as far as it goes, and may go on in the text that follows."""
    if characters[at] != "{" or len(characters) - at > LONGEST_EVENT or not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= len(characters.rstrip()) or error.msg.startswith("Unterminated")


def _next_event(characters: str, after: int) -> int:
    """Where the next event begins behind what cannot be read at `after`; the end of the text where none does."""
    found = _EVENT_START.search(characters, after)
    return found.end() if found is not None else len(characters)


def _closes(characters: str, at: int) -> bool:
    """Whether the bracket at `at` closes the list of events: no further event follows."""
    return _REOPENS.match(characters, at) is None


def _skip(characters: str, at: int) -> int:
    """Where the next thing begins that is no comma and no blank."""
    return _BETWEEN.match(characters, at).end()  # type: ignore[union-attr]  # it matches nothing as well


def _exact(digits: str) -> Any:
    """A JSON fraction, exactly: large time stamps lose nanoseconds as floats."""
    return Decimal(digits) if len(digits) > 15 and "e" not in digits.lower() else float(digits)


def _event(raw: Any) -> ExactEvent | None:
    """An event in the exact form, or None where it is no event."""
    if not isinstance(raw, dict) or not isinstance(raw.get("name", ""), str):
        return None
    args = raw.get("args")
    return ExactEvent(
        ph=_string(raw.get("ph")),
        cat=_string(raw.get("cat")),
        name=printable(raw.get("name", "")),
        pid=_identifier(raw.get("pid")),
        tid=_identifier(raw.get("tid")),
        ts=_number(raw.get("ts")),
        dur=_number(raw.get("dur")),
        args=_args(args) if isinstance(args, dict) else None,
    )


def _string(value: Any) -> str:
    return printable(value) if isinstance(value, str) else ""


def printable(text: str) -> str:
    """Text with a question mark for each half character, which nothing that is written later can hold."""
    return _HALF.sub("?", text)


def _identifier(value: Any) -> int | str | None:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else None


def _args(raw: dict[str, Any]) -> Args:
    """The known arguments of an event; containers as JSON text, as the fast decoder leaves them."""
    known: dict[str, Any] = {}
    for key, value in raw.items():
        name, is_text = _ARGS.get(key, (None, False))
        if name is not None:
            known[name] = _undecoded(value) if is_text else value
    return Args(**known)


def _undecoded(value: Any) -> msgspec.Raw:
    """A decoded value as JSON text; null where it is nested too deeply to be one."""
    try:
        return msgspec.Raw(_TO_TEXT(value).encode())
    except RecursionError:
        return msgspec.Raw(b"null")


def _number(value: Any) -> Decimal | None:
    """A finite time as a decimal, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        return None
    try:
        number = Decimal(value)
    except (InvalidOperation, ValueError):
        return None
    return number if number.is_finite() else None


def _find_head(characters: str) -> Head:
    """The top-level fields found by their names, wherever they stand, each only if it is of the right type."""
    decoder = json.JSONDecoder(strict=False)
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(Head):
        for key in re.finditer(rf'"{field.encode_name}"\s*:\s*', characters):
            try:
                value, _ = decoder.raw_decode(characters, key.end())
                value = json.loads(printable(json.dumps(value, ensure_ascii=False)))
                found[field.name] = msgspec.convert(value, field.type)
            except (ValueError, RecursionError):  # msgspec.ValidationError is a ValueError
                continue
            break
    return Head(**found)


def nanoseconds(microseconds: Decimal | None) -> int | None:
    """Integer nanoseconds of a time in microseconds; None where there is none of a magnitude below 2**62."""
    if microseconds is None or not microseconds.is_finite():
        return None
    if not -LIMIT_NS < microseconds < LIMIT_NS:  # first, because Decimal's arithmetic raises when it overflows
        return None
    exact = round(microseconds * 1000)
    return exact if abs(exact) < LIMIT_NS else None
