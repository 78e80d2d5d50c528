"""TraceLens on one trace: load, then the tables whose content probe gives as well, through its Python interface.

Run by `rivals.py` with the Python of TraceLens' own environment: python -m benchmarks.traces.rival_tracelens FILE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.traces.stages import Stages


def main(path: Path) -> None:
    stages = Stages()
    from TraceLens import TreePerfAnalyzer  # type: ignore[import-not-found]  # installed elsewhere

    stages.mark("start and import")
    trace = TreePerfAnalyzer.from_file(str(path))
    stages.mark("load")
    stages.attempt("GPU timeline", trace.get_df_gpu_timeline)
    stages.attempt("kernel launchers", lambda: kernel_launchers(trace))
    stages.attempt("operators table", lambda: operators(trace))
    stages.print()


def kernel_launchers(trace: Any) -> None:
    """The operators that launch kernels, by name and by arguments."""
    launchers = trace.get_df_kernel_launchers(include_kernel_details=True)
    trace.get_df_kernel_launchers_summary(launchers)
    trace.get_df_kernel_launchers_unique_args(launchers)


def operators(trace: Any) -> None:
    """All operators with what is known of their cost."""
    table = trace.build_df_unified_perf_table()
    if len(table):
        trace.summarize_df_unified_perf_table(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
