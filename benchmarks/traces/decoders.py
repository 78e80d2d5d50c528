"""Which way to decode a trace costs least? The same bytes, decoded in different ways, each in a fresh process.

    python -m benchmarks.traces.decoders build/traces/training_100mb.json …
    python -m benchmarks.traces.decoders --only orjson "msgspec, in pieces" FILE

Every way of reading JSON takes the start of each event it sees and adds them up, and says the sum: ways that disagree
about it have not read the same thing. For unzipping the sum is that of the lengths. A way whose package is not
installed says so. CPU seconds are of the whole process less an interpreter that only starts.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.traces.generate import compress
from benchmarks.traces.measure import Cost, machine, run

ROOT = Path(__file__).resolve().parents[2]
PIECE_BYTES = 8 << 20
BLOCK_BYTES = 1 << 20
# Where one event ends and the next begins: the closing brace, a comma, an opening brace and an event's first key.
BOUNDARY = re.compile(rb'\}\s*,\s*(?=\{\s*"(?:ph|name|cat)":)')


@dataclass(frozen=True)
class Way:
    """A way to get at a file's content, the package it needs, and whether its input is zipped."""

    name: str
    work: Callable[[Path], int]
    needs: str | None = None
    zipped: bool = False


def standard_json(path: Path) -> int:
    """Sum of starts by the standard library's decoder."""
    return sum(int(e.get("ts", 0)) for e in json.loads(path.read_bytes())["traceEvents"])


def orjson_whole(path: Path) -> int:
    """The same by orjson."""
    import orjson

    return sum(int(e.get("ts", 0)) for e in orjson.loads(path.read_bytes())["traceEvents"])


def msgspec_whole(path: Path) -> int:
    """Typed structs of the fields that an analysis needs, all at once."""
    import msgspec

    from benchmarks.traces.structs import File

    return sum(int(e.ts or 0) for e in msgspec.json.decode(path.read_bytes(), type=File).events)


def msgspec_raw(path: Path) -> int:
    """The same with the arguments left as text."""
    import msgspec

    from benchmarks.traces.structs import RawFile

    return sum(int(e.ts or 0) for e in msgspec.json.decode(path.read_bytes(), type=RawFile).events)


def msgspec_pieces(path: Path) -> int:
    """Typed structs, some megabytes of whole events at a time: only one piece's structs live at once."""
    import msgspec

    from benchmarks.traces.structs import Event

    decoder = msgspec.json.Decoder(list[Event])
    return sum(sum(int(e.ts or 0) for e in decoder.decode(piece)) for piece in pieces(path))


def simdjson_walk(path: Path) -> int:
    """pysimdjson's tape, walked event by event; only what is asked for becomes an object."""
    import simdjson

    document: Any = simdjson.Parser().parse(path.read_bytes())
    return sum(int(event.get("ts", 0)) for event in document["traceEvents"])


def simdjson_pieces(path: Path) -> int:
    """The same, some megabytes at a time."""
    import simdjson

    parser = simdjson.Parser()
    total = 0
    for piece in pieces(path):
        events: Any = parser.parse(piece)
        total += sum(int(event.get("ts", 0)) for event in events)
        del events  # the parser refuses to be used again while its last document lives
    return total


def numpy_scan(path: Path) -> int:
    """A scan of the bytes for one key, no decoding: where a vectorised reader begins. Finds keys in names, too."""
    import numpy as np

    text = np.memmap(path, np.uint8, "r")
    total = 0
    for at in range(0, len(text), PIECE_BYTES):
        part = np.array(text[at : at + PIECE_BYTES + 32])  # a number that begins in a piece may end in the next
        hits = np.flatnonzero((part[:-7] == ord('"')) & (part[1:-6] == ord("t")) & (part[2:-5] == ord("s")))
        hits = hits[(part[hits + 3] == ord('"')) & (part[hits + 4] == ord(":")) & (hits < PIECE_BYTES)]
        total += int(_numbers(part, hits + 5 + (part[hits + 5] == ord(" "))).sum())
    return total


def _numbers(part: Any, at: Any) -> Any:
    """The whole numbers that begin at the given places, int64 [n]."""
    import numpy as np

    values, going = np.zeros(len(at), np.int64), np.ones(len(at), bool)
    for place in range(20):
        digits = part[np.minimum(at + place, len(part) - 1)].astype(np.int64) - ord("0")
        going &= (digits >= 0) & (digits <= 9)
        if not going.any():
            break
        values = np.where(going, values * 10 + digits, values)
    return values


def pieces(path: Path) -> Iterator[bytes]:
    """JSON arrays of whole events, in order; one piece is in memory at a time."""
    with path.open("rb") as file:
        text = file.read(PIECE_BYTES)
        opening = re.search(rb'"traceEvents":\s*\[', text)
        assert opening is not None, f"{path}: no traceEvents at its start"
        text = text[opening.end() :]
        while block := file.read(PIECE_BYTES):
            text += block
            *_, last = BOUNDARY.finditer(text, max(0, len(text) - (1 << 16)))
            yield b"[" + text[: last.start() + 1] + b"]"
            text = text[last.end() :]
        yield b"[" + text[: _end_of_events(text)] + b"]"


def _end_of_events(text: bytes) -> int:
    """Where the last event ends; at the end of a file there is more after it."""
    start = max((boundary.end() for boundary in BOUNDARY.finditer(text)), default=0)
    rest = text[start:].decode()
    blank = len(rest) - len(rest.lstrip())
    return start + len(rest[: json.JSONDecoder().raw_decode(rest, blank)[1]].encode())


def unzip_zlib(path: Path) -> int:
    """Unzip in blocks, standard library."""
    import zlib

    return _unzip(zlib.decompressobj(wbits=31), path)


def unzip_isal(path: Path) -> int:
    """Unzip in blocks, ISA-L."""
    from isal import isal_zlib

    return _unzip(isal_zlib.decompressobj(wbits=31), path)


def _unzip(stream: Any, path: Path) -> int:
    with path.open("rb") as file:
        return sum(len(stream.decompress(block)) for block in iter(lambda: file.read(BLOCK_BYTES), b""))


def unzip_isal_threads(path: Path) -> int:
    """ISA-L in a thread of its own, as a reader that decodes meanwhile would use it."""
    from isal import igzip_threaded

    opened: Any = igzip_threaded.open  # it has no types
    with opened(path, "rb", threads=1) as file:
        return sum(len(block) for block in iter(lambda: file.read(BLOCK_BYTES), b""))


def unzip_rapidgzip(path: Path) -> int:
    """rapidgzip on all cores."""
    import rapidgzip  # type: ignore[import-not-found]  # optional, no types

    with rapidgzip.open(str(path), parallelization=0) as file:
        return sum(len(block) for block in iter(lambda: file.read(BLOCK_BYTES), b""))


def unzip_indexed(path: Path) -> int:
    """indexed_gzip, which can jump later; the first pass makes its index."""
    import indexed_gzip  # type: ignore[import-untyped]  # optional, no types

    with indexed_gzip.open(str(path)) as file:
        return sum(len(block) for block in iter(lambda: file.read(BLOCK_BYTES), b""))


WAYS = (
    Way("json", standard_json),
    Way("orjson, whole", orjson_whole, "orjson"),
    Way("msgspec typed, whole", msgspec_whole, "msgspec"),
    Way("msgspec typed, args as text", msgspec_raw, "msgspec"),
    Way("msgspec typed, in pieces", msgspec_pieces, "msgspec"),
    Way("pysimdjson, whole", simdjson_walk, "simdjson"),
    Way("pysimdjson, in pieces", simdjson_pieces, "simdjson"),
    Way("numpy scan for one key", numpy_scan, "numpy"),
    Way("unzip: zlib", unzip_zlib, zipped=True),
    Way("unzip: isal", unzip_isal, "isal", zipped=True),
    Way("unzip: isal, own thread", unzip_isal_threads, "isal", zipped=True),
    Way("unzip: rapidgzip", unzip_rapidgzip, "rapidgzip", zipped=True),
    Way("unzip: indexed_gzip", unzip_indexed, "indexed_gzip", zipped=True),
)


def measured(way: Way, path: Path) -> tuple[Cost, int | None]:
    """What a way costs, and the sum it found."""
    source = compress(path) if way.zipped else path
    cost = run(
        [sys.executable, "-m", "benchmarks.traces.decoders", "--child", way.name, source], {"PYTHONPATH": str(ROOT)}
    )
    return cost, int(cost.stages["sum"]) if "sum" in cost.stages else None


def child(name: str, path: Path) -> None:
    """Decode in this process, the garbage collector off as probe's reader has it."""
    gc.disable()
    way = next(way for way in WAYS if way.name == name)
    print(json.dumps({"stages": {"sum": way.work(path) % 2**64}}))  # numpy's sums wrap


def table(path: Path, wanted: list[str]) -> list[dict[str, Any]]:
    """Measure and print all ways on one file."""
    start_s = run([sys.executable, "-c", "pass"]).cpu_s
    print(f"\n{path.name}, {path.stat().st_size / 1e6:.0f} MB")
    print(f"{'':30}{'CPU s':>9}{'wall s':>9}{'peak MB':>9}{'MB/CPU s':>10}   sum")
    rows = []
    for way in WAYS:
        if wanted and not any(word in way.name for word in wanted):
            continue
        if way.needs is not None and importlib.util.find_spec(way.needs) is None:
            print(f"{way.name:30}{way.needs} is not installed")
            continue
        cost, found = measured(way, path)
        rows.append({"way": way.name, "file": path.name, "bytes": path.stat().st_size, "sum": found, **asdict(cost)})
        if cost.error is not None:
            print(f"{way.name:30}cannot: {cost.error[:100]}")
            continue
        own_s = max(cost.cpu_s - start_s, 1e-3)
        figures = f"{own_s:9.2f}{cost.wall_s:9.2f}{cost.peak_bytes / 1e6:9.0f}{path.stat().st_size / 1e6 / own_s:10.0f}"
        print(f"{way.name:30}{figures}   {found}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="ways whose name holds it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.files[0])
        return
    rows = [row for path in asked.files for row in table(path, asked.only)]
    if not asked.only:
        kept = ROOT / "benchmarks" / "results" / "traces_decoders.json"
        kept.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
