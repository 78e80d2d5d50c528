"""Does the drawn roofline stay within its width, say what it should, and degrade to ASCII?"""

import io
import re
from dataclasses import replace

import pytest
from golden import assert_golden
from one_operator import operator
from rich.console import Console

from probe.machine.device import Ceilings, Level
from probe.report.palette import BOUNDS
from probe.report.roofline import svg
from probe.report.roofline.terminal import Point, draw

CPU = Ceilings(
    "measured",
    "Some CPU",
    35.4e9,
    {"float32": 189e9, "float64": 90.3e9, "bfloat16": 3.14e9, "float16": 3.81e9},
    1.6e-6,
    {
        "L1": Level(32768, 1.24e-9, 561e9),
        "L2": Level(524288, 3.7e-9, 202e9),
        "L3": Level(1 << 24, 15e-9, 180e9),
        "DRAM": Level(None, 1.3e-7, 35.4e9),
    },
)
GPU = Ceilings("measured", "Some GPU", 4e12, {"float32": 50e12, "bfloat16": 7.5e14, "float16": 7.4e14}, 2e-6, {})
POINTS = (Point("aten::mm", 40, 120e9), Point("aten::add", 0.083, 2.6e9), Point("layer_norm", 0.6, 12e9))


def _drawn(ceilings: Ceilings, points: tuple[Point, ...] = (), *, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=file, width=width, color_system=None).print(draw(ceilings, points))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_golden_cpu_with_operators() -> None:
    assert_golden("roofline_cpu.txt", _drawn(CPU, POINTS))


def test_golden_gpu() -> None:
    assert_golden("roofline_gpu.txt", _drawn(GPU))


def test_golden_ascii() -> None:
    assert_golden("roofline_ascii.txt", _drawn(CPU, width=72, encoding="ascii"))


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_console_or_80(width: int) -> None:
    lines = _drawn(CPU, POINTS, width=width).splitlines()

    assert max(len(line) for line in lines) <= min(width, 80)


def test_every_roof_and_operator_is_named() -> None:
    text = _drawn(CPU, POINTS)

    for word in ("float32", "float64", "bfloat16", "float16", "DRAM 35.4 GB/s", "L1", "L2", "L3", "FLOP/byte"):
        assert word in text
    for point in POINTS:
        assert point.label in text
    assert "ridge 5.34" in text


def test_a_hostile_label_and_points_off_the_scale() -> None:
    points = (Point("\x1b[31mred\n[bold]", 1e-6, 1.0), Point("far", 1e9, 1e15), Point("none", 0.0, 0.0))
    text = _drawn(CPU, points)

    assert "\x1b" not in text
    assert "none" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    "ceilings",
    [
        Ceilings("assumed", "x"),
        Ceilings("measured", "x", 1e9),
        Ceilings("measured", "x", None, {"float32": 1e9}),
        Ceilings("measured", "x", 1e9, {"float32": 0.0}),
    ],
)
def test_without_roofs_a_sentence(ceilings: Ceilings) -> None:
    assert _drawn(ceilings).startswith("No roofline")


def test_a_single_roof() -> None:
    assert "float32" in _drawn(Ceilings("measured", "x", 1e9, {"float32": 1e6}))


def _texts(picture: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture)


def test_labels_of_the_picture_that_would_touch_are_one() -> None:
    ops = [operator(0), operator(1), operator(2, intensity=3.0), operator(3, achieved_flops_per_s=2e10), operator(11)]
    said = _texts(svg.draw(CPU, ops, dict.fromkeys(BOUNDS, "red")))
    assert {"0, 1", "2", "3"} <= set(said) and not any("11" in text for text in said)
    assert "L1 561 GB/s" in said and "L2 202 GB/s · L3 180 GB/s" in said and "DRAM 35.4 GB/s" in said


def test_no_picture_without_a_roof() -> None:
    assert svg.draw(replace(CPU, dram_bytes_per_s=None), (), {}) == ""
    assert svg.draw(replace(CPU, flops_per_s={}), (), {}) == ""
