"""README and docs are true: their code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main
from chromium import CHROMIUM
from documented import DOCS, PAGES, ROOT, anchors, blocks, commands, links

import probe
from probe.cli import app, main

SAMPLES = ROOT / "sample_traces"
ELSEWHERE = {
    DOCS / "rules.md",
    *(DOCS / "extending").glob("*.md"),
    *(DOCS / "tutorials").glob("*.md"),
}  # other tests run
CODE = [block for page in PAGES for block in blocks(page) if block.language == "python"]
RUN = [page for page in PAGES if page not in ELSEWHERE and any(block.page == page for block in CODE)]
BESIDE = [ROOT / name for name in ("CHANGELOG.md", "benchmarks/README.md", "benchmarks/traces/README.md",
                                   "sample_traces/README.md")]  # fmt: skip
DESCRIBED = re.compile(r" {3,}| \| |, `| {2}#")  # what stands behind a command in a block that is no shell's
# Commands of the pages that work on a recorded run within seconds; the others measure, serve or take a GPU's trace.
QUICK = re.compile(r"probe (analyze|compare|ls|export|plan) ")
ABSENT = re.compile(r"s3://|report\.sqlite|--step |measured\.json|before\.json|/data/|job|runs/before|BASE")
DRAWS = pytest.mark.skipif(
    find_spec("kaleido") is None or not CHROMIUM, reason="drawing needs kaleido (torch-probe[figures]) and a Chromium"
)


# Code blocks of Python.


def standing_in() -> dict[str, Any]:
    """What a reader has and a page does not show: a model, a loader, a step, a server's batch."""
    import torch

    model = torch.nn.Linear(8, 4)
    batch = torch.randn(16, 8)

    def train_step(inputs: Any) -> None:
        model(inputs).square().mean().backward()

    return {
        "probe": probe, "torch": torch, "model": model, "loader": [batch] * 16, "train_step": train_step,
        "batch": [batch], "prompt": list(range(12)), "step": lambda: train_step(batch),
    }  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as the pages take it for granted: runs, traces, sample traces."""
    shutil.copytree(SAMPLES, tmp_path / "sample_traces", ignore=shutil.ignore_patterns("*.py"))
    (trace,) = (SAMPLES / "transformer_step").glob("trace.*.json.gz")
    shutil.copy(trace, tmp_path / "trace.json.gz")
    (tmp_path / "traces").mkdir()
    for rank in range(2):
        shutil.copy(trace, tmp_path / "traces" / f"rank{rank}.json.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, here: Path) -> None:
    """Blocks of one page follow each other, as a reader types them."""
    namespace = standing_in()
    for block in (block for block in CODE if block.page == page):
        code = compile(block.text, block.title, "exec")
        if block.remark is None:
            exec(code, namespace)


@pytest.mark.parametrize("page", sorted(ELSEWHERE), ids=lambda page: page.name)
def test_code_that_other_tests_run_is_python(page: Path) -> None:
    """In the rules' examples an ellipsis stands for what does not matter; a few are outlines and no code."""
    ellipsis = {"**…": "**{}", "*…": "*()", "…": "..."}
    found = [block for block in CODE if block.page == page]
    texts = [re.sub(r"\*{0,2}…", lambda found: ellipsis[found[0]], block.text) for block in found]
    wrong = [block.title for block, text in zip(found, texts, strict=True) if not compiles(text)]
    assert len(wrong) <= (len(found) // 10 if page.name == "rules.md" else 0), wrong


def compiles(text: str) -> bool:
    try:
        compile(text, "example", "exec", flags=0x2000)  # await at the top is fine
    except SyntaxError:
        return False
    return True


def test_what_is_not_run_says_why() -> None:
    reasons = [block.remark for block in CODE if block.remark is not None]
    assert all(kind == "not run" and len(why) > 20 for kind, why in reasons)
    assert len(reasons) < 6, "most code should run"


def test_a_wrong_block_is_seen(here: Path) -> None:
    with pytest.raises(AttributeError):
        exec("probe.profil('runs/exp1')", standing_in())
    assert not compiles("for x in :")


# Commands.


def command_lines(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Where, and the words after `probe`, of every command that a page shows in a block or by indentation."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        if block.language in ("sh", "console", "bash"):
            for words in commands(block.text):
                if "probe" in words and words[0] in ("probe", "torchrun", "python"):
                    yield block.title, words[words.index("probe") + 1 :]
        elif block.language == "":
            shown = re.findall(r"^(?:\$ )?probe (.+)$", block.text, re.MULTILINE)
            yield from ((block.title, DESCRIBED.split(line)[0].split()) for line in shown)
    for line in re.findall(r"^ {4}probe (.+)$", text, re.MULTILINE):
        yield page.name, next(iter(commands(line)))


def understood(arguments: list[str]) -> Any:
    """The command that these arguments call, all options known; raises click's error where one is not."""
    command: Any = typer.main.get_command(app)
    context, rest = None, arguments
    while True:
        context = command.make_context("probe", list(rest), parent=context)
        rest = [*getattr(context, "_protected_args", ()), *context.args] if hasattr(command, "resolve_command") else []
        if not rest:
            return command
        _, command, rest = command.resolve_command(context, rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    wrong = []
    for where, arguments in command_lines(page):
        try:
            understood(arguments)
        except Exception as error:
            wrong.append(f"{where}: probe {' '.join(arguments)}: {getattr(error, 'message', error)}")
    assert not wrong


@pytest.mark.parametrize(
    "arguments", ["analyse runs/exp1", "analyze runs/exp1 --topp 3", "gate chek", "plan fit --zerro 3"]
)
def test_a_wrong_command_is_seen(arguments: str) -> None:
    with pytest.raises(Exception, match=r"No such|no such|option|Missing"):
        understood(arguments.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_named_in_the_text_exist(page: Path) -> None:
    """`probe analyze --explain F06` within a sentence: the command has the option."""
    spans = re.findall(r"`probe ([a-z][^`]*)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    for span in spans:
        command, words = typer.main.get_command(app), span.split()
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands") or not words or "run" in span, f"probe {span}"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        before = words[: words.index("--")] if "--" in words else words
        if not hasattr(command, "commands"):
            assert {w.partition("=")[0] for w in before if w.startswith("--")} <= {*known, "--help"}, f"probe {span}"


def quick_lines() -> list[Any]:
    """The commands that can be run here, each once."""
    found = {
        tuple(words): where for page in PAGES for where, words in command_lines(page)
        if QUICK.match(f"probe {' '.join(words)} ") and not ABSENT.search(" ".join(words))
    }  # fmt: skip
    return [
        pytest.param(list(words), id=f"{where} {' '.join(words)[:40]}", marks=[DRAWS] if "--figure" in words else [])
        for words, where in found.items()
    ]


@pytest.mark.parametrize("arguments", quick_lines())
def test_a_command_runs(arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, sample in (("exp1", "transformer_step"), ("exp2", "transformer_step")):
        shutil.copytree(here / "sample_traces" / sample, here / "runs" / name)
    steps = arguments.index("--steps") if "--steps" in arguments else None
    told = (
        arguments if steps is None else [*arguments[: steps + 1], "12", *arguments[steps + 2 :]]
    )  # a step of the sample
    assert main([word for word in told if word != "0-63" and word != "--ranks"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out or "-o" in told


# Links.


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong


def test_every_page_is_reached_from_the_readme() -> None:
    """By one link or several."""
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        inside = [link.partition("#")[0] for link in links(page) if not re.match(r"\w+:", link)]
        targets = [(page.parent / path).resolve() for path in inside if path]
        waiting += [target for target in targets if target.suffix == ".md" and target not in reached]
    assert not set(PAGES) - reached
