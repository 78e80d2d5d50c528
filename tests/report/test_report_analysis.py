"""The report in the terminal and in Markdown, and names that try to break it."""

import json
from pathlib import Path

import pytest
from analysed_trace import TIMED, analysed
from builders import GPU, gpu_step, op, step, write
from golden import assert_golden

from probe.readers.kineto import read
from probe.report import markdown
from probe.report.analysis import as_text
from probe.report.text import kernel_name, printable, shorten
from probe.results.analysis import Analysis


@pytest.fixture
def gpu(tmp_path: Path) -> Analysis:
    return analysed(read(write(tmp_path, gpu_step(), deviceProperties=GPU)), TIMED)


@pytest.fixture
def hostile(tmp_path: Path) -> Analysis:
    bad = ["[bold red]x[/]", "a|b`c<script>alert(1)</script>", "\x1b[31mred\x07\n\ttab", "x" * 10_000, "[/nope]"]
    return analysed(read(write(tmp_path, [step(1, 0, 100)] + [op(n, 10 * i, 5) for i, n in enumerate(bad)])))


def test_terminal(gpu: Analysis) -> None:
    assert_golden("analysis_gpu.txt", as_text(gpu))


def test_markdown(gpu: Analysis) -> None:
    assert_golden("analysis_gpu.md", markdown.render(gpu))


def test_hostile_names_in_the_terminal(hostile: Analysis) -> None:
    text = as_text(hostile)
    assert "\x1b" not in text
    assert "[bold red]" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_hostile_names_in_markdown(hostile: Analysis) -> None:
    text = markdown.render(hostile)
    assert "<script>" not in text
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {4, 10}


def test_json_is_plain_and_finite(hostile: Analysis) -> None:
    content = json.loads(json.dumps(hostile.to_json(), allow_nan=False))
    assert content["schema"] == "probe.analysis/1"
    assert content["bound"] in ("unknown", "host", "overhead")
    assert sum(v for k, v in content["time_s"].items() if k != "step") == pytest.approx(content["time_s"]["step"])


def test_pandas_has_a_row_per_operator(gpu: Analysis) -> None:
    frame = gpu.to_pandas()
    assert list(frame["name"]) == [op.name for op in gpu.ops]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void at::native::vectorized<4, at::F<float>>(int, float*)", "vectorized"),
        ("at::native::(anonymous namespace)::CatArrayBatchedCopy<x>(y)", "CatArrayBatchedCopy"),
        ("sm90_xmma_gemm_bf16", "sm90_xmma_gemm_bf16"),
        ("Memcpy HtoD (Pageable -> Device)", "Memcpy HtoD (Pageable -> Device)"),
        ("operator<<", "operator<<"),
        ("", ""),
    ],
)
def test_kernel_names(name: str, short: str) -> None:
    assert kernel_name(name) == short


def test_long_text_loses_its_middle() -> None:
    assert shorten("abcdefghij", 7) == "abcd…ij"
    assert shorten("abc", 7) == "abc"


def test_control_characters_are_replaced() -> None:
    assert printable("a\x00b\u202ec") == "a\ufffdb\ufffdc"
