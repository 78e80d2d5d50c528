"""What does a kernel compile to, and what does nvdisasm say about it? Skips where a tool lacks."""

import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from probe.kernels.cuda import nvrtc
from probe.kernels.cuda.kernel import Kernel

ARCHITECTURES = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120")
DISASSEMBLED = ARCHITECTURES[1:]  # nvdisasm 13 no longer knows sm_70
_SECTION = re.compile(r"^\s*\.section\s+\.text\.(\w+)")
_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")


def compiled(kernel: Kernel, architecture: str) -> bytes:
    """The cubin; skips where no NVRTC here knows the architecture."""
    if nvrtc.number_of(architecture) not in {n for each in nvrtc.available() for n in each.architectures}:
        pytest.skip(f"no NVRTC here compiles for {architecture}")
    return nvrtc.cubin(kernel.source, architecture, kernel.defines)


def listing(kernel: Kernel, architecture: str) -> tuple[str, ...]:
    """The kernel's instructions as nvdisasm writes them, without predicates."""
    return tuple(re.sub(r"^@!?U?P\w+ ", "", line) for line in _sections(compiled(kernel, architecture))[kernel.name])


def mnemonics(lines: tuple[str, ...]) -> list[str]:
    """The first word of each."""
    return [line.split()[0] for line in lines]


@functools.lru_cache(maxsize=64)
def _sections(code: bytes) -> dict[str, list[str]]:
    tool = next((p for f in sys.path if (p := Path(f) / "nvidia/cu13/bin/nvdisasm").is_file()), None)
    if tool is None:
        pytest.skip("nvdisasm is not installed (pip install nvidia-cuda-nvdisasm)")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        section = _SECTION.match(line)
        name = section[1] if section else name
        found.setdefault(name, []).extend(_LINE.findall(line))
    return found
