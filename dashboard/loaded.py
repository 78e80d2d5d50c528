"""What is known of one entry of the catalogue: its analysis, its timeline, its microbenchmarks. Each read once.

Readers and analyzers are imported when a run is first read: the server answers before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe.dashboard.apart import Readings, Told, analysed, laid_out
from probe.dashboard.catalogue import Catalogue, Entry
from probe.dashboard.shelf import Reading, Shelf
from probe.dashboard.timeline.tracks import tracks
from probe.errors import InputError
from probe.examine.sources import Jobs, RunSource, find
from probe.report.timeline.index import Index
from probe.results.analysis import Analysis
from probe.results.comparison import Comparison
from probe.results.measurement import MicrobenchResult
from probe.results.telemetry import Telemetry
from probe.runs import run as runs

HELD_ANALYSES, HELD_TIMELINES, HELD_COMPARISONS, HELD_RESULTS = 6, 3, 6, 12


@dataclass(frozen=True)
class Loaded:
    """A run or trace as the pages show it. `environment`: what the run wrote of where it ran."""

    entry: Entry
    analysis: Analysis
    environment: dict[str, Any]


class Library:
    """Everything that pages may ask for, by the id of an entry."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.readings = Readings()
        self._analyses = Shelf(self._analyse, HELD_ANALYSES)
        self._timelines = Shelf(self._timeline, HELD_TIMELINES)
        self._comparisons = Shelf(self._compare, HELD_COMPARISONS)
        self._results = Shelf(self._result, HELD_RESULTS)

    def analysis(self, identity: str, wait_s: float = 0.0) -> Reading[Loaded]:
        """The analysis of a run or trace."""
        return self._analyses.ask(identity, wait_s)

    def timeline(self, identity: str, wait_s: float = 0.0) -> Reading[Index]:
        """Its events, ready to be drawn."""
        return self._timelines.ask(identity, wait_s)

    def comparison(self, base: str, new: str, wait_s: float = 0.0) -> Reading[Comparison]:
        """What got faster or slower from one to the other."""
        return self._comparisons.ask(f"{base} {new}", wait_s)

    def result(self, identity: str) -> MicrobenchResult:
        """A file of microbenchmarks. Raises ProbeError."""
        return self._results.ask(identity).result()

    def _entry(self, identity: str) -> Entry:
        entry = self.catalogue.find(identity)
        if entry is None:
            raise InputError("this run is no longer there; choose another one")
        return entry

    def _analyse(self, identity: str, told: Told) -> Loaded:
        entry = self._entry(identity)
        return Loaded(entry, self.readings.read(analysed, entry.source, told=told), _environment(entry))

    def _timeline(self, identity: str, told: Told) -> Index:
        entry, analysis = self._entry(identity), self.analysis(identity).result().analysis
        index = self.readings.read(laid_out, entry.source, analysis, told=told)
        telemetry = _telemetry(entry)
        if telemetry is None:
            return index
        return replace(index, tracks=tracks(telemetry, index.start_unix_ns, index.begin_ns, index.end_ns))

    def _compare(self, pair: str, told: Told) -> Comparison:
        from probe.examine.sides import compare

        entries = [self._entry(identity) for identity in pair.split()]
        known = {entry.source: self.analysis(entry.id) for entry in entries}  # both begin to be read, or are there
        told("reading both runs")
        base, new = (entry.source for entry in entries)
        return compare(base, new, analysed=lambda source: known[str(source)].result().analysis)

    def _result(self, identity: str, _: Told) -> MicrobenchResult:
        from probe.examine.sides import read_microbench

        return read_microbench(self._entry(identity).source)


def _environment(entry: Entry) -> dict[str, Any]:
    if entry.kind != "run":
        return {}
    part = runs.load(entry.source).main
    return {"created": part.created, "status": part.status, "command": part.command, **part.environment}


def _telemetry(entry: Entry) -> Telemetry | None:
    """What was sampled beside the rank whose trace is shown."""
    if entry.kind != "run":
        return None
    from probe.examine import telemetry as run_telemetry

    found = find(entry.source)
    if not isinstance(found, RunSource) or isinstance(found, Jobs) or not found.run.traces:
        return None
    rank = found.run.traces[0][0]
    part = next(part for part in found.run.parts if part.rank == rank)
    return run_telemetry.read(Path(entry.source), part) if part.telemetry else None
