"""What do the NVTX ranges of an export say: torch's operators, steps, or names that the user gave?

torch.autograd.profiler.emit_nvtx writes "aten::mm, seq = 12, op_id = 7, sizes = [[2, 3], [3, 4]], input_op_ids = …".
"""

from __future__ import annotations

import functools
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from probe.readers.events import NONE, OpEvents
from probe.readers.nsys_database import Database
from probe.trace import STEP_PREFIX, Annotations, Int64s, Signature, step_number

RANGES = "NVTX_EVENTS"
_PUSH_POP, _START_END, _DOMAIN = (59, 70), (60, 71), 75  # eventType
_FIELDS = ("start", "end", "eventType", "text", "textId", "globalTid", "domainId")

_EMITTED = re.compile(r", (?:seq|op_id|sizes) = ")
_DETAILS = re.compile(
    r"(?:, seq = (?P<sequence>-?\d{1,18}))?(?:, op_id = (?P<op_id>\d{1,18}))?"
    r"(?:, sizes = (?P<sizes>\[[\[\], \d-]*\]))?(?:, input_op_ids = \[.*\])?"
)
# A range of the user (record_function) ends in ", op_id = …" as well; these it is not.
_OPERATOR = re.compile(r"[a-z_]\w*::.*|detach_?|record_param_comms")
_NUMBERED = re.compile(r"(?P<stem>.*?[^\d])(?P<number>\d{1,17})[\])]?")
_STEP_WORD = re.compile(r"(?:^|[^a-z])(?:steps?|iters?|iterations?)(?:[^a-z]|$)")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Range:
    """The parts of a range's text."""

    name: str
    operator: bool
    sequence: int = NONE
    record_function: int = NONE
    signature: Signature | None = None


def parse(text: str) -> Range:
    """What the text of a range says of it; a text that is not of emit_nvtx is a name."""
    begin = _EMITTED.search(text)
    found = _DETAILS.fullmatch(text, begin.start()) if begin else None
    if begin is None or found is None:
        return Range(text, operator=False)
    name = text[: begin.start()]
    return Range(
        name=name,
        operator=bool(found["sequence"] or found["sizes"] or _OPERATOR.fullmatch(name)),
        sequence=int(found["sequence"] or NONE),
        record_function=int(found["op_id"] or NONE),
        signature=_signature(found["sizes"]) if found["sizes"] else None,
    )


@functools.lru_cache(maxsize=4096)
def _signature(sizes: str) -> Signature | None:
    """The sizes of the arguments; element types are not recorded, and lists of tensors are written out one by one."""
    try:
        shapes = json.loads(sizes)
        return Signature(dims=tuple(tuple(int(n) for n in shape) for shape in shapes), dtypes=())
    except (ValueError, TypeError):
        return None


class Interned:
    """Names, threads and signatures, each stored once and referred to by number."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.threads: dict[int, int] = {}
        self.signatures: dict[Signature, int] = {}

    def name(self, text: str) -> int:
        """The number of a name."""
        return self.names.setdefault(text, len(self.names))

    def thread(self, global_id: int) -> int:
        """The number of a thread, known by process and thread in one number."""
        return self.threads.setdefault(global_id, len(self.threads))

    def signature(self, signature: Signature | None) -> int:
        """The number of a signature, -1 for none."""
        return NONE if signature is None else self.signatures.setdefault(signature, len(self.signatures))


class Ranges:
    """The ranges of one process: operators, and annotations."""

    def __init__(self, database: Database, process: int | None, interned: Interned) -> None:
        self.database, self.interned = database, interned
        self.condition, self.parameters = database.of_process(RANGES, process)
        self.counted = self.dropped = self.open = 0
        self.step_name: str | None = None  # of the first step, where steps are marked by other names than torch's
        self._domains = self._named_domains()
        self._texts = self._registered_texts()
        ops, marks = self._rows()
        self.ops = _operators(ops)
        self.annotations = self._annotations(marks)

    def _rows(self) -> tuple[Int64s, Int64s]:
        """Operators [n, 7] (name, thread, start, end, signature, sequence, number); ranges [m, 4], the first four."""
        ops, marks = [np.empty((0, 7), np.int64)], [np.empty((0, 4), np.int64)]
        for chunk in self._chunks():
            rows = [row for row in map(self._row, chunk) if row is not None]
            ops.append(np.array([row for row in rows if len(row) == 7], np.int64).reshape(-1, 7))
            marks.append(np.array([row for row in rows if len(row) == 4], np.int64).reshape(-1, 4))
        return np.concatenate(ops), np.concatenate(marks)

    def _chunks(self) -> Iterator[list[tuple[object, ...]]]:
        there = self.database.columns(RANGES)
        if there:
            listed = ", ".join(f'"{column}"' if column in there else "NULL" for column in _FIELDS)
            yield from self.database.chunks(f"SELECT {listed} FROM {RANGES}{self.condition}", self.parameters)

    def _row(self, row: tuple[object, ...]) -> tuple[int, ...] | None:
        """The numbers of one range; None for what is not a range, or cannot be used."""
        start, end, kind, text, text_id, thread_id, domain = row
        if kind is not None and kind not in _PUSH_POP + _START_END:
            return None  # marks and the names of threads, categories and domains
        self.counted += 1
        name = text if isinstance(text, str) else self._texts.get(text_id)
        if not isinstance(start, int) or not isinstance(end, int) or end < start or name is None:
            self.open += end is None
            self.dropped += end is not None
            return None
        found = parse(name)
        thread = self.interned.thread(thread_id if isinstance(thread_id, int) else NONE)
        if not found.operator or domain or kind in _START_END:
            label = f"{self._domains.get(domain, f'domain {domain}')}: {found.name}" if domain else found.name
            return self.interned.name(label), thread, start, end
        signature = self.interned.signature(found.signature)
        number = self.interned.name(found.name)
        return number, thread, start, end, signature, found.sequence, found.record_function

    def _annotations(self, found: Int64s) -> Annotations:
        """The ranges; those that mark steps under other names are there once more under the name that torch gives."""
        marks = _annotation_table(found)
        names = list(self.interned.names)
        if any(step_number(name) is not None for name in names):
            return marks
        rows, numbers = step_series(names, marks)
        if not len(rows):
            return marks
        self.step_name = names[int(marks.name[rows[0]])]
        again = found[rows]
        again[:, 0] = [self.interned.name(f"{STEP_PREFIX}{number}") for number in numbers.tolist()]
        return _annotation_table(np.concatenate([found, again]))

    def _named_domains(self) -> dict[object, str]:
        """The names of NVTX domains by number; the default domain has none."""
        if not {"domainId", "eventType", "text"} <= self.database.columns(RANGES):
            return {}
        wanted = f"{self.condition or ' WHERE 1'} AND eventType = {_DOMAIN} AND text IS NOT NULL"
        found = self.database.rows(f"SELECT domainId, text FROM {RANGES}{wanted}", self.parameters)
        return {number: str(text) for number, text in found}

    def _registered_texts(self) -> dict[object, str]:
        """The texts of ranges whose text is a number into the table of strings."""
        if "textId" not in self.database.columns(RANGES):
            return {}
        wanted = f"{self.condition or ' WHERE 1'} AND textId IS NOT NULL"
        found = self.database.rows(f"SELECT DISTINCT textId FROM {RANGES}{wanted}", self.parameters)
        ids = np.array([row[0] for row in found if isinstance(row[0], int)], np.int64)
        return dict(self.database.strings(ids).items())


def _operators(found: Int64s) -> OpEvents:
    name, thread, start, end, signature, sequence, number = found.T.copy()
    none = np.full(len(name), NONE, np.int64)
    return OpEvents(
        name=name.astype(np.int32),
        thread=thread.astype(np.int32),
        start_ns=start,
        end_ns=end,
        signature=signature.astype(np.int32),
        external_id=none,
        sequence=sequence,
        record_function=number,
        forward_thread=none,
    )


def _annotation_table(found: Int64s) -> Annotations:
    name, thread, start, end = found.T.copy()
    on_device = np.zeros(len(name), bool)
    return Annotations(name.astype(np.int32), thread.astype(np.int32), start, end, on_device)


Mark = tuple[int, int, int, int]  # start, end, number and row of a range


def step_series(names: list[str], marks: Annotations) -> tuple[Int64s, Int64s]:
    """Rows of the ranges that mark steps, and the steps' numbers; both empty where no series of ranges does.

    A series is two ranges or more on one thread, none overlapping the one before, whose names hold the word step or
    iteration and differ only in a number that grows. Of several series the one that covers most time is taken.
    """
    numbered = {i: found for i, name in enumerate(names) if (found := _numbered(name)) is not None}
    series: dict[tuple[str, int], list[Mark]] = defaultdict(list)
    for row in np.flatnonzero(np.isin(marks.name, list(numbered))).tolist():
        stem, number = numbered[int(marks.name[row])]
        mark = (int(marks.start_ns[row]), int(marks.end_ns[row]), number, row)
        series[stem, int(marks.thread[row])].append(mark)
    following = [sorted(rows) for rows in series.values() if _follow(sorted(rows))]
    best = max(following, key=lambda rows: sum(end - start for start, end, _, _ in rows), default=[])
    return np.array([row[3] for row in best], np.int64), np.array([row[2] for row in best], np.int64)


def _numbered(name: str) -> tuple[str, int] | None:
    """The name without its number, and the number, of a name that can be a step's."""
    found = _NUMBERED.fullmatch(name)
    if found is None or not _STEP_WORD.search(_CAMEL.sub("_", found["stem"]).lower()):
        return None
    return found["stem"], int(found["number"])


def _follow(rows: list[Mark]) -> bool:
    """Whether these are one step after another."""
    return len(rows) > 1 and all(later[0] >= one[1] and later[2] > one[2] for one, later in pairwise(rows))
