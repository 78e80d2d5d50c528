"""Where are the CUDA libraries that the measurements load: NVRTC in all its versions, and the driver?

NVRTC comes with torch (the nvidia-* wheels), with a CUDA toolkit, or from the distribution. Several may be there: NVRTC
13 no longer compiles for Volta and Pascal, so 12 beside it has its use.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

DRIVER = "libcuda.so.1"
# Names that the dynamic loader knows (LD_LIBRARY_PATH, ldconfig); each major version of NVRTC is another.
SONAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2")
_WHEELS = ("nvidia/*/lib", "nvidia/*/lib64")  # nvidia/cu13 since CUDA 13, nvidia/cuda_nvrtc before
_TOOLKITS = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
_SYSTEM = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib")
_VERSIONED = re.compile(r"libnvrtc\.so\.(\d+)(?:\.(\d+))?")


def nvrtc_candidates() -> tuple[str, ...]:
    """Every NVRTC that may be loadable: paths first, the newest major version first, then names for the dynamic loader.

    A name is left out where a path of that major version was found. Nothing is loaded here.
    """
    found: dict[Path, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("libnvrtc.so.*")):
            if _VERSIONED.fullmatch(path.name):  # not libnvrtc.alt.so, not libnvrtc-builtins.so
                found.setdefault(path.resolve(), path)
    paths = sorted(found.values(), key=lambda path: _major(path.name), reverse=True)  # stable: earlier folders win
    majors = {_major(path.name) for path in paths}
    return (*map(str, paths), *(name for name in SONAMES if _major(name) not in majors))


def _major(name: str) -> int:
    match = _VERSIONED.fullmatch(name)
    return int(match[1]) if match else 0


def _folders() -> Iterator[Path]:
    """The folders to look in, each once: packages beside probe's before toolkits, toolkits before the system's."""
    seen = set()
    for folder in _places(sys.path):
        if folder not in seen and folder.is_dir():
            seen.add(folder)
            yield folder


def _places(packages: Iterable[str]) -> Iterator[Path]:
    for entry in packages:
        for pattern in _WHEELS:
            yield from sorted(Path(entry or ".").glob(pattern), reverse=True)
    toolkits = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    toolkits += sorted(Path("/usr/local").glob("cuda*"), reverse=True)
    for toolkit in toolkits:
        yield from (toolkit / name for name in _TOOLKITS)
    yield from map(Path, _SYSTEM)
