"""Make traces of any size from a real one: its events again and again, later in time and with numbers of their own.

    python -m benchmarks.traces.generate training 1GB build/traces/training_1gb.json
    python -m benchmarks.traces.generate stacks 100MB build/traces/stacks_100mb.json.gz
    python -m benchmarks.traces.generate ranks 64 20MB build/traces/ranks

`training` repeats an A100 rank's training steps with NCCL (2022), `stacks` an H100 inference with Python functions,
shapes and memory events (2025); a path takes any other trace. The profiler's own text stays as it is: only the digits
of time stamps, ids and step numbers are replaced, so layout, order of keys and field widths are those of a real file.
Sizes come out in whole steps. The real traces lie in the folder that PROBE_TEST_TRACES names.

What repetition flatters: names and shapes recur, so that interning them and gzip look better than on a fresh trace.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

SOURCES = {"training": "a100_training_rank3.json.gz", "stacks": "h100_qwen_0.5b_chat.json.gz"}
FAMILIES = {
    "time": ("ts",),
    "link": ("External id", "correlation", "id"),  # one family: in 2022 device work's External id is its correlation
    "index": ("Ev Idx", "Profiler Event Index"),
    "record": ("Record function id",),
    "sequence": ("Sequence number",),
    "python": ("Python id", "Python parent id"),
    "collective": ("Seq",),
    "step": ("ProfilerStep#",),
}
_FAMILY = {key.encode(): number for number, keys in enumerate(FAMILIES.values()) for key in keys}
_TIME, _STEP = list(FAMILIES).index("time"), list(FAMILIES).index("step")
_NUMBER = re.compile(
    rb'"(' + b"|".join(key for key in _FAMILY if not key.endswith(b"#")) + rb')":\s*(\d+)|"(ProfilerStep#)(\d+)"'
)
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Text:
    """Text of events cut at the numbers that differ between copies: pieces [n + 1], values [n], families [n]."""

    pieces: tuple[bytes, ...]
    values: npt.NDArray[np.int64]
    families: npt.NDArray[np.int64]

    @classmethod
    def cut(cls, text: bytes) -> Text:
        """Find the numbers in `text`."""
        pieces, values, families, at = [], [], [], 0
        for match in _NUMBER.finditer(text):
            group = 2 if match[1] else 4
            pieces.append(text[at : match.start(group)])
            at = match.end(group)
            values.append(int(match[group]))
            families.append(_FAMILY[match[group - 1]])
        return cls((*pieces, text[at:]), np.array(values, np.int64), np.array(families, np.int64))

    def moved(self, offsets: npt.NDArray[np.int64]) -> bytes:
        """The text with each number raised by its family's offset; 0, which means "not recorded", stays."""
        raised = self.values + np.where((self.values > 0) | (self.families == _TIME), offsets[self.families], 0)
        digits = [b"%d" % value for value in raised.tolist()]
        return b"".join(chain.from_iterable(zip(self.pieces, [*digits, b""], strict=True)))


@dataclass(frozen=True)
class Model:
    """A trace's text in parts: what precedes the events, the events, the profiler's closing events and the rest."""

    head: bytes  # up to the first event
    body: bytes  # events, as they are repeated
    tail: bytes  # process names and the marks of the recording, then what follows the events
    separator: bytes  # between events, without the braces

    @cached_property
    def text(self) -> Text:
        """All events, cut once."""
        return Text.cut(self.body)

    @cached_property
    def period_us(self) -> int:
        """Microseconds from the first start to past the last end."""
        spans = re.findall(rb'"ts":\s*(\d+)[.\d]*,\s*"dur":\s*(\d+)', self.body)
        return max(int(ts) + int(dur) for ts, dur in spans) + 2 - min(int(ts) for ts, _ in spans)

    @cached_property
    def strides(self) -> npt.NDArray[np.int64]:
        """By how much each family's numbers rise from one copy to the next, [families]."""
        strides = np.zeros(len(FAMILIES), np.int64)
        for family in range(len(FAMILIES)):
            numbers = self.text.values[(self.text.families == family) & (self.text.values > 0)]
            strides[family] = numbers.max() - numbers.min() + 1 if len(numbers) else 0
        strides[_TIME] = self.period_us
        return strides

    @cached_property
    def beginnings(self) -> tuple[bytes, ...]:
        """The events up to the start of the second step, of the third, and so on: shorter bodies, shortest first."""
        starts: dict[bytes, int] = {}
        for number, ts in re.findall(rb'"ProfilerStep#(\d+)"[^{}]*?"ts":\s*(\d+)', self.body):
            starts[number] = min(int(ts), starts.get(number, int(ts)))
        return tuple(self.before(ts) for ts in sorted(starts.values())[1:])

    def before(self, ts_us: int) -> bytes:
        """The events that start before `ts_us`."""
        joint = b"}" + self.separator + b"{"
        events = self.body[1:-1].split(joint)
        kept = [e for e in events if int(cast(re.Match[bytes], re.search(rb'"ts":\s*(\d+)', e))[1]) < ts_us]
        return b"{" + joint.join(kept) + b"}"


def find(source: str) -> Path:
    """The file of a named source, or the path itself."""
    if source not in SOURCES:
        return Path(source)
    folder = os.environ.get("PROBE_TEST_TRACES")
    if not folder:
        sys.exit("PROBE_TEST_TRACES does not name the folder of real traces; set it, or give the path of a trace")
    return Path(folder) / SOURCES[source]


def model(path: Path) -> Model:
    """The parts of a real trace."""
    data = path.read_bytes()
    text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    opening = re.search(rb'"traceEvents":\s*\[(\s*)\{', text)
    if opening is None:
        sys.exit(f"{path}: no traceEvents in it; give a trace of torch.profiler")
    separator = b"," + opening[1]
    closing = re.search(rb'"ph":\s*"M"', text)
    last = text.rindex(b"}" + separator + b"{", 0, closing.start() if closing else len(text)) + 1
    return Model(text[: opening.end() - 1], text[opening.end() - 1 : last], text[last:], separator)


def copies(trace: Model, size: int) -> list[Text]:
    """Whole bodies, and a beginning of one, that together come nearest to `size` bytes."""
    whole, rest = divmod(size, len(trace.body))
    bodies = sorted([b"", *trace.beginnings, trace.body], key=len)
    last = min(bodies, key=lambda body: abs(len(body) - rest))
    if not whole and not last:
        last = bodies[1]
    return [trace.text] * whole + ([Text.cut(last)] if last else [])


def chunks(trace: Model, size: int, late_us: int = 0, mark: Callable[[bytes], bytes] = bytes) -> Iterator[bytes]:
    """The text of a trace of about `size` bytes, one copy in memory at a time.

    late_us: by how much all its clocks run late. mark: changes what stands around the events.
    """
    texts = copies(trace, size)
    late = np.zeros(len(FAMILIES), np.int64)
    late[_TIME] = late_us
    yield mark(trace.head)
    for number, text in enumerate(texts):
        yield (trace.separator if number else b"") + text.moved(number * trace.strides + late)
    yield mark(stretched(Text.cut(trace.tail).moved(late), (len(texts) - 1) * trace.period_us))


def stretched(tail: bytes, by_us: int) -> bytes:
    """The closing events of a recording that lasted `by_us` longer."""
    for mark in (rb'"Record Window End"[^{}]*?"ts":\s*', rb'"cat":\s*"Trace"[^{}]*?"dur":\s*'):
        tail = re.sub(b"(" + mark + rb")(\d+)", lambda m: m[1] + b"%d" % (int(m[2]) + by_us), tail)
    return tail


def write(parts: Iterator[bytes], path: Path) -> None:
    """Write the parts to `path`, gzipped where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as plain:
        if path.suffix != ".gz":
            plain.writelines(parts)
            return
        with gzip.GzipFile(fileobj=plain, mode="wb", compresslevel=6) as zipped:
            zipped.writelines(parts)


def compress(path: Path) -> Path:
    """The same text gzipped beside `path`, made where it is not there yet."""
    zipped = path.with_name(path.name + ".gz")
    if not zipped.exists():
        with path.open("rb") as plain, gzip.open(zipped, "wb", compresslevel=6) as file:
            shutil.copyfileobj(plain, file, 1 << 20)
    return zipped


def of_rank(part: bytes, rank: int, ranks: int) -> bytes:
    """Text around the events that says which rank of how many wrote it."""
    for key, value in ((b"rank", rank), (b"world_size", ranks)):
        part = re.sub(rb'("distributedInfo":[^}]*?"' + key + rb'":\s*)\d+', rb"\g<1>%d" % value, part)
    return part


def write_ranks(trace: Model, ranks: int, size: int, folder: Path, suffix: str = ".json") -> None:
    """Files of about `size` bytes, one a rank of the same job; their clocks differ by up to 2 ms."""
    if b'"distributedInfo"' not in trace.head + trace.tail:
        sys.exit("the source has no distributedInfo, so no rank to change; take a trace of a distributed job")
    for rank in range(ranks):
        late_us = rank * 997 % 2000  # 997: coprime to 2000, so that neighbours differ much
        parts = chunks(trace, size, late_us, partial(of_rank, rank=rank, ranks=ranks))
        write(parts, folder / f"rank{rank}{suffix}")


def bytes_of(text: str) -> int:
    """Bytes of "20MB", "1.5 GB", "4096" (decimal units)."""
    match = re.fullmatch(r"([\d.]+)\s*([KMG]B)?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text}: not a size; write 20MB or 1GB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name in (*SOURCES, "file", "ranks"):
        kind = kinds.add_parser(name)
        if name in ("file", "ranks"):
            kind.add_argument("--source", default="training", help="a name or the path of a trace")
        if name == "ranks":
            kind.add_argument("ranks", type=int)
            kind.add_argument("--gz", action="store_true", help="write .json.gz instead of .json")
        kind.add_argument("size", type=bytes_of, help="10MB … 4GB")
        kind.add_argument("path", type=Path)
    asked = parser.parse_args()
    trace = model(find(getattr(asked, "source", asked.kind)))
    if asked.kind == "ranks":
        write_ranks(trace, asked.ranks, asked.size, asked.path, ".json.gz" if asked.gz else ".json")
    else:
        write(chunks(trace, asked.size), asked.path)


if __name__ == "__main__":
    main()
