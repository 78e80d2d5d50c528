"""What a process is told to verify: a site, where, for how long, and a kernel of the user's own, if there is one."""

from __future__ import annotations

from dataclasses import dataclass

from probe.sites import Site


@dataclass(frozen=True)
class OwnCandidate:
    """FILE.py:FUNCTION of the user."""

    path: str
    function: str

    @property
    def name(self) -> str:
        """As the user wrote it, without the folder."""
        return f"{self.path.rpartition('/')[2]}:{self.function}"


@dataclass(frozen=True)
class Task:
    """All that a process needs; sizes and names, no tensors."""

    site: Site
    device: str
    budget_s: float
    seed: int = 0
    own: OwnCandidate | None = None
    skip: tuple[str, ...] = ()  # candidates that are not to be tried (again)
