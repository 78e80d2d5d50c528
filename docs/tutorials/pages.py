"""Fills the pages of the tutorials: code out of their programs, and, with --record, what the programs print here.

    python docs/tutorials/pages.py                        (code only; a test holds the pages against it)
    python docs/tutorials/pages.py --record [NAME…]       (runs the programs in full, two minutes each on two cores)

In a page, `<!-- code: name, name -->` stands before a block with these functions and classes of the program, and
`<!-- output -->` before what it printed.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CODE = re.compile(r"(<!-- code: (.*?) -->\n\n)```python\n.*?```\n", re.DOTALL)
OUTPUT = re.compile(r"(<!-- output -->\n\n).*?\n\n```text\n.*?```\n", re.DOTALL)


def names() -> list[str]:
    """The programs that have a page."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.with_suffix(".md").exists())


def definitions(program: str) -> dict[str, str]:
    """The text of every function and class at the top of a program, by name."""
    lines = program.splitlines()
    found = {}
    for node in ast.parse(program).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def with_code(page: str, program: str) -> str:
    """The page with its blocks of code as they are in the program now; KeyError for a name that is not there."""
    known = definitions(program)

    def block(match: re.Match[str]) -> str:
        text = "\n\n\n".join(known[name.strip()] for name in match[2].split(","))
        return f"{match[1]}```python\n{text}\n```\n"

    return CODE.sub(block, page)


def with_output(page: str, words: str, printed: str) -> str:
    """The page with what the program printed, and on what."""
    return OUTPUT.sub(lambda match: f"{match[1]}{words}\n\n```text\n{printed.strip()}\n```\n", page)


def machine(arguments: str, device: str) -> str:
    """What a record was made on, in words."""
    import torch

    from probe.machine.environment import cpu_device

    here = cpu_device()
    cores = here.cores or 1
    count = {1: "one core", 2: "two cores"}.get(cores, f"{cores} cores")
    where = f"{count} of an {here.name}" if device == "cpu" else torch.cuda.get_device_name()
    shared = ", which other programs used at the same time" if os.getloadavg()[1] > cores else ""
    return f"Printed by `{arguments}` on {where}{shared}, torch {torch.__version__.split('+')[0]}:"


def record(name: str, small: bool, device: str) -> None:
    """Run a program and put what it prints into its page."""
    arguments = [*(["--small"] if small else []), *(["--device", device] if device != "cpu" else [])]
    words = machine(" ".join([f"{name}.py", *arguments]), device)
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    page = HERE / f"{name}.md"
    page.write_text(with_output(page.read_text(), words, printed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", nargs="*", metavar="NAME", help="run these programs, by default all")
    parser.add_argument("--small", action="store_true", help="… in their small form")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for name in names():
        page = HERE / f"{name}.md"
        page.write_text(with_code(page.read_text(), (HERE / f"{name}.py").read_text()))
    for name in [] if options.record is None else options.record or names():
        record(name, options.small, options.device)


if __name__ == "__main__":
    main()
