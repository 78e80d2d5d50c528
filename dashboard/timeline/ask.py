"""What is in a stretch of the timeline, where is a name, what does a client need to draw? As plain JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np

from probe.report.palette import CLASSES
from probe.report.text import printable
from probe.report.timeline.index import Index, Lane

MOST_ROWS = 14


def meta(index: Index) -> dict[str, Any]:
    """Everything but the events: lanes, names, steps, tracks."""
    return {
        "begin": index.begin_ns,
        "end": index.end_ns,
        "events": index.events,
        "names": [printable(name) for name in index.names],
        "lanes": [{"group": printable(row.group), "label": row.label, "kind": row.kind} for row in index.lanes],
        "steps": [list(step) for step in index.steps],
        "tracks": [
            {"label": printable(t.label), "highest": t.highest, "at": t.at_ns.tolist(), "values": t.values.tolist()}
            for t in index.tracks
        ],
    }


def occurrence(index: Index, words: str, after_ns: float, backwards: bool) -> dict[str, Any]:
    """How often a name with these words occurs, and its next occurrence after (or before) an instant, round the end."""
    wanted = np.array([words.lower() in name.lower() for name in index.names], bool)
    places = [(row.start_ns[hit], n, hit) for n, row in enumerate(index.lanes) if (hit := wanted[row.name]).any()]
    total = sum(len(starts) for starts, _, _ in places)
    if not total:
        return {"total": 0, "at": None}
    start = np.concatenate([starts for starts, _, _ in places])
    lane = np.repeat([n for _, n, _ in places], [len(starts) for starts, _, _ in places])
    row = np.concatenate([np.flatnonzero(hit) for _, _, hit in places])
    order = np.argsort(start, kind="stable")
    side = np.searchsorted(start[order], after_ns, "left" if backwards else "right")
    pick = order[(int(side) - 1 if backwards else int(side)) % total]
    return {"total": total, "at": _event(index, int(lane[pick]), int(row[pick]))}


def _event(index: Index, lane: int, row: int) -> dict[str, Any]:
    found = index.lanes[lane]
    return {
        "lane": lane,
        "start": int(found.start_ns[row]),
        "end": int(found.end_ns[row]),
        "name": printable(index.names[found.name[row]]),
        "op": int(found.op[row]),
    }


def statistics(index: Index, begin_ns: float, end_ns: float) -> dict[str, Any]:
    """What runs in a stretch: per name how often and how long, the device's work where there is any, else operators.

    Times are of the part within the stretch; operators count with what they call.
    """
    kind = "device" if any(row.kind == "device" for row in index.lanes) else "ops"
    rows = [_inside(row, begin_ns, end_ns) for row in index.lanes if row.kind == kind]
    name, time, op, code = (np.concatenate([row[i] for row in rows] or [np.empty(0, np.int64)]) for i in range(4))
    if not len(name):
        return {"of": kind, "events": 0, "busy": 0, "rows": [], "classes": []}
    numbers, first, inverse, count = np.unique(name, return_index=True, return_inverse=True, return_counts=True)
    total = np.bincount(inverse, time)
    order = np.argsort(-total)[:MOST_ROWS]
    by_class = np.bincount(code.astype(int), time, len(CLASSES))
    return {
        "of": kind,
        "events": len(name),
        "busy": float(time.sum()),
        "classes": [[CLASSES[c], float(by_class[c])] for c in np.argsort(-by_class[: len(CLASSES)]) if by_class[c] > 0],
        "rows": [
            {
                "name": printable(index.names[numbers[i]]), "count": int(count[i]), "total": float(total[i]),
                "op": int(op[first[i]]), "class": CLASSES[int(code[first[i]])],
            }
            for i in order
        ],
    }  # fmt: skip


def _inside(row: Lane, begin_ns: float, end_ns: float) -> tuple[Any, Any, Any, Any]:
    """Name, time within the stretch, operator and code of the events that reach into it."""
    first = int(np.searchsorted(row.until_ns, begin_ns, "right"))
    last = max(first, int(np.searchsorted(row.start_ns, end_ns, "left")))
    rows = slice(first, last)
    time = np.minimum(row.end_ns[rows], end_ns) - np.maximum(row.start_ns[rows], begin_ns)
    keep = time > 0
    return row.name[rows][keep], time[keep], row.op[rows][keep], row.code[rows][keep]
