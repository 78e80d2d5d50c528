"""The pytest plug-in: `def test_step(probe_gate): probe_gate(step)` fails where the step got slower.

    pytest --probe-gate-against main

runs each such test's step from the files of `main` and from the working tree in turn, as `probe gate check` does.
Without the option the step is called once, so that the test is a test. Under xdist, whose workers disturb one another,
it is off, with a warning. Thresholds of one test: `probe_gate(step, floor=0.02, tolerance=0.1, op_floor=0.1)`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest

from probe.gate.protocol import SERVED

BUDGET_S = 60.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the plug-in."""
    group = parser.getgroup("probe", "performance gate")
    group.addoption("--probe-gate-against", metavar="GITREF", help="hold steps of probe_gate against this version")
    group.addoption("--probe-gate-budget", metavar="SECONDS", type=float, help="for each test; by default 60")


@pytest.fixture
def probe_gate(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call it with the step: `probe_gate(step, floor=…, tolerance=…, op_floor=…)`."""

    def gate(step: Callable[[], object], **thresholds: float) -> Any:
        if os.environ.get(SERVED):
            return _serve(step)
        against = request.config.getoption("--probe-gate-against")
        if against is None:
            return step()
        if hasattr(request.config, "workerinput"):
            warnings.warn("probe_gate is off under xdist: run pytest without -n to gate", stacklevel=2)
            return step()
        return _gate(request, against, thresholds)

    return gate


def _serve(step: Callable[[], object]) -> None:
    """In a worker: steps for ever, each told to the gate."""
    from probe.gate import worker

    while True:
        step()
        worker.step()


def _gate(request: pytest.FixtureRequest, against: str, thresholds: dict[str, float]) -> Any:
    """Both versions of this very test, in turn."""
    from dataclasses import replace

    from probe.errors import ProbeError
    from probe.gate.check import Request, check
    from probe.gate.command import Command
    from probe.gate.settings import settings
    from probe.report.gate import as_text

    node = request.node.nodeid
    arguments = (node, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", ".")
    command = Command("pytest", arguments, module=True, served=True)
    root = request.config.rootpath
    if unknown := sorted(set(thresholds) - {"floor", "tolerance", "op_floor", "op_share"}):
        pytest.fail(f"probe_gate({unknown[0]}=…): it takes floor, tolerance, op_floor and op_share", pytrace=False)
    try:
        chosen = settings(root)
        limits = replace(chosen.limits, **cast(dict[str, Any], thresholds))
        budget_s = request.config.getoption("--probe-gate-budget") or chosen.budget_s or BUDGET_S
        result = check(Request(command, against, limits, budget_s, cwd=root))
    except ProbeError as error:
        pytest.fail(f"probe gate: {error}", pytrace=False)
    for warning in (*chosen.warnings, *result.warnings):
        warnings.warn(f"probe gate: {warning}", stacklevel=2)
    request.node.user_properties.append(("probe_gate", result.summary))
    if result.verdict == "fail":
        pytest.fail(as_text(result), pytrace=False)
    if result.verdict == "inconclusive" and chosen.strict:
        pytest.fail(as_text(result), pytrace=False)
    if result.verdict == "inconclusive":
        pytest.skip(f"probe gate: {result.summary}")
    return result
