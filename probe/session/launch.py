"""Which rank of which launch is this process, and which run directory do the ranks of one launch share?

No collective is used: ranks agree through the environment that their launcher set. A launch writes its identity into
a marker file, created exclusively; a rank joins the first of exp1, exp1-2, … whose marker is its own launch's and
in which its own part does not exist yet.

What cannot be told apart: two launches over several nodes, within an hour, with the same rendezvous id, address, port
and restart count, where a rank of the first left no part. Give such launches a `--rdzv-id` or a path of their own.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from probe.files import claim_directory
from probe.launchers import launched_rank

MARKER = ".launch"
STALE_S = 3600.0  # ranks of one launch enter within minutes of each other; an older marker is an earlier launch's
MARKER_WAIT_S = 2.0  # a marker is created and filled in two steps; how long to wait for the second

_IDENTITY = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "PMIX_NAMESPACE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


@dataclass(frozen=True)
class Place:
    """Where this process stands in its launch."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launch: str = ""  # the same text on every rank of one launch, and on no other


def find_place(environ: Mapping[str, str] = os.environ) -> Place:
    """This process's place: torch.distributed's word where it is initialised, else the launcher's variables."""
    told = launched_rank(environ)
    rank, world, local, on_node = told.rank, told.ranks, told.local_rank, told.local_ranks
    initialised = _from_torch()
    if initialised is not None:
        rank, world = initialised
    if world <= 1:
        return Place(launch=uuid.uuid4().hex)
    one_node = on_node == world or environ.get("MASTER_ADDR", "") in ("localhost", "127.0.0.1", "::1")
    return Place(rank, world, local, _launch_identity(environ, world, one_node=one_node))


def _from_torch() -> tuple[int, int] | None:
    """Rank and world size where torch.distributed is initialised (mp.spawn sets no variables)."""
    distributed = initialised_distributed()
    return (distributed.get_rank(), distributed.get_world_size()) if distributed is not None else None


def initialised_distributed() -> Any:
    """The module torch.distributed if it is imported, built in and initialised; else None."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed


def exchanged(distributed: Any, key: str, mine: float, seconds: float) -> list[float] | None:
    """A number of every rank, by rank; None where one of them does not tell it in time.

    Through the store by which the ranks found one another, not by a collective: a rank without a session never joins
    one, and it could meet a collective of the program's.
    """
    store = distributed.distributed_c10d._get_default_store()
    names = [f"probe/{key}/{rank}" for rank in range(distributed.get_world_size())]
    store.set(names[distributed.get_rank()], repr(mine))
    try:
        store.wait(names, timedelta(seconds=seconds))
    except RuntimeError:  # torch's own errors of a store derive from it
        return None
    return [float(store.get(name)) for name in names]


def _launch_identity(environ: Mapping[str, str], world: int, *, one_node: bool) -> str:
    """Equal for all ranks of a launch. On one node the launcher's process id tells launches in a row apart."""
    words = [f"{name}={environ[name]}" for name in _IDENTITY if name in environ]
    words.append(f"world={world}")
    if one_node:
        words.append(f"parent={os.getppid()}")
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


def join_directory(path: Path, place: Place, part: str, holds_run: Callable[[Path], bool]) -> tuple[Path, bool]:
    """The directory in which this rank is to write its `part`, and whether that is `path` itself.

    An existing directory that holds no run is used as it is. Raises OSError where nothing can be written.
    """
    return claim_directory(path, lambda candidate: _joined(candidate, place, part, holds_run))


def _joined(directory: Path, place: Place, part: str, holds_run: Callable[[Path], bool]) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file of that name
        return False
    marker = directory / MARKER
    if holds_run(directory) and not marker.exists():  # in this order: another rank makes the marker first
        return False
    try:
        with marker.open("x") as file:
            file.write(place.launch)
    except FileExistsError:
        return _is_ours(marker, place) and not (directory / part).exists()
    return True


def _is_ours(marker: Path, place: Place) -> bool:
    """Whether a marker is this launch's and fresh; waits for a marker that is still being written."""
    deadline = time.monotonic() + MARKER_WAIT_S
    text = marker.read_text()
    while not text and time.monotonic() < deadline and place.world_size > 1:
        time.sleep(0.01)
        text = marker.read_text()
    return text == place.launch and abs(time.time() - marker.stat().st_mtime) < STALE_S


def default_path(place: Place) -> Path:
    """runs/<time>-<script>; with several ranks, whose clocks differ, the launch's identity stands for the time."""
    script = Path(sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "python").stem
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in script) or "python"
    stamp = time.strftime("%Y%m%d-%H%M%S") if place.world_size == 1 else place.launch[:12]
    return Path("runs") / f"{stamp}-{name}"
