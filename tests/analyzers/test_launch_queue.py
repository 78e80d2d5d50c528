"""A kernel that starts right after its launch found the queue empty; one that starts late had to wait."""

from pathlib import Path

import numpy as np
import pytest
from builders import GPU, kernel, launch, op, step, write

import probe
from probe.analyzers.gpu.launch_queue import empty_queue_fractions, queue_text
from probe.readers.kineto import read


def test_prompt_and_queued_kernels(tmp_path: Path) -> None:
    events = [step(1, 0, 400), op("aten::add", 0, 50)]
    events += [
        launch(1, 5),
        kernel("add", 9, 2, 1),
        launch(2, 20),
        kernel("add", 100, 2, 2),
        kernel("lost", 200, 2, 99),
    ]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    fractions = empty_queue_fractions(trace, np.array([0, 0, 1], np.int32), 3)
    assert fractions[0] == pytest.approx(0.5)
    assert np.isnan(fractions[1:]).all()
    assert queue_text(float(fractions[2])) == ()
    evidence = probe.analyze(tmp_path / "trace.json").ops[0].evidence
    assert "the launch queue was empty for 50% of its kernels" in evidence
