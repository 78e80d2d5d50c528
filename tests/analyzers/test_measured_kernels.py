"""`probe analyze --counters`: what Nsight Compute measured takes the place of what a model says."""

import csv
from pathlib import Path

from builders import GPU, kernel, launch, op, shapes, step, write

import probe
from probe.readers import ncu

SIZES = shapes([16], [4, 8], [8, 16])


def trace(tmp_path: Path) -> Path:
    events = [step(1, 0, 100), op("aten::addmm", 5, 20, **SIZES), launch(1, 10), kernel("sgemm", 20, 50, 1)]
    return write(tmp_path, events, deviceProperties=GPU)


def counters(tmp_path: Path, *, fma: int, moved: int, grid: str = "(8, 1, 1)") -> Path:
    head = ["ID", "Kernel Name", "Block Size", "Grid Size", "Metric Name", "Metric Unit", "Metric Value"]
    values = dict.fromkeys(ncu.METRICS, "0") | {
        "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum": str(fma),
        "dram__bytes.sum": str(moved),
        "gpu__time_duration.sum": "50000.0",
    }
    units = {"dram__bytes.sum": "byte", "gpu__time_duration.sum": "ns"}
    path = tmp_path / "ncu.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(head)
        for metric, value in values.items():
            writer.writerow(["0", "sgemm", "(128, 1, 1)", grid, metric, units.get(metric, "inst"), value])
    return path


def test_measured_flop_and_bytes_replace_the_models(tmp_path: Path) -> None:
    modelled = probe.analyze(trace(tmp_path)).ops[0]
    found = probe.analyze(trace(tmp_path), counters=counters(tmp_path, fma=5000, moved=3_000_000))
    measured = next(o for o in found.ops if o.name == "aten::addmm")
    assert modelled.flops != 10_000
    assert (measured.flops, measured.bytes) == (10_000, 3_000_000)
    assert any("measured by Nsight Compute" in text for text in measured.evidence)


def test_a_launch_of_another_grid_is_not_taken(tmp_path: Path) -> None:
    modelled = probe.analyze(trace(tmp_path))
    found = probe.analyze(trace(tmp_path), counters=counters(tmp_path, fma=5000, moved=3, grid="(9, 1, 1)"))
    assert found.ops[0].flops == modelled.ops[0].flops
    assert any("1 of 1 measured launches are of no kernel of the trace" in warning for warning in found.warnings)
