"""Runs for the tests of the dashboard: sample traces, and one whose names are hostile in every way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import event, kernel, launch, op, shapes, step, write

from probe.dashboard.catalogue import Catalogue
from probe.dashboard.loaded import Library
from probe.files import CACHE_VARIABLE

SAMPLES = Path(__file__).parent.parent / "sample_traces"
MARKUP = '<img src=x onerror="window.hacked=1">'
SCRIPT = "</script><script>window.hacked=1</script>"
ESCAPES = "\x1b[31mred\x07\u202eevil"
HOSTILE = (MARKUP, SCRIPT, "javascript:window.hacked=1", ESCAPES, "n" * 10_000, "%{x} {{7*7}} <b>bold</b>")
HOSTILE_FILE = "<b onclick=alert(1)>'\" %00 &lt;.json"


def hostile_trace(directory: Path) -> Path:
    """Two steps of operators, kernels and ranges with hostile names, in a file with one."""
    events = []
    for number, begin in ((1, 0), (2, 10_000)):
        events.append(step(number, begin, 9000))
        for place, name in enumerate(HOSTILE):
            at = begin + 100 + place * 1000
            events += [
                op(name, at, 600, **shapes([512, 512], [512, 512])),
                launch(number * 100 + place, at + 10),
                kernel(f"void {name}<float>(int)", at + 50, 500, number * 100 + place),
                event("user_annotation", name, at, 700),
            ]
    return write(directory, events, HOSTILE_FILE)


@contextmanager
def library(*sources: Path, cache: Path) -> Iterator[Library]:
    """A library whose readers keep to a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(cache))
        yield Library(Catalogue([str(source) for source in sources]))


def id_of(found: Library, name: str) -> str:
    """The id of the entry with that name."""
    return next(entry.id for entry in found.catalogue.entries() if entry.name == name)
