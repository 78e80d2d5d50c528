"""What a page is given to show: the run, what the address asks for, and where more can be had."""

from __future__ import annotations

from dataclasses import dataclass

from probe.dashboard.catalogue import Entry
from probe.dashboard.loaded import Library, Loaded
from probe.dashboard.query import Query
from probe.results.analysis import Analysis


@dataclass(frozen=True)
class View:
    """One page's surroundings. `loaded` is None on pages that need no run."""

    library: Library
    entries: tuple[Entry, ...]
    query: Query
    entry: Entry | None = None
    loaded: Loaded | None = None

    @property
    def analysis(self) -> Analysis:
        """The run's analysis, on pages that need one."""
        assert self.loaded is not None
        return self.loaded.analysis
