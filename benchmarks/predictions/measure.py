"""Does following a rule's advice save what its finding said? Predicted and measured speed-ups, side by side.

    python benchmarks/predictions/measure.py [--only F06] [--quick] [--threads 1]

Each program is recorded three times as a user would; the prediction is the median of step / (step - saving), of all
findings of the rule together. The real ratio is that of interleaved pairs in random order, with the bootstrap interval
of its median. A rule that does not speak counts as a ratio of 1 and is marked. What both programs compute is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from ledger import Row, save
from pair import Pair, Result, Step, all_pairs
from table import line, say_all

import probe
from probe.microbench.harness import Window, repeats_for
from probe.microbench.timers import HostTimer
from probe.verify.pairs import measure

WINDOW_S = 0.05  # of steps in a row, at least: short ones are not lost in the noise
BUDGET_S = 10.0  # for the pairs of one program
QUICK_BUDGET_S = 4.0
RECORDINGS = 3
MAX_PAUSE_S = 10.0  # loops over rows have many events; nobody waits here
STEPS = 16  # of a recording, 3 of them traced
WARM = 3  # before it: a user's loop has been running for long


def main() -> None:
    """Measure what was asked, print it, and keep it in the ledger of this device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", default=[], help="codes of rules, or names of programs")
    parser.add_argument("--quick", action="store_true", help="one program a rule where there are several, less time")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    budget_s = QUICK_BUDGET_S if asked.quick else BUDGET_S
    rows = []
    for pair in chosen(all_pairs(), asked.only, asked.quick):
        row = measured(pair, budget_s)
        if row is not None:
            rows.append(row)
            save(row, asked.threads)
    say_all(rows)


def chosen(pairs: Sequence[Pair], only: Sequence[str], quick: bool) -> list[Pair]:
    """The pairs that were asked for; of each rule one, where it has to be quick."""
    wanted = [p for p in pairs if not only or p.code in only or p.name in only]
    if not quick:
        return wanted
    first = {p.code: p for p in reversed(wanted)} | {p.code: p for p in wanted if p.quick}
    return [p for p in wanted if first[p.code] is p]


def measured(pair: Pair, budget_s: float) -> Row | None:
    """The row of one pair; None, and a line that says why, where it cannot be run here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of the program
            row = _measured(pair, budget_s)
    except Exception as error:  # a twin that does not compile here must not end the others
        print(f"{pair.code} {pair.name}: not run: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
        return None
    print(line(row), flush=True)
    return row


def _measured(pair: Pair, budget_s: float) -> Row:
    old, new = made(pair)
    error = difference(value_of(old), value_of(new)) if pair.tolerance is not None else None
    recorded = [recording(pair) for _ in range(RECORDINGS)]
    windows = tuple(window(side) for side in (old, new))
    pairs = measure(lambda: (windows[0], windows[1]), budget_s, 0, time.perf_counter)
    predictions = sorted(r.predicted for r in recorded)
    return Row(
        code=pair.code, program=pair.name, step_s=median(r.step_s for r in recorded),
        found=sum(r.found for r in recorded), promised=sum(r.promised for r in recorded),
        replacement=next((r.replacement for r in recorded if r.found), None),
        others=recorded[-1].others, predicted=median(predictions), predictions=tuple(predictions),
        measured=pairs.speedup, interval=pairs.interval(), pairs=pairs.n, noise=pairs.noise,
        value_error=error, equal=None if error is None or pair.tolerance is None else error <= pair.tolerance,
    )  # fmt: skip


def made(pair: Pair) -> tuple[Step, Step]:
    """Both programs, from the same random numbers; nothing compiled is left from others."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    return pair.make()


def value_of(step: Step) -> Result:
    """What the first step gives; both sides draw the same random numbers."""
    torch.manual_seed(1)
    return step()


def difference(old: Result, new: Result) -> float | None:
    """The largest difference, by the largest number of its tensor, or a thousandth of that of all if that is more.

    None where nothing is given. Gradients that are noise about 0 are compared with the others, not with themselves.
    """
    if old is None or new is None:
        return None
    a, b = ([x] if isinstance(x, torch.Tensor) else list(x) for x in (old, new))
    if len(a) != len(b):
        return float("inf")
    both = [(x.detach().to_dense().double(), y.detach().to_dense().double()) for x, y in zip(a, b, strict=True)]
    least = max(1e-3 * max(float(x.abs().max()) for x, _ in both), 1e-12)
    return max(float((x - y.reshape(x.shape)).abs().max()) / max(float(x.abs().max()), least) for x, y in both)


class Recording:
    """What the findings of one recording of the original say."""

    def __init__(self, pair: Pair, analysis: probe.Analysis) -> None:
        told = [f for f in analysis.findings if f.code == pair.code]
        counted = [f for f in analysis.findings if f.code in (pair.code, pair.told_by)] if told else []
        saved = min(sum(f.saving_fraction or 0.0 for f in counted), 0.99)
        self.found = bool(told)
        self.promised = any(f.saving_fraction is not None for f in counted)
        self.predicted = 1 / (1 - saved)
        self.replacement = told[0].replacement if told else None
        self.step_s = analysis.steps.bare_mean_s or analysis.steps.mean_s or 0.0
        self.others = tuple(
            f"{f.code} {f.saving_fraction:.0%}" for f in analysis.findings if f.code != pair.code and f.saving_fraction
        )


def recording(pair: Pair) -> Recording:
    """Record some steps of the original as a user would."""
    step = made(pair)[0]
    for _ in range(WARM):
        step()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        with probe.profile(Path(folder) / "run", wait=6, max_pause_s=MAX_PAUSE_S, telemetry=False) as prof:
            prof.quiet = True
            for _ in range(STEPS):
                step()
                prof.step()
        return Recording(pair, probe.analyze(Path(folder) / "run"))


def window(step: Step) -> Window:
    """Seconds a step, of as many steps in a row as take the time of a window."""
    timer = HostTimer()
    for _ in range(3):
        step()
    calls = repeats_for(lambda n: timer.window(step, n), WINDOW_S)
    return lambda: timer.window(step, calls) / calls


if __name__ == "__main__":
    main()
