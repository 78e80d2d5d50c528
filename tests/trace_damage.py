"""Texts of traces that are damaged or odd: each is made from a seed, so that a case can be made again by its number."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

_VALUE = re.compile(rb'("[^"\\\n]{1,40}"\s*:\s*)("(?:[^"\\]|\\.)*"|-?[\d.eE+-]+|true|false|null|\[\s*\]|\{\s*\})')
_NUMBER = re.compile(rb"(?<=[:\s\[,])-?\d+(\.\d+)?")
_EVENT = re.compile(rb'\{\s*"(?:ph|name)"\s*:')
_DEEP = 100_000

ODD_VALUES = (
    b"null", b"true", b"[]", b"{}", b'""', b'"x"', b"0", b"-1", b"1.5", b'"7"', b"[1]", b'{"a": 1}', b"[[[]]]",
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e-400", b"1e308", b"0.1e999999999", b'"NaN"', b'"inf"',
    b'"1e999999"', b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616",
    b"123456789012345678901234567890", b"4611686018427387904", b"-4.6e15", b"4.6e15", b"1e15", b"9" * 5000,
    b"0." + b"3" * 400, b"1700000000000000.125", b"1.0000000000000000001", b"-0.0", b"1E3", b"2.5e-3",
    b"N/A", b"-", b"01", b"+1", b".5", b"1.", b"nul", b"0x10", b"'x'", b"undefined",
    b'"a"b"', b'"C:\\q\\x"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u12"', b'"\x01\n\t"', b'"\xff\xfe"',
    b'"\xed\xa0\x80"', b'"\\u0000"', b'"\xf0\x9f\x98\x80"', b'"[0, 1, ...]"', b'"],\\"x\\": [{"', b'"ProfilerStep#1"',
    b'"ProfilerStep#99999999999999999999"', b'"ProfilerStep#\xd9\xa3"',
    b'[{"ph": "X"}, {"ph": "X", "name": "inner", "cat": "cpu_op", "ts": 1, "dur": 1}]',
    b'{"name": "python", "ph": "X"}', b'{"traceEvents": [{"ph": "X"}]}', b"[" * 900 + b"]" * 900,
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A short piece of a real trace: the profiler's own text of some events, and what stands around them."""

    before: bytes
    events: tuple[bytes, ...]
    after: bytes

    def text(self, most: int | None = None) -> bytes:
        """The whole file, of the first `most` events where that is given."""
        return self.before + b",\n  ".join(self.events[:most]) + self.after


def sample(path: Path, rng: Random, most: int = 60) -> Sample:
    """Up to `most` events that follow each other somewhere in a real trace; its longest texts are left out."""
    characters = gzip.decompress(path.read_bytes()).decode()
    first = characters.index("[", characters.index('"traceEvents"')) + 1
    events, end = _events(characters, first, rng)
    begin = rng.randrange(max(len(events) - most, 1))
    chosen = [e for e in events[begin : begin + most] if len(e) < 3000]
    return Sample(
        characters[:first].encode(), tuple(e.encode() for e in chosen or events[:1]), characters[end:].encode()
    )


def _events(characters: str, at: int, rng: Random) -> tuple[list[str], int]:
    """The texts of the events, and where their list closes."""
    decoder = json.JSONDecoder()
    events: list[str] = []
    while True:
        at = re.compile(r"[\s,]*").match(characters, at).end()  # type: ignore[union-attr]
        if characters[at] == "]":
            return events, at
        end = decoder.raw_decode(characters, at)[1]
        events.append(characters[at:end])
        at = end


def samples(paths: list[Path], seed: int, each: int = 2, most: int = 60) -> Iterator[Sample]:
    """Some pieces of each trace."""
    for path in paths:
        for number in range(each):
            yield sample(path, Random(f"{seed} {path.name} {number}"), most)


def layouts(document: object) -> Iterator[tuple[str, bytes]]:
    """The same JSON as different writers lay it out, with a name for each."""
    for name, text in (
        ("default", json.dumps(document)),
        ("tight", json.dumps(document, separators=(",", ":"))),
        ("sorted", json.dumps(document, sort_keys=True)),
        ("pretty", json.dumps(document, indent=4)),
        ("tabs", json.dumps(document, indent="\t", ensure_ascii=False)),
    ):
        yield name, text.encode(errors="surrogatepass")
    pretty = json.dumps(document, indent=1).encode()
    yield "crlf", pretty.replace(b"\n", b"\r\n")
    yield "bom", b"\xef\xbb\xbf" + pretty
    yield "blanks around", b" \r\n\t" + pretty + b"\n\n  "


def _place(rng: Random, text: bytes) -> int:
    return rng.randrange(len(text) + 1)


def _cut(rng: Random, text: bytes) -> bytes:
    return text[: _place(rng, text)]


def _cut_front(rng: Random, text: bytes) -> bytes:
    return text[_place(rng, text[:400]) :]


def _flip_bit(rng: Random, text: bytes) -> bytes:
    at = _place(rng, text[1:])
    return text[:at] + bytes([text[at] ^ 1 << rng.randrange(8)]) + text[at + 1 :] if text else text


def _set_byte(rng: Random, text: bytes) -> bytes:
    at = _place(rng, text)
    return text[:at] + bytes([rng.choice(b'"\\{}[],:\0\n\xff 0-eN')]) + text[at + 1 :]


def _insert(rng: Random, text: bytes) -> bytes:
    at = _place(rng, text)
    return (
        text[:at]
        + rng.choice((b'"', b"\\", b"{", b"}", b"[", b"]", b",", b",,", b":", b"\0", b"\xff", b"]}"))
        + text[at:]
    )


def _delete(rng: Random, text: bytes) -> bytes:
    at = _place(rng, text)
    return text[:at] + text[at + rng.choice((1, 2, 10, 300)) :]


def _repeat(rng: Random, text: bytes) -> bytes:
    at = _place(rng, text)
    return text[:at] + text[at : at + rng.choice((1, 5, 60, 700))] * rng.choice((1, 1, 3)) + text[at:]


def _blank(rng: Random, text: bytes) -> bytes:
    """A hole of zeros, as a disk that was full leaves them."""
    at, size = _place(rng, text), rng.choice((16, 512))
    return text[:at] + bytes(min(size, len(text) - at)) + text[at + size :]


def _move(rng: Random, text: bytes) -> bytes:
    """Two stretches in exchanged order."""
    a, b, c = sorted(_place(rng, text) for _ in range(3))
    return text[:a] + text[b:c] + text[a:b] + text[c:]


def _events_shuffled(rng: Random, text: bytes) -> bytes:
    """Whole events in another order, some left out, some twice."""
    starts = [m.start() for m in _EVENT.finditer(text)]
    if len(starts) < 3:
        return text
    parts = [text[a:b] for a, b in pairwise(starts)]
    chosen = [rng.choice(parts) for _ in parts]
    return text[: starts[0]] + b"".join(chosen) + text[starts[-1] :]


def _odd_value(rng: Random, text: bytes) -> bytes:
    found = list(_VALUE.finditer(text))
    if not found:
        return text
    chosen = rng.choice(found)
    return text[: chosen.start(2)] + rng.choice(ODD_VALUES) + text[chosen.end(2) :]


def _odd_number(rng: Random, text: bytes) -> bytes:
    found = list(_NUMBER.finditer(text))
    if not found:
        return text
    chosen = rng.choice(found)
    return text[: chosen.start()] + rng.choice(ODD_VALUES) + text[chosen.end() :]


def _same_key_everywhere(rng: Random, text: bytes) -> bytes:
    """One field odd in all events."""
    key = rng.choice((b"ph", b"cat", b"name", b"pid", b"tid", b"ts", b"dur", b"External id", b"correlation", b"args"))
    odd = rng.choice(ODD_VALUES)
    return re.sub(rb'("%s"\s*:\s*)("(?:[^"\\]|\\.)*"|-?[\d.]+)' % key, lambda m: m[1] + odd, text)


def _deep(rng: Random, text: bytes) -> bytes:
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'{"name":', b"}"), (b'[{"ph":', b"}]")))
    depth = rng.choice((100, 1100, _DEEP))
    value = opening * depth + rng.choice((b"1" + closing * depth, b"1", b""))
    found = list(_VALUE.finditer(text))
    if not found:
        return value
    chosen = rng.choice(found)
    return text[: chosen.start(2)] + value + text[chosen.end(2) :]


def _key_twice(rng: Random, text: bytes) -> bytes:
    found = list(_VALUE.finditer(text))
    if not found:
        return text
    chosen = rng.choice(found)
    return text[: chosen.start()] + chosen[1] + rng.choice(ODD_VALUES) + b", " + text[chosen.start() :]


def _key_renamed(rng: Random, text: bytes) -> bytes:
    """An event that begins with another key, or lacks one."""
    found = list(_VALUE.finditer(text))
    if not found:
        return text
    chosen = rng.choice(found)
    return text[: chosen.start()] + b'"\xc3\xa9":' + text[chosen.start(2) :]


def _odd_entry(rng: Random, text: bytes) -> bytes:
    """Something that is no event between two events."""
    starts = [m.start() for m in _EVENT.finditer(text)]
    if not starts:
        return text
    at = rng.choice(starts)
    return text[:at] + rng.choice((b"", *ODD_VALUES)) + b", " + text[at:]


def _commas(rng: Random, text: bytes) -> bytes:
    """Commas too many before closing brackets."""
    return re.sub(rb"\s*([}\]])", rb",\1", text) if rng.random() < 0.5 else re.sub(rb"\](?=[^\]]*$)", b",]", text)


def _twice(rng: Random, text: bytes) -> bytes:
    return text + rng.choice((b"", b"\n", b",", b"\0\0")) + text


def _crlf(rng: Random, text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def _bom(rng: Random, text: bytes) -> bytes:
    return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b" \n", b"\0")) + text


def _wrapped(rng: Random, text: bytes) -> bytes:
    """The whole document where something else is expected."""
    before, after = rng.choice(
        ((b"[", b"]"), (b'{"a": ', b"}"), (b'{"traceEvents": ', b"}"), (b'"', b'"'), (b"x", b""))
    )
    return before + text + after


MUTATIONS: tuple[Callable[[Random, bytes], bytes], ...] = (
    _cut, _cut_front, _flip_bit, _set_byte, _insert, _delete, _repeat, _blank, _move, _events_shuffled, _odd_value,
    _odd_value, _odd_number, _same_key_everywhere, _deep, _key_twice, _key_renamed, _odd_entry, _commas, _twice,
    _crlf, _bom, _wrapped,
)  # fmt: skip


def damaged(rng: Random, text: bytes) -> bytes:
    """The text after one to four mutations."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        text = rng.choice(MUTATIONS)(rng, text)
    return text


def zipped(rng: Random, text: bytes) -> bytes:
    """The text as gzip: whole, in two members, cut, or damaged."""
    whole = gzip.compress(text, 1, mtime=0)
    half = len(text) // 2
    match rng.randrange(5):
        case 0:
            return gzip.compress(text[:half], 1, mtime=0) + gzip.compress(text[half:], 1, mtime=0)
        case 1:
            return whole[: rng.randrange(1, len(whole))]
        case 2:
            return _flip_bit(rng, whole)
        case 3:
            return whole + rng.choice((bytes(100), b"garbage", whole[:20]))
        case _:
            return whole


def case(seed: int, number: int, texts: list[Sample]) -> bytes:
    """The file of one case."""
    rng = Random(f"{seed} {number}")
    text = damaged(rng, rng.choice(texts).text(rng.choice((None, 3, 20))))
    return zipped(rng, text) if rng.random() < 0.1 else text
