"""Decode a Kineto/Chrome trace file (.json, .json.gz) into events. The only file that knows the format's keys.

Two ways lead through a file. The fast one decodes the whole text into typed structs. Where that fails (truncation,
NaN, a field of an unexpected type) the careful one takes event after event, keeps what can be kept and counts the
rest. Environment dumps and unknown metadata at the top level are never read: public traces have carried access tokens.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from probe.errors import TraceError

Kind: TypeAlias = Literal["op", "kernel", "copy", "runtime", "annotation", "device annotation"]

KINDS: dict[str, Kind] = {
    "cpu_op": "op",
    "operator": "op",
    "kernel": "kernel",
    "concurrent_kernel": "kernel",
    "gpu_memcpy": "copy",
    "memcpy": "copy",
    "gpu_memset": "copy",
    "memset": "copy",
    "cuda_runtime": "runtime",
    "cuda_driver": "runtime",
    "hip_runtime": "runtime",
    "hip_driver": "runtime",
    "runtime": "runtime",
    "user_annotation": "annotation",
    "gpu_user_annotation": "device annotation",
}  # categories by age: capitalised in 2021, lower case since; compared in lower case
STEP_PREFIX = "ProfilerStep#"
_ABSOLUTE_US = 1e14  # a time stamp this large counts from 1970, where a float64 resolves only 0.25 µs


class Args(msgspec.Struct, gc=False):
    """The arguments of an event that probe uses, as recorded; lists as undecoded text."""

    external_id: Any = msgspec.field(default=None, name="External id")
    correlation: Any = None
    sequence: Any = msgspec.field(default=None, name="Sequence number")
    forward_thread: Any = msgspec.field(default=None, name="Fwd thread id")
    dims: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input Dims")
    old_dims: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input dims")
    types: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input type")
    strides: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input Strides")
    scalars: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Concrete Inputs")
    device: Any = None
    stream: Any = None
    bytes: Any = None
    grid: Any = None
    block: Any = None
    registers: Any = msgspec.field(default=None, name="registers per thread")
    shared_bytes: Any = msgspec.field(default=None, name="shared memory")
    occupancy_percent: Any = msgspec.field(default=None, name="est. achieved occupancy %")
    collective: Any = msgspec.field(default=None, name="Collective name")
    collective_dtype: Any = msgspec.field(default=None, name="dtype")
    in_elements: Any = msgspec.field(default=None, name="In msg nelems")
    out_elements: Any = msgspec.field(default=None, name="Out msg nelems")
    group: Any = msgspec.field(default=None, name="Process Group Name")
    group_size: Any = msgspec.field(default=None, name="Group size")


NO_ARGS = Args()
_ARGS = {f.encode_name: (f.name, f.type is msgspec.Raw) for f in msgspec.structs.fields(Args)}  # slow to ask for
_TO_TEXT = json.JSONEncoder(default=str).encode


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
    """The same for absolute time stamps with a fraction, which need decimal arithmetic."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: int | str | None = None
    tid: int | str | None = None
    ts: Decimal | None = None
    dur: Decimal | None = None
    args: Args | None = None


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
    base_ns: int | None = msgspec.field(default=None, name="baseTimeNanoseconds")


class _File(Head, gc=False):
    events: list[Event] | None = msgspec.field(default=None, name="traceEvents")


class _ExactFile(Head, gc=False):
    events: list[ExactEvent] | None = msgspec.field(default=None, name="traceEvents")


@dataclass(frozen=True)
class TraceFile:
    """A decoded file: its events, and how much of it could not be kept."""

    head: Head
    events: list[Event] | list[ExactEvent]
    dropped: int  # events that could not be read
    truncated: bool  # the text broke off


def decode(path: Path) -> TraceFile:
    """The events in `path`; TraceError says what is wrong with the file where nothing of it can be kept."""
    text, truncated = _text(path)
    if not text.strip():
        raise TraceError(f"{path}: the file is empty; record it again")
    file = _decode(path, text)
    if not file.events:
        raise TraceError(f"{path}: the trace holds no events; record with torch.profiler or probe.profile")
    return replace(file, truncated=truncated or file.truncated)


def _text(path: Path) -> tuple[bytes, bool]:
    """The file's text, unzipped if need be, and whether the zipped stream broke off."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None
    if data[:2] != b"\x1f\x8b":
        return data, False
    text, whole = _unzip(data)
    if not text and not whole:
        raise TraceError(f"{path}: damaged gzip stream, nothing in it can be read; copy or record it again")
    return text, not whole


def _unzip(data: bytes) -> tuple[bytes, bool]:
    """All gzip members of `data` up to the first damage, and whether there was none."""
    parts: list[bytes] = []
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            for start in range(0, len(data), 1 << 20):
                parts.append(member.decompress(data[start : start + (1 << 20)]))
                if member.eof:
                    data = member.unused_data + data[start + (1 << 20) :]
                    break
        except zlib.error:
            return b"".join(parts), False
        if not member.eof:
            return b"".join(parts), False
        data = data.lstrip(b"\0")  # padding after the last member is legal
    return b"".join(parts), True


def _decode(path: Path, text: bytes) -> TraceFile:
    """The fast way where the text allows it, else the careful one."""
    try:
        file: Any = msgspec.json.decode(text, type=_ExactFile if _is_absolute(text) else _File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode_carefully(path, text)
    if file.events is None:
        raise TraceError(f"{path}: JSON, but no trace: it has no traceEvents")
    return TraceFile(file, file.events, dropped=0, truncated=False)


def _is_absolute(text: bytes) -> bool:
    """Whether the first time stamp has a fraction and counts from 1970."""
    first = re.search(rb'"ts":\s*(\d+)(\.\d+)', text[: 1 << 20])
    return first is not None and float(first[1]) > _ABSOLUTE_US


def _decode_carefully(path: Path, text: bytes) -> TraceFile:
    """The same, event by event, for text that the fast decoder refuses."""
    characters = text.decode("utf-8", errors="replace")
    at = _start_of_events(path, characters)
    events: list[Any] = []
    dropped = 0
    cut = True
    decoder = json.JSONDecoder(strict=False, parse_float=_exact)
    while (at := _skip(characters, at, ", \t\r\n")) < len(characters):
        if characters[at] == "]":
            cut = False
            break
        try:
            raw, at = decoder.raw_decode(characters, at)
        except (ValueError, RecursionError):
            following = _next_event(characters, at)
            dropped += 1
            if following is None:
                break
            at = following
            continue
        event = _event(raw)
        if event is None:
            dropped += 1
        else:
            events.append(event)
    if cut and not events:
        raise TraceError(f"{path}: cut or damaged at character {at}, before the first whole event; record it again")
    return TraceFile(_find_head(characters), events, dropped, truncated=cut)


def _exact(digits: str) -> Any:
    """A JSON fraction, exactly: absolute time stamps lose nanoseconds as floats."""
    return Decimal(digits) if len(digits) > 15 and "e" not in digits.lower() else float(digits)


def _start_of_events(path: Path, characters: str) -> int:
    """Index of the first event."""
    start = _skip(characters, 0, "\ufeff \t\r\n")
    if characters[start : start + 1] == "[":
        return start + 1
    key = re.search(r'"traceEvents"\s*:\s*\[', characters)
    if key is not None:
        return key.end()
    try:
        json.loads(characters)
    except ValueError as error:
        where = getattr(error, "pos", 0)
        raise TraceError(f"{path}: not JSON at character {where}, and no traceEvents before it") from None
    except RecursionError:
        raise TraceError(f"{path}: JSON nested too deeply, and no traceEvents in it") from None
    raise TraceError(f"{path}: JSON, but no trace: it has no traceEvents")


def _skip(characters: str, at: int, blanks: str) -> int:
    while at < len(characters) and characters[at] in blanks:
        at += 1
    return at


def _next_event(characters: str, at: int) -> int | None:
    """Index of the next text that looks like the start of an event after a damaged one."""
    following = re.compile(r"\{\s*\"(ph|name|cat|ts|pid|tid|args|dur)\"\s*:").search(characters, at + 1)
    return following.start() if following else None


def _event(raw: Any) -> Any:
    """An event in the exact form, or None where it is no event."""
    if not isinstance(raw, dict) or not isinstance(raw.get("name", ""), str):
        return None
    args = raw.get("args")
    return ExactEvent(
        ph=_string(raw.get("ph")),
        cat=_string(raw.get("cat")),
        name=raw.get("name", ""),
        pid=_identifier(raw.get("pid")),
        tid=_identifier(raw.get("tid")),
        ts=_number(raw.get("ts")),
        dur=_number(raw.get("dur")),
        args=_args(args) if isinstance(args, dict) else None,
    )


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _identifier(value: Any) -> int | str | None:
    return value if isinstance(value, (int, str)) else None


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
    except InvalidOperation:
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
                found[field.name] = msgspec.convert(value, field.type)
            except (ValueError, RecursionError):  # msgspec.ValidationError is a ValueError
                continue
            break
    return Head(**found)
