"""Does the terminal show first what does not work, each with its step, in 80 columns and in ASCII too?"""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from probe import doctor
from probe.doctor.check import Doctor, broken, unknown, works
from probe.report.doctor import render

ENVIRONMENT = {"os": "Ubuntu 24.04.2 LTS, Linux 6.8.0", "python": "3.12.3", "torch": "2.13.0"}
SAMPLE = Doctor(
    (
        replace(works("torch", "2.13.0, built for CUDA 13.0", "means"), group="Software"),
        replace(works("PCIe 0", "gen 5 ×16 of gen 5 ×16", "means"), group="GPU"),
        replace(works("PCIe 1", "gen 5 ×16 of gen 5 ×16", "means"), group="GPU"),
        broken("Power, clocks 0", "cap 500 W of 700 W", "capped below its default", "sudo nvidia-smi -i 0 -pl 700"),
        unknown("nvcc", "not [red]found[/red]", "only building extensions needs it"),
        unknown("NVLink", "none here", "why"),
        unknown("Peer-to-peer", "none here", "why"),
        unknown("Attaching (ptrace)", "ptrace_scope 1", "py-spy", "sudo sysctl kernel.yama.ptrace_scope=0"),
    ),
    ENVIRONMENT,
    ("something was said",),
)
GOLDEN = """\
probe doctor  Ubuntu 24.04.2 LTS · Python 3.12.3 · torch 2.13.0

To mend
✗ Power, clocks 0    cap 500 W of 700 W
                     capped below its default
                   → sudo nvidia-smi -i 0 -pl 700

Works
  Software
✓ torch              2.13.0, built for CUDA 13.0
  GPU
✓ PCIe 0, 1          gen 5 ×16 of gen 5 ×16

Does not apply, or cannot be known
– nvcc               not [red]found[/red]
– NVLink             none here: Peer-to-peer too; why
– Attaching (ptrace) ptrace_scope 1
                   → sudo sysctl kernel.yama.ptrace_scope=0
warning: something was said

1 to mend, 3 work, 4 do not apply or cannot be known.
"""


def _rendered(found: Doctor, width: int = 80, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render(found, Console(width=width, file=stream, color_system=None))
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]  # BytesIO's
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def test_report_is_golden() -> None:
    assert _rendered(SAMPLE) == GOLDEN


def test_report_without_unicode() -> None:
    assert _rendered(SAMPLE, encoding="ascii") == GOLDEN.translate(
        {ord("✓"): "+", ord("✗"): "x", ord("–"): "-", ord("→"): ">", ord("×"): "x", ord("·"): "|"}
    )


@pytest.mark.parametrize("width", [40, 80, 200])
def test_report_of_this_machine_fits(width: int) -> None:
    text = _rendered(doctor.examine(), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.splitlines()[-1]


def test_report_with_nothing_to_mend() -> None:
    well = replace(SAMPLE, checks=SAMPLE.checks[:3], warnings=())
    assert _rendered(well).splitlines()[-1] == "Nothing to mend: 3 work, 0 do not apply or cannot be known."
