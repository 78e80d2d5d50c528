"""Every verdict is reached, what goes wrong is said, nothing global is disturbed; on this CPU the clear cases hold."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_bench import ATTENTION, MIB, SMALL, Clock, Numbers, case_with, doubled

from probe.errors import UnavailableError, UsageError
from probe.sites import AttentionSite, OptimizerSite
from probe.verify import engine
from probe.verify.bench import Bench, bench
from probe.verify.case import Candidate, Side, Values
from probe.verify.cases import case_of
from probe.verify.engine import Result, verify, verify_case
from probe.verify.memory import available_bytes, peak_bytes


def judged(*builds_of: Callable[[Clock], Callable[[Numbers], Side]], budget_s: float = 60.0) -> tuple[Result, ...]:
    """Results on a machine whose time only passes inside sides."""
    clock = Clock()
    case = case_with(clock, *(build_of(clock) for build_of in builds_of))
    return verify_case(case, Bench("cpu", "a fake CPU", clock, 0, clock), budget_s)


def test_the_best_accepted_candidate_comes_first() -> None:
    found = judged(
        lambda clock: doubled(clock, 20e-3),
        lambda clock: doubled(clock, 10e-3),
        lambda clock: doubled(clock, 8e-3),
        lambda clock: doubled(clock, 5e-3),
        lambda clock: doubled(clock, 1e-3, error=1e-3),
    )
    assert [(r.candidate, r.verified.verdict) for r in found] == [
        ("candidate 3", "accept"),
        ("candidate 2", "accept"),
        ("candidate 1", "inconclusive"),
        ("candidate 0", "reject"),
        ("candidate 4", "reject"),
    ]
    best = found[0]
    assert best.code_line == "line 3"
    assert best.verified.speedup == pytest.approx(2)
    assert best.verified.n >= 21
    assert best.verified.device == "a fake CPU"
    assert best.seconds_before is not None
    assert best.seconds_before.median == pytest.approx(10e-3)
    assert "relative L2 error 1.0e-03" in found[-1].reason.replace("0.0010", "1.0e-03")
    assert found[-1].verified.speedup is None


def test_less_memory_for_more_time_is_a_trade(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([100 * MIB, 20 * MIB])
    monkeypatch.setattr(engine, "peak_bytes", lambda build, inputs, device: next(peaks))
    (found,) = judged(lambda clock: doubled(clock, 12e-3))
    assert found.verified.verdict == "trade"
    assert (found.verified.peak_bytes_before, found.verified.peak_bytes_after) == (100 * MIB, 20 * MIB)
    assert "peak memory 100 MiB → 20 MiB" in found.reason


def test_a_budget_for_a_few_pairs_does_not_decide() -> None:
    (found,) = judged(lambda clock: doubled(clock, 5e-3), budget_s=0.3)
    assert found.verified.verdict == "inconclusive"
    assert "raise the budget" in found.reason


def test_the_budget_is_kept_and_shared() -> None:
    clock = Clock()
    slow = [doubled(clock, seconds) for seconds in (9.6e-3, 9.7e-3)]
    found = verify_case(case_with(clock, *slow), Bench("cpu", "a fake CPU", clock, 0, clock), 3.0)
    assert clock.now < 3.3
    assert all(r.verified.n >= 21 for r in found)


def failing(error: BaseException) -> Callable[[Clock], Callable[[Numbers], Side]]:
    def build(inputs: Numbers) -> Side:
        raise error

    return lambda clock: build


def test_a_candidate_that_raises_is_rejected_with_its_words() -> None:
    (found,) = judged(failing(RuntimeError("no kernel\nfor this")))
    assert (found.verified.verdict, found.reason) == ("reject", "fails: RuntimeError: no kernel for this")


def test_a_candidate_that_raises_only_while_it_is_timed_is_rejected() -> None:
    def build_of(clock: Clock) -> Callable[[Numbers], Side]:
        calls = 0

        def build(inputs: Numbers) -> Side:
            def call() -> torch.Tensor:
                nonlocal calls
                calls += 1
                clock.now += 1e-3
                if calls > 20:
                    raise MemoryError
                return inputs.tensor * 2

            return Side(call, lambda returned: Values((returned,)))

        return build

    (found,) = judged(build_of)
    assert (found.verified.verdict, found.reason) == ("reject", "fails: MemoryError")


def test_an_interrupt_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        judged(failing(KeyboardInterrupt()))


def test_an_original_that_fails_leaves_its_candidates_undecided() -> None:
    clock = Clock()
    case = replace(case_with(clock, doubled(clock, 1e-3)), original=failing(RuntimeError("no"))(clock))
    (found,) = verify_case(case, Bench("cpu", "a fake CPU", clock, 0, clock))
    assert (found.verified.verdict, found.reason) == (
        "inconclusive",
        "the original does not run here: RuntimeError: no",
    )


def test_another_shape_is_rejected() -> None:
    def build(inputs: Numbers) -> Side:
        return Side(lambda: inputs.tensor[:3], lambda returned: Values((returned,)))

    (found,) = judged(lambda clock: build)
    assert (found.verified.verdict, found.reason) == (
        "reject",
        "values (numbers): output 0 is float32[3] instead of float32[8]",
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "c10::Foo"}, "'c10::Foo' is not a floating-point dtype"),
        ({"query": ()}, "at least two"),
        ({"key": (1, 2, 16, 9)}, "do not make an attention"),
        ({"query": (1, 2, 0, 8)}, "must be positive"),
        ({"scale": float("nan")}, "makes no sense"),
        ({"dropout": 1.0}, "makes no sense"),
        ({"query": (10**6, *SMALL[1:]), "key": (10**6, *SMALL[1:]), "value": (10**6, *SMALL[1:])}, "too large"),
    ],
)
def test_a_record_that_cannot_be_run_says_why(changes: dict[str, Any], said: str) -> None:
    (found,) = verify(replace(ATTENTION, **changes), budget_s=1)
    assert found.verified.verdict == "inconclusive"
    assert said in found.reason
    assert found.verified.n == 0


def test_optimizers_that_cannot_be_run_say_why() -> None:
    for found in (
        OptimizerSite("rmsprop", ((1,),), "float32"),  # type: ignore[arg-type]
        OptimizerSite("adam", (), "float32"),
        OptimizerSite("adam", ((10**12,),), "float32"),
        OptimizerSite("adam", ((-1,),), "float32"),
        OptimizerSite("adam", ((1,),), "quint4x2"),
    ):
        assert {r.verified.verdict for r in verify(found, budget_s=1)} == {"inconclusive"}


def test_devices_and_budgets_that_make_no_sense() -> None:
    for device in ("mps", "cuda:x", "cuda:", "cpu:0", ""):
        with pytest.raises(UsageError, match="use cpu, cuda or cuda:N"):
            bench(device)
    with pytest.raises(UsageError, match="positive number of seconds"):
        verify(ATTENTION, budget_s=0)
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError):
            verify(ATTENTION, device="cuda")


def test_nothing_global_is_disturbed() -> None:
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.inference_mode():
        verify(replace(ATTENTION, dropout=0.1, training=True), budget_s=1)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "F.scaled_dot_product_attention(q, k, v, scale=1.0)  # keep your own scaling of q, if any"),
        ({"scale": 8**-0.5}, "F.scaled_dot_product_attention(q, k, v)"),
        ({"scale": 0.2}, "F.scaled_dot_product_attention(q, k, v, scale=0.2)"),
        ({"scale": 8**-0.5, "mask": "causal"}, "F.scaled_dot_product_attention(q, k, v, is_causal=True)"),
        (
            {"query": (2, 5, 8), "key": (2, 9, 8), "value": (2, 9, 8), "scale": 8**-0.5, "mask": "causal"},
            "F.scaled_dot_product_attention(q, k, v, attn_mask=mask)",
        ),
        (
            {"scale": 8**-0.5, "mask": "boolean", "dropout": 0.1},
            "F.scaled_dot_product_attention(q, k, v, attn_mask=~mask, dropout_p=0.1)"
            "  # is_causal=True instead of a triangular mask",
        ),
        (
            {"scale": 8**-0.5, "mask": "boolean", "mask_keeps": True},
            "F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # is_causal=True instead of a triangular mask",
        ),
    ],
)
def test_the_line_to_paste(changes: dict[str, Any], line: str) -> None:
    assert case_of(replace(ATTENTION, **changes)).candidates[0].code_line == line


def test_peak_memory_on_a_cpu_is_what_the_allocator_handed_out_at_once() -> None:
    def build(inputs: Numbers) -> Side:
        def call() -> torch.Tensor:
            scratch = torch.empty(4 * MIB, dtype=torch.uint8)
            del scratch
            return torch.empty(3 * MIB, dtype=torch.uint8)

        return Side(call, lambda returned: Values(()))

    assert peak_bytes(build, Numbers(torch.ones(1)), "cpu") == 4 * MIB
    with torch.autograd.profiler.profile():
        assert peak_bytes(build, Numbers(torch.ones(1)), "cpu") is None
    assert (available_bytes("cpu") or 1) > 0


def test_importing_does_not_import_torch() -> None:
    code = "import sys, probe.verify, probe.verify.cases; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What the engine is for, on the machine at hand and with one try each.

NAIVE = AttentionSite(
    (1, 8, 1024, 32), (1, 8, 1024, 32), (1, 8, 1024, 32), "float32", 32**-0.5, "none", 0.0, training=False
)
ADAMW = OptimizerSite("adamw", ((64, 64),) * 100, "float32")


def test_hand_written_attention_is_replaced_by_sdpa() -> None:
    best = verify(NAIVE)[0]
    assert best.verified.verdict == "accept", best.reason
    assert best.candidate == "scaled_dot_product_attention"
    assert (best.verified.peak_bytes_after or 0) < (best.verified.peak_bytes_before or 0)


@pytest.mark.flaky(reruns=2)
def test_the_adamw_loop_is_replaced_by_the_fused_one() -> None:
    best = verify(ADAMW, budget_s=120.0)[0]
    assert (best.candidate, best.verified.verdict) == ("fused", "accept"), best.reason


@pytest.mark.parametrize("found", [NAIVE, ADAMW], ids=["attention", "adamw"])
def test_the_original_is_not_accepted_as_its_own_replacement(found: AttentionSite | OptimizerSite) -> None:
    case = case_of(found)
    itself = replace(case, candidates=(Candidate("itself", "", case.original),))
    assert verify_case(itself, bench(), 4.0)[0].verified.verdict != "accept"
