"""Holistic Trace Analysis on one trace: load, then the five analyses whose answers probe gives as well.

Run by `rivals.py` with the Python of HTA's own environment: python -m benchmarks.traces.rival_hta FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.traces.stages import Stages


def main(path: Path) -> None:
    stages = Stages()
    from hta.trace_analysis import TraceAnalysis  # type: ignore[import-not-found]  # installed elsewhere

    stages.mark("start and import")
    trace = TraceAnalysis(trace_files={0: str(path)}, trace_dir=str(path.parent))
    stages.mark("load")
    stages.attempt("temporal breakdown", lambda: trace.get_temporal_breakdown(visualize=False))
    stages.attempt("idle time", lambda: trace.get_idle_time_breakdown(ranks=[0], visualize=False))
    stages.attempt("kernel breakdown", lambda: trace.get_gpu_kernel_breakdown(visualize=False))
    stages.attempt("communication overlap", lambda: trace.get_comm_comp_overlap(visualize=False))
    stages.attempt("launch statistics", lambda: trace.get_cuda_kernel_launch_stats(ranks=[0], visualize=False))
    stages.print()


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
