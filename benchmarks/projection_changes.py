"""Does a step with a fused or replaced operator take what `--fuse` and `--replace` foretold? On one thread of a CPU.

Every case is a step twice over: written out by hand, and with the one operator that torch has for the same. The first
is recorded and projected, the second is measured. `--fuse` knows nothing of the second; `--replace` is told how long
the new operator takes alone, on tensors of the same sizes. The steps of a case take turns, in processor time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

WIDTH, BLOCKS = 256, 2
ROWS = (256, 2048, 8192)  # tensors of 256 KiB, 2 MiB and 8 MiB
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
MEMORY = {  # what glibc is told, in bytes: as it comes, what is freed goes back to the system and is mapped anew
    "returned": {},
    "kept": {"MALLOC_TRIM_THRESHOLD_": str(4 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)},
}
HEADS, SEQUENCE = 4, 256
SCALE = (WIDTH // HEADS) ** -0.5


@dataclass(frozen=True)
class Case:
    """A part of a step in two ways. ops: by hand, in order to fuse; to replace the first, and to remove the others."""

    name: str
    kind: str  # "fuse" or "replace"
    ops: tuple[str, ...]
    by_hand: Callable[[Any], Any]
    at_once: Callable[[Any], Any]


def cases() -> Iterator[Case]:
    """Chains of which torch has a fused form on a CPU."""
    import torch
    from torch.nn import functional

    weight, bias = torch.ones(WIDTH), torch.zeros(WIDTH)

    def softmax(x: Any) -> Any:
        e = (x - x.amax(-1, keepdim=True)).exp()
        return e / e.sum(-1, keepdim=True)

    def rms(x: Any) -> Any:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight

    def layer(x: Any) -> Any:
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * weight + bias

    def attention(x: Any) -> Any:
        q = _heads(x)
        return (((q @ q.transpose(-2, -1)) * SCALE).softmax(-1) @ q).transpose(1, 2)

    ops = ("sum", "div_", "sub", "pow", "sum", "div_", "add", "rsqrt", "mul", "mul", "add")
    yield Case("SiLU", "fuse", ("sigmoid", "mul"), lambda x: x * torch.sigmoid(x), functional.silu)
    yield Case("GELU", "fuse", ("div", "erf", "add", "mul", "mul"),
               lambda x: (torch.erf(x / 2**0.5) + 1) * x * 0.5, functional.gelu)  # fmt: skip
    yield Case("scale and shift", "fuse", ("mul", "add"),
               lambda x: x * weight + bias, lambda x: torch.addcmul(bias, x, weight))  # fmt: skip
    yield Case("softmax", "fuse", ("amax", "sub", "exp", "sum", "div"), softmax, lambda x: functional.softmax(x, -1))
    yield Case("LayerNorm", "fuse", ops, layer, lambda x: functional.layer_norm(x, (WIDTH,), weight, bias))
    yield Case("LayerNorm", "replace", ("rsqrt", *(op for op in dict.fromkeys(ops) if op != "rsqrt")), layer,
               lambda x: functional.layer_norm(x, (WIDTH,), weight, bias))  # fmt: skip
    yield Case("RMSNorm", "replace", ("rsqrt", "pow", "sum", "div_", "add", "mul"), rms,
               lambda x: functional.rms_norm(x, (WIDTH,), weight, 1e-6))  # fmt: skip
    sdpa = functional.scaled_dot_product_attention
    yield Case("attention", "replace", ("_softmax", "bmm", "mul", "copy_"), attention,
               lambda x: sdpa(*[_heads(x)] * 3, scale=SCALE).transpose(1, 2))  # fmt: skip


def _heads(x: Any) -> Any:
    return x.view(-1, SEQUENCE, HEADS, WIDTH // HEADS).transpose(1, 2)


def steps(case: Case, rows: int) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """The step by hand, the step at once, and the new operator alone."""
    import torch

    torch.manual_seed(0)
    products = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS)]
    inputs = torch.randn(rows, WIDTH)

    def step(part: Callable[[Any], Any]) -> None:
        x = inputs
        for product in products:
            x = product(part(x).reshape(rows, WIDTH))

    def alone() -> None:
        case.at_once(inputs)

    return lambda: step(case.by_hand), lambda: step(case.at_once), alone


def measure(rounds: int) -> list[dict[str, Any]]:
    """Rows with memory returned to the system as it comes, and with memory kept."""
    return [{"memory": memory} | row for memory, told in MEMORY.items() for row in _measured(rounds, told)]


def _measured(rounds: int, environment: dict[str, str]) -> list[dict[str, Any]]:
    """A row for each case and size: projected and measured steps, and what doing nothing would have said."""
    from projection import answered, repeat_error

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        command, around = [sys.executable, __file__, folder, str(rounds)], os.environ | ONE_THREAD | environment
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=around)
        *found, rates = (json.loads(line) for line in told.stdout.splitlines() if line.startswith("{"))
        for one in found:
            before_s, after_s, alone_s = (min(each) for each in zip(*one["times"], strict=True))
            answer = answered(one["run"], lambda analysis, o=one, s=alone_s: asked(analysis, o, s), rates, before_s)
            rows.append(one | {
                "before_s": before_s, "projected_s": answer.step_s, "interval_s": answer.interval_s,
                "measured_s": after_s, "alone_s": alone_s, "error": answer.step_s / after_s - 1,
                "unchanged_error": before_s / after_s - 1, "repeat_error": repeat_error([t[1] for t in one["times"]]),
            })  # fmt: skip
            del rows[-1]["run"], rows[-1]["times"], rows[-1]["ops"]
            print(rows[-1], flush=True)
    return rows


def asked(analysis: Any, case: dict[str, Any], alone_s: float) -> Any:
    """The question as `--fuse A,B` or `--replace A=SECONDS --remove B` would ask it."""
    from probe.projecting.question import Wish, question_of

    names = [f"aten::{op}" for op in case["ops"]]
    if case["kind"] == "fuse":
        return question_of(analysis, Wish(fuse=(",".join(names),)), on_device=False)
    wish = Wish(replace=(f"{names[0]}={alone_s * 1e6}us",), remove=tuple(names[1:]))
    return question_of(analysis, wish, on_device=False)


def worker(folder: str, rounds: int) -> None:
    """Prints a line of times and a recorded run for each case and size, and one of roofs at the end."""
    import torch
    from projection import burst, record, roofs

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rates: dict[str, float] = {}
    for case in cases():
        for rows in ROWS:
            before, after, alone = steps(case, rows)
            times = [[burst(each) for each in (before, after, alone)] for _ in range(rounds)]
            run = record(before, f"{folder}/{case.kind}-{case.name}-{rows}")
            print(json.dumps({"name": case.name, "kind": case.kind, "rows": rows, "ops": case.ops,
                              "run": run, "times": times}), flush=True)  # fmt: skip
        rates = {key: (min if key == "launch" else max)(rates.get(key, rate), rate) for key, rate in roofs().items()}
    print(json.dumps(rates))


if __name__ == "__main__":
    worker(sys.argv[1], int(sys.argv[2]))
