"""docs/validation.md from the measured errors of projections: tables, medians, and what was not measured."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from probe.analyzers.projection.links import Link, path, spread_seconds, volume_bytes

Rows = list[dict[str, Any]]
HEAD = """# How far off projections are

Measured by `benchmarks/projection.py`, which wrote this page from the rows in `benchmarks/results/projection.*.json`.
Errors are projected over measured, less one.
"""
SIZE = 16e9  # bytes, where latencies no longer count
# Nodes of 8 H100 with eight 400 Gbit/s cards: nodes, whether switches reduce, GB/s of busbw, where it was told.
PUBLISHED = (
    (2, False, 330, "nccl/issues/1221"),
    (2, True, 430, "nccl/issues/1221"),
    (4, True, 320, "nccl/issues/1221"),
    (248, True, 350, "nccl-tests/issues/283"),
)
BUSY = 1.5  # clock over processor time, above which the ranks were kept waiting by others
STALE = (
    "**These rows are out of date.** They were measured before three changes. The roofs were timed by the clock beside"
    " steps in processor time, which others' work made too low, and those of float64 too high against float32's: in"
    " processor time a product of 768 × 768 is 2.25 times as slow in float64 on this machine, and the perceptron's step"
    " 2.29 times, where 1.9 was projected. Operators whose data leaves a cache were slowed as a whole. And what torch's"
    " own convolution in float64 takes to unfold its input was not counted. To be measured again on a quiet machine.\n"
)


def text(results: Path) -> str:
    """The page, of the results that are there."""
    parts = (
        ("replay", _replay),
        ("devices", _devices),
        ("pairs", _pairs),
        ("changes", _changes),
        ("memory", _memory),
        ("collectives", _links),
    )
    found, kinds = [HEAD], set[str]()
    for name, section in parts:
        file = results / f"projection.{name}.json"
        if file.is_file():
            rows = json.loads(file.read_text())
            found += section(rows)
            kinds |= {row["kind"] for row in rows if "kind" in row}
    return "\n".join([*found, *_over_nodes(), *_missing(kinds)])


def _replay(rows: Rows) -> Iterator[str]:
    yield "## Replay of recorded steps\n"
    yield (
        "*Unchanged*: the graph walked as it is; it is made to reproduce the recording, so that this only tests the"
        " walk. *Explained*: device work begins as soon as what it is known to wait for lets it; the delays that no"
        " dependency explains are left out. *Held out*: each kernel and copy takes the mean of its kind in the other"
        " steps; collectives keep theirs. Host time is the recorded one throughout. Traces without steps or without"
        " device work are left out: their replay is a sum.\n"
    )
    yield "| trace | steps | measured ms | unchanged | explained | held out |\n|---|---|---|---|---|---|"
    used = [row for row in rows if row["left_out"] is None]
    for row in used:
        held = "–" if row["held_out"] is None else _percent(row["held_out"])
        errors = f"{_percent(row['unchanged'])} | {_percent(row['explained'])} | {held}"
        yield f"| {row['trace']} | {row['steps']} | {row['measured_s'] * 1e3:.1f} | {errors} |"
    worst = {name: max(abs(row[name]) for row in used if row[name] is not None) for name in ("explained", "held_out")}
    yield (
        f"\nWorst of {len(used)} traces: explained {worst['explained']:.1%}, held out {worst['held_out']:.1%}."
        f" Left out: {', '.join(row['trace'] for row in rows if row['left_out'])}.\n"
    )


def _devices(rows: Rows) -> Iterator[str]:
    yield "## Another device\n"
    yield (
        "One case: Qwen2-0.5B answering a batch of 16, recorded by others on an H100 and on an MI300X, projected from"
        " each to the other.\n"
    )
    yield "| from | to | recorded ms | projected ms (interval) | measured ms | error |\n|---|---|---|---|---|---|"
    for row in rows:
        low, high = (f"{seconds * 1e3:.1f}" for seconds in row["interval_s"])
        times = (
            f"{row['base_s'] * 1e3:.1f} | {row['projected_s'] * 1e3:.1f} ({low}–{high}) | {row['measured_s'] * 1e3:.1f}"
        )
        yield f"| {row['from']} | {row['to']} | {times} | {_percent(row['error'])} |"
    yield "\nThe interval here is of the roofs alone.\n"


def _pairs(rows: Rows) -> Iterator[str]:
    yield "## Another batch, another type, on a CPU\n"
    yield (
        "Training steps of four small models on a shared 2-core AMD EPYC: on one thread in processor time, on two by"
        " the clock, the fastest of several bursts; projected from the least disturbed recorded step. *Left as it is*:"
        " the error of taking the unchanged step for the answer. The rule for CPUs (arithmetic at its roof, all else"
        " with the bytes) was chosen after two other rules had failed on the perceptron, so that the other models are"
        " the fairer test. A batch whose rows could be features is refused and is not among them.\n"
    )
    if "roofs" not in rows[0]:
        yield STALE
    yield "| model | what | from | to | projected ms | measured ms | error | left as it is |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        old, new = (f"{size}, {dtype}" + (f", {threads} threads" if row["kind"] == "threads" else "")
                    for size, dtype, threads in (row["from"], row["to"]))  # fmt: skip
        times = f"{row['projected_s'] * 1e3:.1f} | {row['measured_s'] * 1e3:.1f}"
        errors = f"{_percent(row['error'])} | {_percent(row['unchanged_error'])}"
        yield f"| {row['model']} | {row['kind']} | {old} | {new} | {times} | {errors} |"
    yield ""
    for kind in dict.fromkeys(row["kind"] for row in rows):
        yield f"- {kind}: {_summary([row['error'] for row in rows if row['kind'] == kind])}"
    yield f"- all: {_summary([row['error'] for row in rows])}"
    others = [row["error"] for row in rows if row["model"] != "mlp"]
    yield f"- without the perceptron: {_summary(others)}"
    if "repeat_error" in rows[0]:
        yield f"- {_repeats(rows)}"
    yield ""


def _memory(rows: Rows) -> Iterator[str]:
    yield "## Memory plans\n"
    yield (
        "`probe plan memory --step` of `benchmarks/planned_steps.py` against the most that the profiler saw allocated"
        " at once, on a CPU.\n"
    )
    yield "| model | planned MiB | measured MiB | error |\n|---|---|---|---|"
    for row in rows:
        sizes = f"{row['planned_bytes'] / 2**20:.1f} | {row['measured_bytes'] / 2**20:.1f}"
        yield f"| {row['model']} | {sizes} | {_percent(row['error'])} |"
    said = "The plan knows what a CPU's convolutions copy or unfold for themselves; a GPU's workspaces it does not."
    yield f"\n{_summary([row['error'] for row in rows])}. {said}\n"


def _changes(rows: Rows) -> Iterator[str]:
    yield "## Fused and replaced operators, on a CPU\n"
    yield (
        "Forward passes of two blocks, each what is named and a product of 256 × 256, on one thread in processor time:"
        " written out by hand, and with the one operator that torch has for it. The first is recorded; `--fuse` is told"
        " which operators become one, `--replace` how long the new operator takes alone on the same sizes, with"
        " `--remove` for the rest. The second is measured. Tensors are of 256 KiB, 2 MiB and 8 MiB. RMSNorm is a"
        " control: torch's own is no faster on a CPU.\n"
    )
    yield "| what | operator | rows | memory | by hand ms | projected ms | measured ms | error | left as it is |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        times = " | ".join(f"{row[key] * 1e3:.2f}" for key in ("before_s", "projected_s", "measured_s"))
        errors = f"{_percent(row['error'])} | {_percent(row['unchanged_error'])}"
        yield f"| --{row['kind']} | {row['name']} | {row['rows']} | {row['memory']} | {times} | {errors} |"
    yield ""
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for memory in dict.fromkeys(row["memory"] for row in rows):
            chosen = [row for row in rows if (row["kind"], row["memory"]) == (kind, memory)]
            yield f"- --{kind}, memory {memory}: {_summary([row['error'] for row in chosen])}; {_repeats(chosen)}"
    yield (
        "\nMemory *returned* is glibc's way as it comes: what a step frees goes back to the system, and the next step"
        " pays for every page of it again, whichever operator touches it first. What one operator saves so, another may"
        " pay. Memory *kept* is the same with `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` set so high that"
        " nothing goes back. Reports tell the errors of memory as it comes.\n"
    )


def _repeats(rows: Rows) -> str:
    """By how much the measurement differs from itself."""
    sizes = sorted(abs(row["repeat_error"]) for row in rows)
    return f"the same step measured twice: median {statistics.median(sizes):.1%}, worst {sizes[-1]:.1%}"


def _links(found: dict[str, Any]) -> Iterator[str]:
    yield "## Collectives\n"
    cores, rows = found["cores"], found["rows"]
    yield (
        f"All-reduces of Gloo at 2 ranks, held against 3 and 4 on the same {cores} core{'s' if cores > 1 else ''}: as"
        " long as 2 ranks took for as many bytes sent, on the line between the two sizes next to it, and α for each"
        " further hop. Gloo moves data with the host's processor, so that ranks beyond the cores wait for one another:"
        " that time is taken times ranks over cores, where this is above 1. Nothing of 3 and 4 ranks went into it. *By"
        " the clock* others' work on the machine counts as well; *processor time* is that of all ranks together. Of"
        " several rounds, in which all ranks and sizes took turns, the fastest.\n"
    )
    waited = statistics.median(row["clock"]["measured_s"] * cores / row["processor"]["measured_s"] for row in rows)
    if waited > BUSY:
        yield (
            f"By the clock, a collective took {waited:.1f} times what its processor time needs: others were at work,"
            " and the columns by the clock say more of them than of the model. Measure again on a quiet machine.\n"
        )
    each = "foretold ms | measured ms | error"
    yield f"| ranks | MiB | by the clock: {each} | processor time: {each} |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        both = (row["clock"], row["processor"])
        cells = (f"{x['foretold_s'] * 1e3:.2f} | {x['measured_s'] * 1e3:.2f} | {_percent(x['error'])}" for x in both)
        yield f"| {row['ranks']} | {row['bytes'] / 2**20:.1f} | {' | '.join(cells)} |"
    yield ""
    for kind, told in (("clock", "by the clock"), ("processor", "processor time")):
        alike = sorted(map(abs, found["repeat"][kind]))
        yield f"- {told}, 3 and 4 ranks from 2: {_summary([row[kind]['error'] for row in rows])}"
        yield (
            f"- {told}, a size left out, from its neighbours at the same ranks:"
            f" {_summary([row[kind]['error'] for row in found['left_out']])}"
        )
        yield f"- {told}, the same point measured twice: median {statistics.median(alike):.1%}, worst {alike[-1]:.1%}"
    more = ", ".join(f"{_percent(share)} at {ranks}" for ranks, share in found["powers_of_two"].items())
    yield (
        "\nNo model can be nearer than two measurements of the same point are to each other. Sizes are a tenth above"
        " powers of two. At powers of two Gloo's segments, 1 MiB at the most, mostly are exactly that; the processor"
        f" time of a byte differed there by {more} ranks (median from 4 MiB up).\n"
    )


def _over_nodes() -> Iterator[str]:
    """What the model gives for large all-reduces over nodes, beside what was published."""
    yield "## All-reduces over nodes, held against what others published\n"
    yield (
        "16 GB, nodes of 8 H100 (NVLink 4, with and without NVLS) and eight 400 Gbit/s cards; the 248 nodes have H200,"
        " and the rate of their eight cards was not told. Nobody has measured"
        " these with probe, and the rate over two nodes with NVLS is itself the published one.\n"
    )
    yield "| nodes | NVLS | busbw foretold GB/s | published GB/s | error |\n|---|---|---|---|---|"
    near, far = path(Link.NVLINK4), path(Link.NDR)
    for nodes, switches, published, source in PUBLISHED:
        ranks = 8 * nodes
        took_s = spread_seconds("all_reduce", SIZE, ranks, 8, replace(near, nvls=switches), far)
        found = volume_bytes("all_reduce", SIZE, ranks) / took_s / 1e9
        told = f"[{published}](https://github.com/NVIDIA/{source})"
        yield f"| {nodes} | {'yes' if switches else 'no'} | {found:.0f} | {told} | {_percent(found / published - 1)} |"
    yield ""


def _missing(kinds: set[str]) -> Iterator[str]:
    yield "## Not measured\n"
    threads = (
        "Other numbers of threads (the machine at hand is shared by others, and two threads wait for a second core"
        " longer than they work), another"
    )
    lead = "Another" if "threads" in kinds else threads
    yield (
        f"{lead} batch or type on a GPU, fused chains in a backward pass or on a GPU, launches as CUDA graphs,"
        " ranks over NCCL by measurements of our own, the closed-form memory plan of a transformer, and prices.\n"
    )


def with_errors(source: str, results: Path) -> str:
    """The text of analyzers/projection/validated.py with the errors that were measured."""
    rows: Rows = []
    for name in ("devices", "pairs", "changes"):
        file = results / f"projection.{name}.json"
        rows += json.loads(file.read_text()) if file.is_file() else []
    for kind in dict.fromkeys(row.get("kind", "device") for row in rows):
        sizes = sorted(abs(row["error"]) for row in told_of(rows, kind))
        numbers = f"{statistics.median(sizes):.3f}, {sizes[-1]:.3f}, {len(sizes)}"
        source = re.sub(rf'(Errors\("{kind}", )[0-9.]+, [0-9.]+, [0-9]+', rf"\g<1>{numbers}", source)
    return source


def told_of(rows: Rows, kind: str) -> Rows:
    """The rows of a kind whose errors reports tell: of memory as it comes, where both ways were measured."""
    return [row for row in rows if row.get("kind", "device") == kind and row.get("memory", "returned") == "returned"]


def _summary(errors: Sequence[float]) -> str:
    sizes = sorted(map(abs, errors))
    return f"median {statistics.median(sizes):.1%}, worst {sizes[-1]:.1%}, n = {len(sizes)}"


def _percent(error: float) -> str:
    return f"{error:+.1%}"
