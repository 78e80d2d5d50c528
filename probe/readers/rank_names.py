"""What do the names of trace files say? Their rank, the process that wrote them, whether they are traces at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from probe.units import runs_text, spans_text

SUFFIXES = (".json", ".json.gz")
_TEMPORARY = ("~", ".tmp", ".part", ".partial", ".crdownload", ".swp", ".lock")
_RANK = re.compile(r"(?:(?P<kind>[a-z]+)[-_. ]?)?rank[-_=. ]?(?P<rank>\d+)", re.IGNORECASE)
_SHORT = re.compile(r"(?<![a-z0-9])r(?P<rank>\d+)(?![a-z0-9])", re.IGNORECASE)
_OF_A_PART = frozenset("local node group tp pp dp cp ep sp mp tensor pipeline data expert".split())  # of a rank's place
_MOST_DIGITS = 6  # a longer number is a time or a process, not a rank
_MOST_RUNS = 12  # of numbers in a message
_HANDLER = re.compile(r"(?P<worker>.+)\.(?P<time>\d{10,20})\.pt\.trace\.json(\.gz)?")  # tensorboard_trace_handler
_ITERATION = re.compile(r"(?:iteration|iter|step|epoch|cycle)[-_=]?(?P<number>\d+)", re.IGNORECASE)


def is_trace(name: str) -> bool:
    """Whether a file of this name may be a trace of torch.profiler."""
    return name.lower().endswith(SUFFIXES)


def is_passing(name: str) -> bool:
    """Whether a file or directory of this name is hidden, or on its way to another name."""
    return name.startswith(".") or name.lower().endswith(_TEMPORARY)


def handler(name: str) -> tuple[str, int] | None:
    """Process and time in the name that torch.profiler.tensorboard_trace_handler gives; None for other names."""
    match = _HANDLER.fullmatch(name)
    return (match["worker"], int(match["time"])) if match else None


def rank_of(parts: Sequence[str]) -> int | None:
    """The global rank that a relative path says, in its file name before its directories; None where it says none."""
    *folders, name = parts
    written = handler(name)
    stem = written[0] if written else _stem(name)
    bare = int(stem) if stem.isdecimal() and len(stem) <= _MOST_DIGITS else None
    above = folders[::-1]  # the nearest first
    said = (_rank_in(stem), *(_spelt_out(f) for f in above), bare, *(_rank_in(f) for f in above))
    return next((rank for rank in said if rank is not None), None)


def iteration_of(directory: str) -> int | None:
    """The number of the iteration or step whose traces a directory of this name holds."""
    match = _ITERATION.fullmatch(directory)
    return int(match["number"]) if match else None


def natural(path: str) -> list[str | int]:
    """A key that sorts rank10 after rank9."""
    return [int(token) if token.isdecimal() else token for token in re.split(r"(\d+)", path)]


def numbers(ranks: Iterable[int]) -> str:
    """Sorted numbers for people: 0–3, 5, 7–8."""
    return runs_text(ranks, _MOST_RUNS)


def gaps(ranks: Iterable[int], size: int) -> tuple[int, str]:
    """How many of the ranks below `size` are not among `ranks`, and which: 2–3, 5. A wrong `size` may be huge."""
    have = [-1, *sorted(rank for rank in set(ranks) if rank < size), size]
    runs = [(before + 1, after - 1) for before, after in pairwise(have) if after > before + 1]
    return sum(last - first + 1 for first, last in runs), spans_text(runs, _MOST_RUNS)


def _stem(name: str) -> str:
    return re.sub(r"(\.pt)?(\.trace)?(\.json)?(\.gz)?$", "", name, flags=re.IGNORECASE)


def _rank_in(text: str) -> int | None:
    """rank7 or r7."""
    spelt_out, short = _spelt_out(text), _SHORT.search(text)
    if spelt_out is None and short is not None and len(short["rank"]) <= _MOST_DIGITS:
        return int(short["rank"])
    return spelt_out


def _spelt_out(text: str) -> int | None:
    for match in _RANK.finditer(text):
        if (match["kind"] or "").lower() not in _OF_A_PART and len(match["rank"]) <= _MOST_DIGITS:
            return int(match["rank"])
    return None
