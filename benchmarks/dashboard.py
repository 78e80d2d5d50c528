"""How fast is the dashboard? A synthetic run of a million events and 5000 operators, looked at in headless Chromium.

    python benchmarks/dashboard.py [--events 1000000] [--operators 5000] [--runs 3]

Prints the median and the range of each measure, with the load of the machine: on a busy one they are upper bounds.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STEPS = 4


def events(count: int, operators: int) -> Iterator[str]:
    """Steps of operators that launch a kernel each: three events a call, as lines of a Kineto trace."""
    calls = count // 3
    for step in range(STEPS):
        begin = step * calls // STEPS * 20
        yield _event("user_annotation", f"ProfilerStep#{step}", begin, calls // STEPS * 20 - 1, 1, "")
    for call in range(calls):
        kind, at = call * 7919 % operators, call * 20
        rows, columns = 64 + kind % 70 * 8, 64 + kind // 70 * 8
        dims = f'"Input Dims":[[{rows},{columns}],[{columns},{rows}]],"Input type":["float","float"],'
        name = "aten::mm" if kind % 3 else f"aten::add_{kind % 40}"
        yield _event("cpu_op", name, at, 12, 1, f'{dims}"External id":{call + 1}')
        yield _event("cuda_runtime", "cudaLaunchKernel", at + 2, 4, 1, f'"correlation":{call + 1}')
        wait = 5 + kind % 13
        yield _event(
            "kernel", f"kernel_{kind % 400}", at + 8, wait, 7, f'"device":0,"stream":7,"correlation":{call + 1}'
        )


def _event(category: str, name: str, at: int, duration: int, thread: int, args: str) -> str:
    return (
        f'{{"ph":"X","cat":"{category}","name":"{name}","pid":7,"tid":{thread},"ts":{at},"dur":{duration},'
        f'"args":{{{args}}}}}'
    )


def write(path: Path, count: int, operators: int) -> None:
    """The trace, gzip."""
    gpu = '[{"id":0,"name":"NVIDIA H100 80GB HBM3","computeMajor":9,"computeMinor":0,"numSms":132}]'
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(f'{{"schemaVersion":1,"deviceProperties":{gpu},"traceEvents":[\n')
        file.write(",\n".join(events(count, operators)))
        file.write("]}")


def start(path: Path) -> tuple[subprocess.Popen[str], str, float]:
    """A dashboard of its own, its address, and the seconds of CPU until it was printed."""
    command = [sys.executable, "-m", "probe", "dashboard", str(path), "--no-browser", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    root = server.stdout.readline().split()[-1].rstrip("/")
    return server, root, _cpu_s(server.pid)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """What the server holds now."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def at_rest(pid: int) -> int:
    """What the server holds once that has not changed for two seconds: memory is given back a while after a reading."""
    before, now, since = -1, memory_bytes(pid), time.monotonic()
    while now != before and time.monotonic() - since < 60:
        time.sleep(2)
        before, now = now, memory_bytes(pid)
    return now


def trace_bytes(path: Path) -> int:
    """The size of the parsed trace: its arrays and names."""
    from probe.readers import formats

    return _size(formats.read(path), set())


def _size(part: Any, seen: set[int]) -> int:
    if id(part) in seen:
        return 0
    seen.add(id(part))
    if hasattr(part, "nbytes"):
        return int(part.nbytes)
    if hasattr(part, "__dataclass_fields__"):
        return sum(_size(getattr(part, name), seen) for name in part.__dataclass_fields__)
    if isinstance(part, (tuple, list)):
        return sum(_size(one, seen) for one in part) + 8 * len(part)
    return sys.getsizeof(part) if isinstance(part, str) else 0


def timed(page: Any, root: str, address: str, there: str) -> float:
    """Seconds from asking for a page until what was wanted stands in it."""
    begin = time.perf_counter()
    page.goto(root + address)
    page.wait_for_function(there)
    return time.perf_counter() - begin


READY = {
    "overview": "() => document.querySelector('.kpis') && document.querySelector('.legend')",
    "roofline": "() => document.querySelector('.js-plotly-plot .points path')",
    "operators": "() => document.querySelector('.ag-center-cols-container .ag-row')",
    "timeline": "() => window.probe.timeline && window.probe.timeline.alive && window.probe.timeline.stats.draw.length",
}
FRAMES = """async () => { const t = probe.timeline; let n = 0; const begin = performance.now();
  while (performance.now() - begin < 2000) { t.pan(n % 40 < 20 ? 24 : -24);
    await new Promise(requestAnimationFrame); n++; } return n / 2; }"""
TILES = """async () => { const t = probe.timeline; t.stats = {draw: [], tile: [], bytes: []};
  for (const part of [1, .5, .2, .1, .05, .02, .01, .005, .001]) { const w = (t.meta.end - t.meta.begin) * part;
    t.go(t.meta.begin + (t.meta.end - t.meta.begin - w) * .4, t.meta.begin + (t.meta.end - t.meta.begin - w) * .4 + w);
    await new Promise(done => setTimeout(done, 700)); } return t.stats; }"""
SELECT = """async () => { probe.times = []; for (let i = 0; i < 25; i++) { probe.select(i * 7 + 1, "benchmark");
    await new Promise(done => setTimeout(done, 150)); } return probe.times; }"""
THEME = """() => { const begin = performance.now(); document.getElementById("theme").click();
    document.body.getBoundingClientRect(); return performance.now() - begin; }"""


def measure(root: str, runs: int) -> Iterator[tuple[str, str, Sequence[float]]]:
    """Every measure as (what, unit, values)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        weight: list[float] = []
        times: dict[str, list[float]] = {name: [] for name in READY}
        for _ in range(runs):
            for name, there in READY.items():
                context = browser.new_context(viewport={"width": 1440, "height": 900})
                page = context.new_page()
                page.set_default_timeout(300_000)
                times[name].append(timed(page, root, f"/{name}", there))
                got = "performance.getEntriesByType('resource').reduce((sum, one) => sum + one.transferSize, 0)"
                weight.append(page.evaluate(got) / 1e6)
                if name == "roofline":
                    chosen, changed = page.evaluate(SELECT), [page.evaluate(THEME) for _ in range(6)]
                if name == "timeline":
                    frames, tiles = page.evaluate(FRAMES), page.evaluate(TILES)
                context.close()
        yield from ((f"{name}, first complete", "s", values) for name, values in times.items())
        yield "page weight, compressed", "MB", [max(weight)]
        yield "operator chosen, to its card", "ms", chosen
        yield "theme changed", "ms", changed
        yield "timeline panned", "frames/s", [frames]
        yield "timeline drawn", "ms", tiles["draw"]
        yield "tile asked for, to its picture", "ms", tiles["tile"]
        browser.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--operators", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    wish = parser.parse_args()
    if CHROMIUM is None:
        raise SystemExit("no Chromium is installed; Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.json.gz"
        write(path, wish.events, wish.operators)
        server, root, cpu_s = start(path)
        try:
            _report(server, root, cpu_s, path, wish)
        finally:
            server.terminate()
            server.wait()


def _report(server: subprocess.Popen[str], root: str, cpu_s: float, path: Path, wish: argparse.Namespace) -> None:
    print(f"{wish.events} events, {wish.operators} operators, load {os.getloadavg()[0]:.1f}")
    print(f"{'CPU until the address is printed':36}{cpu_s:8.2f} s")
    idle = memory_bytes(server.pid)
    print(f"{'run read and analysed':36}{_first_visit(root):8.1f} s")
    held = trace_bytes(path)
    print(f"{'parsed trace':36}{held / 1e6:8.0f} MB")
    _tell_memory("server, idle", idle, idle, held)
    _tell_memory("server, run and timeline held", at_rest(server.pid), idle, held)
    _ten_tabs(root)
    _tell_memory("server, after ten tabs at once", at_rest(server.pid), idle, held)
    for what, unit, values in measure(root, wish.runs):
        spread = f"[{min(values):.3g}, {max(values):.3g}] n {len(values)}"
        print(f"{what:36}{statistics.median(values):8.3g} {unit:9}{spread}")
    _tell_memory("server, after all", at_rest(server.pid), idle, held)
    print(f"load {os.getloadavg()[0]:.1f}")


def _tell_memory(what: str, now: int, idle: int, held: int) -> None:
    print(f"{what:36}{now / 1e6:8.0f} MB       beyond idle {(now - idle) / held:.2f} of the parsed trace")


def _first_visit(root: str) -> float:
    """Seconds until the overview of a run that nobody asked for before stands; then its timeline is asked for."""
    from playwright.sync_api import sync_playwright

    begin = time.perf_counter()
    with sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        timed(page, root, "/overview", READY["overview"])
        took = time.perf_counter() - begin
        timed(page, root, "/timeline", READY["timeline"])
        browser.close()
    return took


def _ten_tabs(root: str) -> None:
    """Ten tabs that stand open together, on all pages with data."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for number in range(10):
            page = browser.new_page()
            page.set_default_timeout(300_000)
            name = list(READY)[number % len(READY)]
            timed(page, root, f"/{name}", READY[name])
        browser.close()


if __name__ == "__main__":
    main()
