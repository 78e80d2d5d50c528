"""What do the gate and its workers say to each other? One JSON object a line, over two pipes.

The gate asks for steps; a worker runs so many and answers with their times. It stands still at the end of a step until
it is asked again, and ends when the gate is gone.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

SERVED = "PROBE_GATE_SERVED"  # variable that is set in workers of Task.served: the program's step is the gate's


@dataclass(frozen=True)
class Task:
    """What a worker runs. `function` is FILE.py:NAME, called again and again; else `target` is a script or module."""

    root: str  # of the version's files; comes first on the path
    target: str = ""
    arguments: tuple[str, ...] = ()
    module: bool = False
    function: str | None = None
    step_on: str | None = None
    served: bool = False  # the program calls worker.step itself: nothing is recognised
    other_root: str | None = None  # of the other version: nothing may be imported from there
    apply: str | None = None  # MODULE:FUNC that changes the program before it trains
    losses: bool = False  # whether losses are told

    def to_json(self) -> str:
        """For the worker's command line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Task:
        """As the worker reads it."""
        fields = json.loads(text)
        return Task(**{**fields, "arguments": tuple(fields["arguments"])})


@dataclass(frozen=True)
class Ask:
    """`steps`: run so many. `trace`: record them into this file, with `memory` its allocations."""

    steps: int
    trace: str | None = None
    memory: bool = False


@dataclass(frozen=True)
class Ran:
    """Times of the steps that were asked for, seconds; on a GPU of all of them together, per step."""

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=dict)  # of the process so far: graph breaks, recompilations
    peak_memory_bytes: int | None = None  # of the device, over these steps
    losses: list[float | None] = field(default_factory=list)  # of the steps, with those before; None: without one


@dataclass(frozen=True)
class Ready:
    """The first step has ended."""

    torch: str
    device: str
    on_gpu: bool
    threads: int
    foreign: list[str] = field(default_factory=list)  # files imported from the other version
    changed: list[str] | None = None  # by Task.apply; None where it has not been called


class Pipe:
    """One end of the conversation."""

    def __init__(self, read: int, write: int) -> None:
        self._read = read
        self._write = write
        self._rest = b""

    def send(self, message: Any) -> None:
        """A dataclass of this module, with its name."""
        line = json.dumps({"is": type(message).__name__, **asdict(message)}).encode() + b"\n"
        while line:
            line = line[os.write(self._write, line) :]

    def receive(self) -> Any | None:
        """The next message; None when the other end is gone. Waits."""
        while b"\n" not in self._rest:
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                return None
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        fields = json.loads(line)
        kinds: dict[str, type] = {kind.__name__: kind for kind in (Ask, Ran, Ready)}
        return kinds[fields.pop("is")](**fields)

    @property
    def waits_on(self) -> int:
        """The descriptor to wait on where waiting is to have an end."""
        return self._read

    @property
    def has_line(self) -> bool:
        """Whether a message is here already."""
        return b"\n" in self._rest
