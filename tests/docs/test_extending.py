"""The pages on extending probe: their files are saved and their commands typed, as a reader does it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented import DOCS, blocks, commands
from prepared_torch import Prepared

torch = pytest.importorskip("torch")
FOLDER = DOCS / "extending"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def saved(page: Path, folder: Path) -> list[list[str]]:
    """Write the page's files into `folder`; the commands that it gives."""
    found = list(blocks(page))
    for block in found:
        if block.language == "python":
            assert block.file, f"{block.title}: a block that is no file cannot be typed"
            (folder / block.file).write_text(block.text, encoding="utf-8")
    return [words for block in found if block.language == "sh" for words in commands(block.text)]


def typed(words: list[str], folder: Path, prepared: Prepared) -> subprocess.CompletedProcess[str]:
    """The command in `folder`, with this Python and the probe of the checkout."""
    told = dict(word.split("=", 1) for word in words if ASSIGNMENT.fullmatch(word))
    command = [word for word in words if not ASSIGNMENT.fullmatch(word)]
    start: dict[str, list[str]] = {"python": [], "probe": ["-m", "probe"]}
    command = [*start[command[0]], *command[1:]]
    own = os.environ | {"PROBE_CACHE_DIR": str(folder / "cache"), "NO_COLOR": "1"}
    if not told:
        return prepared.run(*command, cwd=folder, environ=own)
    # What is told by the environment may be read at an import.
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=own | told, capture_output=True, text=True, timeout=300
    )


def needs(page: str) -> None:
    """Skip where what the page is about cannot be had."""
    if page != "kernel":
        return
    pytest.importorskip("triton")
    from probe.errors import UnavailableError
    from probe.kernels.cuda import nvrtc

    try:
        nvrtc.compiler_for("sm_90a")
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("page", PAGES)
def test_the_example_works(page: str, tmp_path: Path, prepared: Prepared) -> None:
    needs(page)
    lines = saved(FOLDER / f"{page}.md", tmp_path)
    assert lines
    for words in lines:
        done = typed(words, tmp_path, prepared)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_an_example_that_fails_is_seen(tmp_path: Path, prepared: Prepared) -> None:
    """The rule of the page, with a pattern that never holds."""
    saved(FOLDER / "rule.md", tmp_path)
    rule = tmp_path / "log_of_sigmoid.py"
    rule.write_text(rule.read_text().replace('op("sigmoid"', 'op("tanh"'))
    done = typed(["python", "demo.py"], tmp_path, prepared)
    assert done.returncode == 1 and "not enough values to unpack" in done.stderr


def test_every_page_is_in_the_index() -> None:
    index = (FOLDER / "index.md").read_text()
    assert PAGES == ["benchmark", "collector", "cost_model", "kernel", "rule"]
    assert all(f"({page}.md)" in index for page in PAGES)


def test_names_of_the_tree_are_right() -> None:
    """Paths that the pages name exist."""
    root = DOCS.parent
    for page in FOLDER.glob("*.md"):
        for path in re.findall(
            r"`((?:analyzers|probe|microbench|kernels|tests|benchmarks)/[\w/.]*)`", page.read_text()
        ):
            assert (root / path).exists(), f"{page.name}: {path}"
