"""The gate's rule: seldom wrong on equals, sure of what is slower, and it says when it does not know."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.analyzers.gates.causes import causes, changes
from probe.analyzers.gates.counts import count_metrics
from probe.analyzers.gates.evidence import Blocks, Counted, OperatorTimes, Session
from probe.analyzers.gates.limits import EXACT_LIMITS, Limits
from probe.analyzers.gates.paired import judge
from probe.analyzers.gates.sequential import ALPHA, LOOKS, PER_LOOK, bounds, minimum_detectable_fraction, surely_slower
from probe.results.gate_result import GateResult, Metric, Side
from probe.stats import student_quantile, student_tail

SIDES = Side("base"), Side("new")
STEP_S = 0.01
OPS = {("aten::mm", "[8, 8]"): 0.006, ("aten::relu", "[8]"): 0.003, ("aten::sum", None): 0.001}


def session(
    ratio: float, rng: np.random.Generator, noise: float = 0.01, slow: dict[str, float] | None = None
) -> Session:
    """A session whose new side takes `ratio` as long, with `noise` between sessions and between blocks."""
    factor = ratio * math.exp(rng.normal(0, noise))
    base = STEP_S * np.exp(rng.normal(0, noise, 40))
    new = STEP_S * factor * np.exp(rng.normal(0, noise, 40))
    seconds = {key: s * math.exp(rng.normal(0, noise)) for key, s in OPS.items()}
    after = {key: OPS[key] * (slow or {}).get(key[0], 1.0) * math.exp(rng.normal(0, noise)) for key in OPS}
    calls = dict.fromkeys(OPS, 2.0)
    return Session(
        Blocks(base, new), Blocks(base, new), OperatorTimes(seconds, calls), OperatorTimes(after, calls),
        {"operators": Counted(10, 10, 9)}, {"operators": Counted(10, 10, 9)},
    )  # fmt: skip


def until_known(sessions: Sequence[Session]) -> GateResult:
    result = None
    for look in LOOKS:
        result = judge(sessions[:look], Limits(), "cpu_time", *SIDES)
        if result.verdict != "inconclusive":
            break
    assert result is not None
    return result


def verdicts(
    ratio: float, noise: float, count: int, seed: int, slow: dict[str, float] | None = None
) -> list[GateResult]:
    rng = np.random.default_rng(seed)
    return [until_known([session(ratio, rng, noise, slow) for _ in range(LOOKS[-1])]) for _ in range(count)]


def test_equals_seldom_fail() -> None:
    found = [r.verdict for r in verdicts(1.0, 0.012, 400, 1)]
    assert found.count("fail") <= 4
    assert found.count("pass") >= 380


def test_what_is_slower_fails() -> None:
    assert [r.verdict for r in verdicts(1.05, 0.012, 100, 2)].count("fail") >= 99
    assert [r.verdict for r in verdicts(1.03, 0.012, 100, 3)].count("fail") >= 90


def test_what_is_too_noisy_is_not_known() -> None:
    found = verdicts(1.0, 0.2, 50, 4)
    assert [r.verdict for r in found].count("fail") <= 2
    unknown = [r for r in found if r.verdict == "inconclusive"]
    assert len(unknown) >= 25
    assert all((r.minimum_detectable_fraction or 0) > 0.1 for r in unknown)


def test_an_operator_is_found_in_a_step_that_hides_it() -> None:
    slow = {"aten::relu": 1.3}
    for result in verdicts(1.0, 0.005, 20, 5, slow):  # the step's own noise hides what the operators show
        assert result.verdict == "fail"
        failed = [m.name for m in result.metrics if m.verdict == "fail"]
        assert failed == ["aten::relu [8]"]


def test_one_operator_may_be_excused() -> None:
    rng = np.random.default_rng(6)
    sessions = [session(1.0, rng, slow={"aten::relu": 1.3}) for _ in range(8)]
    for pattern, floor in (("aten::relu", math.inf), ("aten::*", 0.6)):
        result = judge(sessions, Limits(operators={pattern: floor}), "cpu_time", *SIDES)
        assert result.verdict == "pass"


def test_causes_and_the_rest_add_up() -> None:
    rng = np.random.default_rng(7)
    sessions = [session(1.09, rng, slow={"aten::relu": 1.3}) for _ in range(5)]
    result = judge(sessions, Limits(), "cpu_time", *SIDES)
    assert result.verdict == "fail" and result.causes[0].op == "aten::relu"
    assert result.delta_s is not None and result.unexplained_s is not None
    assert math.isclose(sum(c.delta_s for c in result.causes) + result.unexplained_s, result.delta_s, rel_tol=1e-9)
    assert "aten::relu" in result.summary and "each slower: 1." in result.causes[0].reason


@pytest.mark.parametrize(
    ("base", "new", "said"),
    [
        ({("a", "[1]"): (1.0, 2)}, {("a", "[1]"): (2.0, 4)}, "called 4 times per step, 2 before"),
        ({}, {("a", "[1]"): (1.0, 1)}, "new"),
        ({("a", "[1]"): (1.0, 1)}, {("a", "[2]"): (1.0, 1)}, "new: the shapes were [1]"),
        ({("a", "[1]"): (1.0, 1)}, {}, "gone"),
    ],
)
def test_reasons(base: dict, new: dict, said: str) -> None:  # type: ignore[type-arg]
    def times(rows: dict) -> OperatorTimes:  # type: ignore[type-arg]
        return OperatorTimes({k: v[0] for k, v in rows.items()}, {k: v[1] for k, v in rows.items()})

    ones = Blocks(np.ones(8), np.ones(8))
    sessions = [Session(ones, ones, times(base), times(new))] * 3
    found = causes(sessions, changes(sessions), 1.0 if new else -1.0, 0.01)
    assert found[0].reason == said


def test_other_kernels_are_named() -> None:
    ones = Blocks(np.ones(8), np.ones(8))
    key = ("aten::mm", "[8, 8]")
    base = OperatorTimes({key: 1.0}, {key: 1.0}, {"aten::mm": ("sgemm",)})
    new = OperatorTimes({key: 2.0}, {key: 1.0}, {"aten::mm": ("ampere_sgemm",)})
    sessions = [Session(ones, ones, base, new)] * 3
    assert causes(sessions, changes(sessions), 1.0, 0.01)[0].reason == "runs ampere_sgemm instead of sgemm"


def counted(name: str, base: tuple[float, float], new: tuple[float, float]) -> Metric:
    (metric,) = count_metrics({name: Counted(*base, 3)}, {name: Counted(*new, 3)}, EXACT_LIMITS)
    return metric


def test_counts_have_no_noise_unless_they_vary() -> None:
    assert counted("synchronisations", (3, 3), (4, 4)).verdict == "fail"
    assert counted("synchronisations", (3, 3), (3, 3)).verdict == "pass"
    assert counted("operators", (100, 100), (105, 105)).verdict == "pass"
    assert counted("operators", (100, 100), (106, 106)).verdict == "fail"
    assert counted("kernels", (90, 110), (95, 111)).verdict == "pass"
    assert counted("kernels", (90, 100), (95, 120)).verdict == "inconclusive"
    assert counted("graph_breaks", (0, 0), (1, 1)).reason == "graph breaks: 0 per step before, 1 now"


def test_a_count_fails_the_gate_at_once() -> None:
    rng = np.random.default_rng(8)
    one = session(1.0, rng)
    more = Session(
        one.blocks, one.wall, one.base_operators, one.new_operators, one.base_counts, {"operators": Counted(20, 20, 9)}
    )
    assert judge([more], Limits(), "cpu_time", *SIDES).verdict == "fail"


def test_one_session_says_nothing_of_times() -> None:
    rng = np.random.default_rng(9)
    result = judge([session(1.5, rng)], Limits(), "cpu_time", *SIDES)
    assert result.verdict == "inconclusive" and result.minimum_detectable_fraction is None
    assert all(m.interval is None for m in result.metrics)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_bounds_enclose_the_mean(values: list[float]) -> None:
    found = bounds(values)
    assert found.lower <= found.mean <= found.upper
    detectable = minimum_detectable_fraction(values, 0.01)
    assert detectable is not None and detectable >= 0.0099


def test_few_of_many_equal_operators_are_called_slower() -> None:
    rng = np.random.default_rng(10)
    wrong = 0
    for _ in range(200):
        series = {str(i): rng.normal(math.log(1.05), 0.02, 5).tolist() for i in range(30)}  # at the floor itself
        wrong += bool(surely_slower(series, dict.fromkeys(series, 0.05)))
    assert wrong <= 4  # 0.35 % in 2000


def test_all_looks_together_err_as_seldom_as_promised() -> None:
    """Series exactly at the limit, stopped at the first look that calls them slower."""
    series = np.random.default_rng(11).standard_normal((200_000, LOOKS[-1]))
    slower = np.zeros(len(series), bool)
    for n in LOOKS:
        seen = series[:, :n]
        slower |= seen.mean(1) > student_quantile(n - 1, 1 - 2 * ALPHA * PER_LOOK) * seen.std(1, ddof=1) / math.sqrt(n)
    assert 0.9 * ALPHA < slower.mean() < 1.1 * ALPHA


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.3027), (3, 3.1824), (4, 2.7764), (7, 2.3646), (11, 2.2010)]
)
def test_students_tail_is_that_of_the_tables(freedom: int, t: float) -> None:
    assert math.isclose(student_tail(t, freedom), 0.025, rel_tol=1e-3)
    assert math.isclose(student_tail(-t, freedom), 0.975, rel_tol=1e-3)
    assert student_tail(0.0, freedom) == 0.5
