"""What does NVIDIA's disassembler say about machine words? For the tests that compare probe's decoder with it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?);")
_WHEELS = ("nvidia/cu13/bin/nvdisasm", "nvidia/cuda_nvcc/bin/nvdisasm", "triton/backends/nvidia/bin/nvdisasm")


def tools() -> list[Path]:
    """Every nvdisasm here: of the nvidia-cuda-nvdisasm and triton wheels, and on the path."""
    found = [Path(entry) / name for entry in sys.path for name in _WHEELS]
    on_path = shutil.which("nvdisasm")
    return [path for path in (*found, *([Path(on_path)] if on_path else [])) if path.is_file()]


def listing(words: Sequence[int], architecture: str, folder: Path) -> list[str]:
    """The text of each word for "sm_90a", as one call of nvdisasm gives it.

    Skips without nvdisasm, and for sm_70, which nvdisasm 13 refuses; other refusals fail.
    """
    file = folder / f"{architecture}.bin"
    file.write_bytes(b"".join(word.to_bytes(16, "little") for word in words))
    refusals = []
    for tool in tools():
        command = [tool, "-b", architecture.replace("sm_", "SM"), "-c", "-ndf", file]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:
            return [match[2].strip() for match in _LINE.finditer(result.stdout)][: len(words)]
        refusals.append(" ".join(result.stderr.split())[:200])
    if refusals and architecture != "sm_70":
        pytest.fail(f"nvdisasm refuses {architecture}: {'; '.join(refusals)}")
    pytest.skip(f"no nvdisasm takes {architecture}: {'; '.join(refusals) or 'none is installed'}")


def mnemonic(text: str) -> str:
    """The mnemonic of a line: without predicate, operands and comments."""
    words = [word for word in text.split() if not word.startswith(("@", "{", "}"))]
    return words[0].rstrip(",")
