"""Which Python frames of a trace are kept: modules and the program's own lines, without those of torch and Python.

A recording with stacks holds a frame for every Python call, mostly torch's and the standard library's; none of them
says where in a program an operator is.
"""

from __future__ import annotations

import re
import sys

import numpy as np

from probe.readers.events import FrameEvents
from probe.readers.nesting import nest
from probe.trace import Frames

MODULE = "nn.Module: "  # with which torch begins the name of a module's frame
_LINE = re.compile(r"(?P<path>[^()<>]+\.py)\(\d+\): ")
_LIBRARY = re.compile(r"(?:^|/)(?:torch|torch_\w+|triton)/|/lib/python3[^/]*/(?!(?:site|dist)-packages/)|^<frozen")


class Kept(dict[str, bool]):
    """Whether frames of a name are kept."""

    def __missing__(self, name: str) -> bool:
        kept = self[name] = name.startswith(MODULE) or _is_own_line(name)
        return kept


def _is_own_line(name: str) -> bool:
    """Whether this is a line of Python that is neither torch's nor the standard library's; their paths are relative."""
    found = _LINE.match(name)
    if found is None or _LIBRARY.search(found["path"]):
        return False
    package = found["path"].partition("/")[0].removesuffix(".py")
    return package not in sys.stdlib_module_names


def nested(events: FrameEvents, origin: int) -> Frames:
    """The frames by thread and start, each with the one around it."""
    order = np.lexsort((-events.end_ns, events.start_ns, events.thread))
    start, end = events.start_ns[order] - origin, events.end_ns[order] - origin
    thread = events.thread[order]
    parent, _ = nest(thread, start, end)
    return Frames(name=events.name[order], thread=thread, start_ns=start, end_ns=end, parent=parent)
