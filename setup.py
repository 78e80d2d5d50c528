"""The text that a package index shows: README.md without its pictures and without links into this repository.

They are relative, and an index has neither the pictures nor the pages. All else about the package is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import setup

PICTURE = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n+", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]*\)")
NOTE = "The pages named here, and pictures of the reports, are in the project's repository.\n"


def described(readme: str) -> str:
    """The README as an index may show it; what stands in blocks of code stays as it is."""
    parts = readme.split("```")  # every second one is code
    parts[::2] = [LINK.sub(r"\1", PICTURE.sub("", prose)) for prose in parts[::2]]
    return f"{'```'.join(parts).rstrip()}\n\n{NOTE}"


if __name__ in ("__main__", "builtins"):  # run by a build; tests import `described`
    here = Path(__file__).parent
    setup(
        long_description=described((here / "README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
