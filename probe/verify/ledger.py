"""What became of replacements that were tried before: kept with the run, and for all runs in the user's cache.

One JSON file each. Whoever writes reads it again first, under a lock: two runs at once both keep what they found.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from probe.files import cache_directory, write_atomically
from probe.results.findings import Finding, Verified
from probe.schema import to_jsonable
from probe.sites import AttentionSite, LoopSite, OptimizerSite, Site
from probe.units import significant

SCHEMA = "probe.verified/1"
NAME = "verified.json"
NEAR = 2.0  # sizes up to this factor apart are near
MOST = 5000  # entries that the user's ledger keeps, the latest


@dataclass(frozen=True)
class Entry:
    """One verdict: on which device, type and sizes which replacement of which rule was tried."""

    finding: str  # its id
    code: str
    dtype: str
    elements: int  # of the largest tensor
    dims: tuple[int, ...]  # its sizes
    operators: str  # what was replaced, in short
    verified: Verified
    predicted_s: float | None  # saving per step that the rule stated
    torch: str
    at: str  # when, ISO 8601 in UTC


@dataclass(frozen=True)
class _File:
    schema: str
    entries: tuple[Entry, ...]


def entries(finding: Finding, site: Site, verdicts: Iterable[Verified], torch_version: str) -> Iterator[Entry]:
    """The verdicts on one finding as they are kept; those on the user's own kernels too."""
    dtype, dims, operators = _described(site)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for verified in verdicts:
        yield Entry(
            finding.id, finding.code, dtype, math.prod(dims), dims, operators, verified, finding.saving_s,
            torch_version, now,
        )  # fmt: skip


def _described(site: Site) -> tuple[str, tuple[int, ...], str]:
    """Type and sizes of the largest tensor, and the operators in short."""
    if isinstance(site, AttentionSite):
        return site.dtype, (*site.query[:-1], site.key[-2]), f"attention, mask {site.mask}"
    if isinstance(site, OptimizerSite):
        return site.dtype, (sum(map(math.prod, site.parameters)),), f"{site.kind}, {len(site.parameters)} parameters"
    if isinstance(site, LoopSite):
        return site.dtype, (sum(map(math.prod, site.tensors)),), f"a loop over {len(site.tensors)} tensors"
    plain = [
        (dims, dtype)
        for step in site.steps
        for dims, dtype in zip(step.signature.dims, step.signature.dtypes, strict=False)
        if dims and all(isinstance(n, int) for n in dims)
    ]
    dims, dtype = max(plain, key=lambda pair: math.prod(pair[0]), default=((), ""))
    names = " ".join(step.name.removeprefix("aten::") for step in site.steps)
    return dtype, dims, names


def user_file() -> Path:
    """The ledger of all runs of this user."""
    return cache_directory() / NAME


def read(path: Path) -> tuple[Entry, ...]:
    """The entries of a ledger; none where there is no file, or one that this version cannot read."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError):  # also what does not fit the type
        return ()
    return found.entries if found.schema == SCHEMA else ()


def keep(path: Path, new: Sequence[Entry]) -> str | None:
    """Add the entries; each replaces an earlier one of the same trial, unless that decided something and it does not.

    The sentence to warn with where it failed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            trials = {_trial(entry): entry for entry in read(path)}
            trials |= {_trial(entry): entry for entry in new if not _says_less(entry, trials.get(_trial(entry)))}
            content = _File(SCHEMA, tuple(sorted(trials.values(), key=lambda entry: entry.at)[-MOST:]))
            write_atomically(path, (json.dumps(to_jsonable(content), indent=1, allow_nan=False) + "\n").encode())
    except OSError as failed:
        return f"the verdicts could not be kept in {path}: {failed.strerror or failed}"
    return None


def _trial(entry: Entry) -> tuple[object, ...]:
    """What makes two entries the same trial."""
    return (
        entry.finding, entry.code, entry.dtype, entry.dims, entry.operators, entry.verified.device,
        entry.verified.candidate,
    )  # fmt: skip


def _says_less(entry: Entry, known: Entry | None) -> bool:
    """Whether nothing was found out where something is known already."""
    return known is not None and entry.verified.verdict == "inconclusive" != known.verified.verdict


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time; the lock goes with the process."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        if sys.platform != "win32":  # which has no such call: there the last writer wins
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def recalled(finding: Finding, kept: Sequence[Entry]) -> Finding:
    """The finding with the verdicts that its own run's ledger holds, the best first."""
    mine = [entry.verified for entry in kept if entry.finding == finding.id]
    if finding.verified is not None or not mine:
        return finding
    order = ("accept", "trade", "inconclusive", "reject")
    mine.sort(key=lambda verified: (order.index(verified.verdict), -(verified.speedup or 0.0)))
    return replace(finding, verified=mine[0], alternatives=tuple(mine[1:]))


def with_precedents(finding: Finding, site: Site, kept: Sequence[Entry], device: str) -> Finding:
    """The finding with what was measured for its rule on this device at near sizes, as evidence."""
    dtype, dims, operators = _described(site)
    near = [
        e for e in kept if _near(e, finding.code, dtype, math.prod(dims), operators) and e.verified.device == device
    ]
    told = tuple(_told(entry) for entry in _best(near))
    return replace(finding, evidence=(*finding.evidence, *told)) if told else finding


def _near(entry: Entry, code: str, dtype: str, elements: int, operators: str) -> bool:
    same = entry.code == code and entry.dtype == dtype and entry.operators == operators
    ratio = max(entry.elements, 1) / max(elements, 1)
    return same and entry.verified.speedup is not None and 1 / NEAR <= ratio <= NEAR


def _best(near: Sequence[Entry]) -> list[Entry]:
    """Of the latest verdicts of each candidate, the fastest one that is right."""
    good = [entry for entry in near if entry.verified.verdict in ("accept", "trade")] or list(near)
    return sorted(good, key=lambda entry: -(entry.verified.speedup or 0.0))[:1]


def _told(entry: Entry) -> str:
    """measured before on this device: torch.compile 2.98× [2.71, 3.12] at [4096, 1024], accept."""
    verified = entry.verified
    low, high = verified.interval or (math.nan, math.nan)
    ratio = f"{significant(verified.speedup or 0.0)}× [{significant(low)}, {significant(high)}]"
    name = verified.candidate or "a replacement"
    return f"measured before on this device: {name} {ratio} at {list(entry.dims)}, {verified.verdict}"
