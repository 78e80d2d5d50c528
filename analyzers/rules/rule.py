"""What is a rule: what it looks for, what it advises, how the saving is estimated, how it can be proved?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from probe.analyzers.rules.context import Context, Match

Finder = Callable[[Context], Iterator[Match]]
Need = Literal["shapes", "device work", "launches", "stacks", "memory", "collectives", "graph"]
Proof = Literal["replay", "module", "arithmetic", "flag"]
Effort = Literal["flag", "line", "function", "design"]

NEEDS: dict[Need, str] = {  # each with what records it
    "shapes": "argument sizes (record_shapes=True)",
    "device work": "device activity (ProfilerActivity.CUDA)",
    "launches": "runtime calls of the device (ProfilerActivity.CUDA)",
    "stacks": "Python stacks (probe.profile(stacks=True), torch's with_stack=True)",
    "memory": "allocations (probe.profile(memory=True), torch's profile_memory=True)",
    "collectives": "collectives with their sizes (record_shapes=True, torch ≥ 2.2)",
    "graph": "the model's graph (probe.profile(model=model))",
}
PROOFS: dict[Proof, str] = {
    "replay": "probe verify runs the replacement against the original on the recorded shapes",
    "module": "run the module with and without the change, and compare its loss over some steps",
    "arithmetic": "cannot be run on one machine: the saving is computed",
    "flag": "change the setting and record a few steps again",
}


@dataclass(frozen=True)
class Example:
    """Code that the rule finds, and what to write instead."""

    before: str
    after: str


@dataclass(frozen=True)
class Rule:
    """One entry of the catalogue. Texts are one line each, without a full stop.

    find: yields a match a site, the largest first; units that other findings claim are in `context.claimed`.
    cannot_show: what a trace leaves open; it is printed with the explanation.
    preview: not on by default: no program or trace tests that it finds what it should and nothing else.
    shares: whether it may find what others have claimed (waits and settings, which no operator's time measures).
    """

    code: str
    name: str
    title: str
    find: Finder
    trigger: str
    advice: str
    saving: str
    cannot_show: str
    proof: Proof
    effort: Effort = "function"
    needs: tuple[Need, ...] = ()
    example: Example | None = None
    preview: bool = False
    shares: bool = False
    about: Literal["fusion", "compute", "host", "memory", "communication"] = "fusion"
