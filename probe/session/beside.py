"""What is sampled beside a loop, and for which process? Starts telemetry for a session."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

from probe.collectors.telemetry import Here, Settings, Telemetry, settings_of
from probe.session.launch import Place
from probe.session.options import Options


def begun(options: Options, place: Place, path: Path, warn: Callable[[str], None]) -> Telemetry | None:
    """Telemetry that runs from now on; None where it is not asked for."""
    settings = settings_of(options.telemetry)
    if settings is None:
        return None
    try:
        return _begun(settings, place, path, warn)
    except Exception as error:  # must not cost the trace
        warn(f"telemetry failed to start: {type(error).__name__}: {error}")
        return None


def _begun(settings: Settings, place: Place, path: Path, warn: Callable[[str], None]) -> Telemetry:
    here = Here(
        path, place.rank, place.world_size, place.local_rank, place.launch, socket.gethostname(), gpus_of(place)
    )
    telemetry = Telemetry(settings, here, warn)
    telemetry.start()
    return telemetry


def gpus_of(place: Place) -> tuple[int, ...] | None:
    """Torch's numbers of the GPUs that this process uses; None where it uses none that are known.

    Asked on the loop's thread: the current device is the thread's own. A rank that has not chosen yet, on a node where
    it sees several, will choose its local rank.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    count = torch.cuda.device_count()
    if place.world_size == 1:
        return tuple(range(count))
    current = int(torch.cuda.current_device())
    return (place.local_rank if current == 0 and place.local_rank < count else current,)
