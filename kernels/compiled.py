"""How are the measuring loops made where executable memory is refused? `cc` builds cpu_loops.c, once per content.

The library lies in the user's cache directory under the hash of the source, the compiler and its flags; it is built
beside and renamed into place, so that two processes never see half of it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs

from probe.errors import UnavailableError
from probe.kernels.loops import ADDS_TYPE, CHASE_TYPE, SAXPY, STREAMS, Loops, stream_type

SOURCE = Path(__file__).with_name("cpu_loops.c")
# No loop-distribute-patterns: it would turn the copy loop into a call of memcpy.
FLAGS = ("-O3", "-march=native", "-fno-tree-loop-distribute-patterns", "-shared", "-fPIC")
BUILD_TIMEOUT_S = 60


def load(directory: Path | None = None) -> Loops:
    """The measuring loops compiled by `cc`; UnavailableError where there is no compiler or it fails."""
    library = ctypes.CDLL(str(build(directory)))
    return Loops(
        origin="compiled",
        instruction_set="compiler",
        chase=CHASE_TYPE(("probe_chase", library)),
        adds=ADDS_TYPE(("probe_adds", library)),
        stream={kind: stream_type(kind)((kind.symbol, library)) for kind in (*STREAMS, SAXPY)},
    )


def build(directory: Path | None = None) -> Path:
    """The shared library's path, built if it is not there yet."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise UnavailableError("there is no C compiler either: install one (cc) to measure caches here")
    directory = directory or cache_directory()
    recipe = SOURCE.read_bytes() + " ".join((compiler, *FLAGS, _cpu())).encode()
    path = directory / f"cpu_loops-{hashlib.sha256(recipe).hexdigest()[:16]}.so"
    if not path.exists():
        _compile(compiler, path)
    return path


def cache_directory() -> Path:
    """Where built libraries are kept; PROBE_CACHE_DIR overrides the user's cache directory."""
    root = os.environ.get("PROBE_CACHE_DIR") or platformdirs.user_cache_dir("torch-probe")
    return Path(root) / "kernels"


def _cpu() -> str:
    """What -march=native depends on, so that a cache shared between machines stays right."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.split("\n\n")[0].splitlines()
    return "".join(line for line in lines if line.startswith(("model", "cpu family", "flags", "Features")))


def _compile(compiler: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / path.name
            command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=BUILD_TIMEOUT_S)
            made.replace(path)
    except (OSError, subprocess.SubprocessError) as failed:
        raise UnavailableError(f"{compiler} could not build {SOURCE.name}: {failed}") from None
