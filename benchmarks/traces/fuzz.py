"""Read many damaged traces: does the reader keep its promises on every one, and how much memory does it take?

    python -m benchmarks.traces.fuzz cases --number 20000
    python -m benchmarks.traces.fuzz memory

`cases` makes each file from a seed and its number (trace_damage.py of the tests), reads it under an alarm and checks
what trace_promises.py says; each tenth is analysed as well. What fails is written to build/fuzz/. `memory` reads whole
real traces of at least 5 MB, plain and damaged, each in a fresh process, and compares the peak above the interpreter
and its imports with the size of the text. The real traces are the project's own, and those in the folder that
PROBE_TEST_TRACES names.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from types import FrameType

import probe
from probe.errors import ProbeError
from probe.readers import kineto_text
from probe.trace import Trace

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "fixtures"))

import trace_damage  # noqa: E402  (the damage and the promises are those of the tests)
import trace_promises  # noqa: E402

FAILED = ROOT / "build" / "fuzz"
PIECES = (kineto_text.PIECE, 300, 5000)  # bytes decoded at once: the usual, and so few that pieces end everywhere
LIMIT_S = 20
ANALYSED = 10  # one case in so many
LEAST_BYTES = 5_000_000
READ = """
import sys
from pathlib import Path
from probe.errors import ProbeError
from probe.readers import kineto

def kilobytes(key):
    return int(Path("/proc/self/status").read_text().partition(key)[2].split()[0])

Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports
before = kilobytes("VmRSS:")
try:
    kineto.read(sys.argv[1])
except ProbeError as error:
    print(error, file=sys.stderr)
print((kilobytes("VmHWM:") - before) * 1024)
"""


class Slow(BaseException):
    """A case took too long; no code under test catches this."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Slow


def sources() -> list[Path]:
    """The zipped traces at hand."""
    folders = [ROOT / "sample_traces", *([Path(os.environ["PROBE_TEST_TRACES"])] if _has_foreign() else [])]
    return [path for folder in folders for path in sorted(folder.rglob("*.json.gz"))]


def _has_foreign() -> bool:
    return bool(os.environ.get("PROBE_TEST_TRACES"))


def run_case(path: Path, number: int, analyse: bool) -> str:
    """What became of one case: "Trace" or the name of the error; raises where a promise is broken."""
    kineto_text.PIECE = PIECES[number % len(PIECES)]
    found = trace_promises.read_or_refuse(path)
    if not isinstance(found, Trace):
        return type(found).__name__
    trace_promises.check(found)
    trace_promises.check_narrowed(path, found)
    if analyse:
        try:
            json.dumps(probe.analyze(path).to_json(), allow_nan=False)
        except ProbeError as error:
            trace_promises.check_error(error, path)
    return "Trace"


def cases(seed: int, first: int, number: int) -> int:
    """Run the cases; how many broke a promise."""
    texts = list(trace_damage.samples(sources(), seed, each=3))
    outcomes: Counter[str] = Counter()
    slowest, failed, begun = 0.0, 0, time.monotonic()
    signal.signal(signal.SIGALRM, _alarm)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.json"
        for case in range(first, first + number):
            path.write_bytes(trace_damage.case(seed, case, texts))
            since = time.monotonic()
            signal.alarm(LIMIT_S)
            try:
                outcomes[run_case(path, case, case % ANALYSED == 0)] += 1
            except (Exception, Slow) as error:
                failed += 1
                _keep(path, seed, case, error)
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.monotonic() - since)
    told = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    print(f"{number} cases of {len(texts)} texts in {time.monotonic() - begun:.0f} s, the slowest {slowest:.1f} s")
    print(f"{told}; {failed} broke a promise")
    return failed


def _keep(path: Path, seed: int, case: int, error: BaseException) -> None:
    FAILED.mkdir(parents=True, exist_ok=True)
    kept = FAILED / f"{seed}_{case}.json"
    kept.write_bytes(path.read_bytes())
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    print(f"{kept}: {type(error).__name__} {str(error)[:200]} at {place}", flush=True)


def memory() -> int:
    """Peak memory above the interpreter's own by the size of the text; how many files take more than twice."""
    beyond = 0
    for source in sources():
        for name, damaged in _variants(gzip.decompress(source.read_bytes())):
            if len(damaged) < LEAST_BYTES:
                continue
            ratio = _peak_bytes(damaged) / len(damaged)
            beyond += ratio > 2
            print(f"{ratio:5.2f} of {len(damaged) / 1e6:5.1f} MB  {source.name}  {name}", flush=True)
    print(f"{beyond} of them more than twice the text")
    return beyond


def _variants(text: bytes) -> list[tuple[str, bytes]]:
    rng = Random(1)
    flips = bytearray(text)
    for _ in range(len(text) // 10_000):
        flips[rng.randrange(len(text))] = rng.randrange(256)
    head = text.index(b"[", text.index(b'"traceEvents"')) + 1
    return [
        ("as recorded", text),
        ("a byte in 10 000 changed", bytes(flips)),
        ("cut", text[: len(text) * 9 // 10]),
        ("begins with what is no event", text[:head] + b"null," + text[head:]),
        ("keys sorted, no blanks", _sorted(text)),
        ("the last quarter no events", text[: len(text) * 3 // 4] + b"x" * (len(text) // 4)),
    ]


def _sorted(text: bytes) -> bytes:
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode()


def _peak_bytes(text: bytes) -> int:
    """Of reading the text in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([sys.executable, "-c", READ, file.name], capture_output=True, text=True, check=True)
    return int(done.stdout)


def main() -> None:
    """Exit with 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cases", "memory"])
    parser.add_argument("--number", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    broken = memory() if asked.what == "memory" else cases(asked.seed, asked.first, asked.number)
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
