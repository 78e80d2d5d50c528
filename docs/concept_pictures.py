"""Draw the pictures of docs/concepts again from recorded traces.

Usage: python docs/concept_pictures.py

Two of them are drawn from traces of GPUs that others recorded; without PROBE_TEST_TRACES, which names their folder,
those stay as they are. The same traces give the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np

import probe
from probe.analyzers.operators.steps import recorded_steps
from probe.analyzers.ranks.kinds import is_collective_kernel
from probe.intervals import Intervals, clip, difference, intersection, union
from probe.machine.device import Ceilings
from probe.report.analysis import operator_name
from probe.report.palette import LOOKS
from probe.report.roofline.plane import placed, plane, roofs, roofs_met
from probe.report.roofline.svg import DOTS, Picture, draw
from probe.results.analysis import PARTS, Analysis, Operator
from probe.runs.run import PHASES, decode
from probe.trace import Trace
from probe.units import format_fraction, format_time

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_traces"
IMAGES = ROOT / "docs" / "images"
COLOURS = {name: look.light for name, look in LOOKS.items()}
INK, SOFT, PAPER, PALE = "#1b1f24", "#5b6470", "#fbfcfd", "#e3e6ea"
WIDTH, LEFT, RIGHT, ROW = 860, 245, 90, 34
PHASE_COLOURS = {"wait": PALE, "calibrate": "#b8bcc4", "warmup": COLOURS["memory"], "active": COLOURS["compute"],
                 "after": PALE}  # fmt: skip
MARKED = (0, 4)  # of the roofline: one operator on each side of the ridge


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 13, colour: str = INK, weight: int = 400,
         ) -> str:  # fmt: skip
    """One line of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle, never too thin to be seen."""
    return f'<rect x="{x:.2f}" y="{y:.1f}" width="{max(width, 0.6):.2f}" height="{height:.1f}" fill="{colour}"/>'


def page(height: float, parts: Iterator[str] | list[str], title: str, width: int = WIDTH) -> str:
    """A whole picture on its own paper, so that it can be read on either surface."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, DejaVu Sans, sans-serif" color="{INK}">'
        f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="{PAPER}"/>{"".join(parts)}</svg>\n'
    )


def sample(name: str) -> Analysis:
    """The analysis of one of our own samples under the roofs measured on its machine."""
    return probe.analyze(SAMPLES / name, ceilings=SAMPLES / "ceilings.json")


# A roofline that is explained.


def roofline() -> str:
    """The roofline of the transformer, with the way from a dot to its roof."""
    found = sample("transformer_step")
    assert found.ceilings is not None
    ceilings = replace(roofs_met(found, found.ceilings), levels={})  # the roofs of caches would need another page
    shown = placed(found.ops)[:DOTS]
    inner = re.sub(r"^<svg[^>]*>|</svg>$", "", draw(ceilings, found.ops, COLOURS))
    picture = Picture(plane(roofs(ceilings), shown))
    ways = "".join(way(picture, op, ceilings) for op in shown if op.index in MARKED)
    legend = [dot_legend(120 + 110 * i, 424, bound) for i, bound in enumerate(("compute", "memory", "overhead"))]
    return page(440, [inner, ways, *legend], "A roofline of one training step", 1072)


def way(picture: Picture, op: Operator, ceilings: Ceilings) -> str:
    """The line from an operator up to the roof over it, with how far that is."""
    top = min((ceilings.dram_bytes_per_s or 0.0) * (op.intensity or 0.0), ceilings.flops_per_s["float32"])
    x, low, high = picture.x(op.intensity or 1.0), picture.y(op.achieved_flops_per_s or 1.0), picture.y(top)
    share, side = format_fraction(op.roof_fraction), 1 if x < 400 else -1  # where there is room for words
    return (
        f'<path d="M{x:.1f} {low - 12:.1f}V{high + 3:.1f}" stroke="#cf222e" stroke-width="1.6" stroke-dasharray="3 3"/>'
        + text(x + 8 * side, high + 36, f"at {share} of its roof", "start" if side > 0 else "end", colour="#cf222e")
    )


def dot_legend(x: float, y: float, bound: str) -> str:
    return text(x - 4, y, LOOKS[bound].mark, colour=COLOURS[bound]) + text(x + 14, y, bound, colour=SOFT)


# What decides a class: one call beside the least time that each roof leaves it.


def ladder(found: Analysis, op: Operator, start: str) -> str:
    """One call of an operator beside its roofs and what starting it takes."""
    assert found.ceilings is not None
    call_s = (op.device_s or op.self_s) / op.calls
    rows = [("a mean call takes", call_s, COLOURS[op.bound]), *roof_rows(op, found.ceilings, call_s)]
    rows.append((start, found.ceilings.launch_s or 0.0, "#b8bcc4"))
    longest = max(seconds for _, seconds, _ in rows)
    parts = [
        text(20, 30, operator_name(op.name), weight=600, size=15),
        text(20, 50, shorter(op.shapes or ""), colour=SOFT),
    ]
    for index, (label, seconds, colour) in enumerate(rows):
        y = 68 + index * ROW
        width = (WIDTH - LEFT - RIGHT) * seconds / longest
        parts += [text(LEFT - 10, y + 17, label, "end", colour=SOFT), box(LEFT, y, width, 24, colour)]
        parts.append(text(LEFT + max(width, 0.6) + 8, y + 17, format_time(seconds)))
    bottom = 68 + len(rows) * ROW + 14
    said = [line for line in op.evidence if not line.startswith("the launch queue")]
    parts += [text(LEFT, bottom + 20 * index, line, colour=SOFT) for index, line in enumerate(said)]
    return page(bottom + 20 * len(said), parts, f"{op.bound}: {op.name}")


def roof_rows(op: Operator, ceilings: Ceilings, call_s: float) -> Iterator[tuple[str, float, str]]:
    """The least time by arithmetic, under the roof that the evidence names (else float32's), and by bytes."""
    named = re.search(r"of the (\w+) ceiling", "\n".join(op.evidence))
    dtype = named[1] if named else "float32"
    arithmetic = (op.achieved_flops_per_s or 0.0) / ceilings.flops_per_s[dtype]
    moved = (op.achieved_bytes_per_s or 0.0) / (ceilings.dram_bytes_per_s or 1.0)
    yield f"its arithmetic, at the {dtype} roof", arithmetic * call_s, COLOURS["compute"]
    yield "its bytes, at DRAM's bandwidth", moved * call_s, COLOURS["memory"]


def shorter(words: str, most: int = 110) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


# What a step waits for: lanes of one recorded step.


def lanes(rows: list[tuple[str, Intervals, str]], begin: int, end: int, title: str, note: str) -> str:
    """Intervals of one step, a lane each, with their length."""
    scale = (WIDTH - LEFT - RIGHT) / (end - begin)
    parts = [text(20, 30, title, weight=600, size=15), text(20, 50, note, colour=SOFT)]
    for index, (label, shown, colour) in enumerate(rows):
        y, inside = 68 + index * ROW, clip(shown, begin, end)
        parts += [text(LEFT - 10, y + 17, label, "end", colour=SOFT), box(LEFT, y, WIDTH - LEFT - RIGHT, 24, PALE)]
        drawn = union(inside.starts, inside.ends + int(0.5 / scale))  # gaps that are too narrow to be seen are closed
        pairs = zip(drawn.starts.tolist(), np.minimum(drawn.ends, end).tolist(), strict=True)
        parts += [box(LEFT + (a - begin) * scale, y, (b - a) * scale, 24, colour) for a, b in pairs]
        parts.append(text(WIDTH - RIGHT + 8, y + 17, format_time(inside.length_ns * 1e-9)))
    bottom = 68 + len(rows) * ROW + 14
    parts.append(text(LEFT, bottom, "0", colour=SOFT))
    parts.append(text(WIDTH - RIGHT, bottom, format_time((end - begin) * 1e-9), "end", colour=SOFT))
    return page(bottom + 16, parts, title)


def host() -> str:
    """One step of the starved loader: what the main thread does, and what it waits for."""
    trace = probe.load(SAMPLES / "starved_loader")
    begin, end = step(trace, 1)
    marks, ops = trace.annotations, trace.host_ops
    asked = trace.named(lambda name: name.startswith("enumerate(DataLoader)"))[marks.name]
    waiting = union(marks.start_ns[asked], marks.end_ns[asked])
    computing = difference(union(ops.start_ns, ops.end_ns), waiting)
    rows = [("waits for the loader", waiting, COLOURS["host"]), ("computes", computing, COLOURS["compute"])]
    return lanes(rows, begin, end, "starved_loader, one step", "main thread of a CPU run; the loader has no workers")


def communication(trace: Trace) -> str:
    """One step of a rank: kernels that compute, collectives, and what of those nothing hides."""
    begin, end = step(trace, 1)
    work = trace.kernels
    exchanged = trace.named(is_collective_kernel)[work.name]
    collective = union(work.start_ns[exchanged], work.end_ns[exchanged])
    computing = union(work.start_ns[~exchanged], work.end_ns[~exchanged])
    rows = [
        ("kernels that compute", computing, COLOURS["compute"]),
        ("collectives, hidden", intersection(collective, computing), "#f3c9fa"),
        ("collectives, exposed", difference(collective, computing), COLOURS["communication"]),
    ]
    note = "kernels of an NVIDIA A100, in a trace recorded by others"
    return lanes(rows, begin, end, "One rank of a training, one step", note)


def step(trace: Trace, row: int) -> tuple[int, int]:
    marks = recorded_steps(trace)
    return int(marks.start_ns[row]), int(marks.end_ns[row])


# The method: which steps are recorded, and how a step is divided.


def windows() -> str:
    """Every step of the transformer's run, in the colour of its phase."""
    steps = decode((SAMPLES / "transformer_step" / "run.json").read_bytes(), "transformer_step").steps
    seconds = steps.durations_ns / 1e9
    colours = [PHASE_COLOURS[PHASES[code]] for code in steps.phases]
    slot = (WIDTH - 100) / len(seconds)
    parts = [text(20, 30, "transformer_step, all steps of the run", weight=600, size=15)]
    for index, value in enumerate(seconds):
        height = 170 * value / seconds.max()
        parts.append(box(60 + index * slot, 230 - height, slot - 3, height, colours[index]))
        parts.append(text(60 + (index + 0.5) * slot - 1.5, 246, str(index), "middle", 11, SOFT))
    parts += [text(52, 64, format_time(float(seconds.max())), "end", 11, SOFT), text(52, 230, "0", "end", 11, SOFT)]
    legend = (("step times only", "wait"), ("calibrate", "calibrate"), ("warm-up", "warmup"), ("recorded", "active"))
    for index, (label, phase) in enumerate(legend):
        parts += [
            box(60 + index * 150, 264, 12, 12, PHASE_COLOURS[phase]),
            text(78 + index * 150, 275, label, colour=SOFT),
        ]
    return page(292, parts, "Which steps of a run are recorded")


def parts() -> str:
    """The step of each sample, divided by what it waits for."""
    drawn = [text(20, 30, "One step, each instant counted once", weight=600, size=15)]
    shown: list[str] = []
    for index, name in enumerate(("transformer_step", "resnet_step", "starved_loader")):
        seconds = sample(name).time_s
        total, x, y = seconds["step"] or 1.0, float(LEFT), 50 + index * 44
        drawn.append(text(LEFT - 10, y + 20, name, "end", colour=SOFT))
        for part in PARTS:
            width = (WIDTH - LEFT - RIGHT) * (seconds[part] or 0.0) / total
            shown += [part] if width >= 1 and part not in shown else []
            drawn += [box(x, y, width, 30, COLOURS[part])] if width > 0 else []
            x += width
        drawn.append(text(WIDTH - RIGHT + 8, y + 20, format_time(total)))
    for index, part in enumerate(shown):
        x = LEFT + index * 110
        drawn += [box(x, 190, 12, 12, COLOURS[part]), text(x + 18, 201, part, colour=SOFT)]
    return page(218, drawn, "The parts of a step of the three samples")


def typical(found: Analysis, name: str, bound: str) -> Operator:
    """The first operator of that name and class: the one with most to gain."""
    return next(op for op in found.ops if op.name == name and op.bound == bound)


def foreign() -> dict[str, Callable[[], str]]:
    """Pictures of GPUs, from traces that others recorded; none where they are not at hand."""
    named = os.environ.get("PROBE_TEST_TRACES")
    if not named:
        return {}
    qwen, ranked = Path(named) / "h100_qwen_0.5b_chat.json.gz", Path(named) / "a100_training_rank3.json.gz"
    launch = "launching a kernel"

    def placed(source: Path, name: str, bound: str) -> str:
        found = probe.analyze(source)
        return ladder(found, typical(found, name, bound), launch)

    return {
        "latency": lambda: placed(qwen, "aten::_flash_attention_forward", "latency"),
        "unknown": lambda: placed(ranked, "aten::native_layer_norm", "unknown"),
        "communication": lambda: communication(probe.load(ranked)),
    }


def own() -> dict[str, Callable[[], str]]:
    """Pictures of our own samples."""
    dispatch = "dispatching an operator"

    def placed(source: str, name: str, bound: str) -> str:
        found = sample(source)
        return ladder(found, typical(found, name, bound), dispatch)

    return {
        "roofline": roofline,
        "compute": lambda: placed("resnet_step", "aten::convolution_backward", "compute"),
        "memory": lambda: placed("resnet_step", "aten::threshold_backward", "memory"),
        "overhead": lambda: placed("transformer_step", "aten::mul_", "overhead"),
        "host": host,
        "windows": windows,
        "parts": parts,
    }


def main() -> None:
    for name, drawn in {**own(), **foreign()}.items():
        (IMAGES / f"concept_{name}.svg").write_text(drawn(), encoding="utf-8")


if __name__ == "__main__":
    main()
