"""What a disassembler says about the bytes of a loop, for the tests that compare."""

import shutil
import subprocess
from pathlib import Path

import pytest

X86 = "i386:x86-64"
AARCH64 = "aarch64"
TOOLS = {X86: "objdump", AARCH64: "aarch64-linux-gnu-objdump"}


def listing(code: bytes, machine: str, folder: Path) -> list[str]:
    """The instructions in Intel's or Arm's syntax, single-spaced and without comments; skips where there is no tool."""
    tool = shutil.which(TOOLS[machine])
    if tool is None:
        pytest.skip(f"there is no {TOOLS[machine]}")
    file = folder / "code.bin"
    file.write_bytes(code)
    options = ["-Mintel"] if machine == X86 else []
    command = [tool, "-D", "-b", "binary", "-m", machine, *options, str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in text.splitlines() if line.count("\t") >= 2]
    return [" ".join(" ".join(row[2:]).split("//")[0].split()) for row in rows]
