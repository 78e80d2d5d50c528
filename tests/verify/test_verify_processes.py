"""What crashes, hangs or dies costs itself; the user's own kernels are told apart; verdicts are kept and recalled."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
import verify_processes as processes

from probe.errors import UsageError
from probe.report.verification import as_markdown
from probe.results.findings import Finding, Verified
from probe.sites import AttentionSite
from probe.verify import ledger, supervised
from probe.verify.adapters.installed import libraries, proposals
from probe.verify.attention import attention_case
from probe.verify.bench import bench
from probe.verify.engine import verify_case
from probe.verify.numeric import baselines, gate
from probe.verify.own import own_case, parse
from probe.verify.program import program_of
from probe.verify.supervised import verify_all
from probe.verify.task import Task

SIZE = (1, 2, 16, 8)
SITE = AttentionSite(SIZE, SIZE, SIZE, "float32", None, "none", 0.0, training=False)
TASK = Task(SITE, "cpu", 1.0)


def test_a_crash_takes_only_its_candidate_with_it() -> None:
    (results,) = verify_all([TASK], 60.0, entry=processes.crashes_at_second)
    assert [(r.candidate, r.verified.verdict) for r in results] == [
        ("third", "accept"), ("first", "accept"), ("second", "reject"),
    ]  # fmt: skip
    assert results[-1].reason == "crashes: its process ended by SIGABRT"
    assert not multiprocessing.active_children()


def test_a_hang_ends_at_its_deadline_and_the_next_site_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    given = supervised._allowed_s
    allowed: list[float] = []

    def soon(run: supervised._Run, least_s: float) -> float:
        """A process that is slow to start is waited for as ever; one that hangs, no longer than must be."""
        allowed.append(given(run, least_s))
        return 0.2 if run.trying else allowed[-1]

    monkeypatch.setattr(supervised, "_allowed_s", soon)
    hung = verify_all([TASK], 60.0, entry=processes.hangs, least_s=30.0)
    assert [(r.candidate, r.verified.verdict) for r in hung[0]] == [("endless", "reject")]
    assert "hangs: nothing came of it in" in hung[0][0].reason
    assert all(30.0 < seconds <= 90.0 for seconds in allowed)  # the rest of the site's share, and as long again
    assert not multiprocessing.active_children()


def test_an_original_that_dies_is_nobody_elses_fault() -> None:
    (results,) = verify_all([TASK], 60.0, entry=processes.dies_at_once)
    assert [r.verified.verdict for r in results] == ["inconclusive"]
    assert "the original does not run here: crashes: its process ended with code 3" in results[0].reason


def test_a_budget_that_is_spent_leaves_the_rest_undecided() -> None:
    times = chain([0.0] * 3, repeat(100.0))
    _, second = verify_all([TASK, TASK], 50.0, entry=processes.fine, clock=lambda: next(times))
    assert second[0].verified.verdict == "inconclusive"
    assert "raise --budget" in second[0].reason


def test_an_interruption_keeps_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(run: object, *_: object) -> None:
        calls.append(run)
        if len(calls) == 2:
            raise KeyboardInterrupt
        run.results.append(processes.result("fine"))  # type: ignore[attr-defined]

    monkeypatch.setattr("probe.verify.supervised._supervise", interrupted)
    found = verify_all([TASK] * 3, 60.0)
    assert [one[0].reason for one in found] == ["as told", "interrupted", "interrupted"]


@pytest.mark.flaky(reruns=2)
def test_a_site_is_verified_in_a_process_of_its_own() -> None:
    (results,) = verify_all([Task(SITE, "cpu", 2.0)], 5.0)
    assert [r.candidate for r in results] == ["scaled_dot_product_attention"]
    assert results[0].verified.error_after is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kernel.py", "give FILE.py:FUNCTION"),
        ("nowhere.py:f", "there is no file nowhere.py"),
        ("{mine}:g", "defines no g; there are attend, two, shorter, raises"),
        ("{broken}:f", "is not Python"),
    ],
)
def test_what_is_wrong_with_a_candidate_is_said_in_one_line(text: str, said: str, mine: Path) -> None:
    broken = mine.with_name("broken.py")
    broken.write_text("def f(:")
    with pytest.raises(UsageError) as refused:
        parse(text.format(mine=mine, broken=broken))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of somebody's kernels."""
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "def attend(q, k, v):\n    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)\n"
        "def two(q, k):\n    return q\n"
        "def shorter(q, k, v):\n    return q[..., :3]\n"
        "def raises(q, k, v):\n    raise ValueError('not today')\n"
    )
    return path


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("two", "two takes 2 arguments"),
        ("shorter", "float32[1, 2, 16, 3] instead of float32[1, 2, 16, 8]"),
        ("raises", "ValueError: not today"),
    ],
)
def test_own_kernels_that_are_wrong_are_rejected_with_the_reason(mine: Path, function: str, said: str) -> None:
    (result,) = verify_case(own_case(SITE, parse(f"{mine}:{function}")), bench(), 1.0)
    assert result.verified.verdict == "reject"
    assert said in result.reason


@pytest.mark.flaky(reruns=2)
def test_an_own_kernel_that_is_right_is_timed(mine: Path) -> None:
    (result,) = verify_case(own_case(SITE, parse(f"{mine}:attend")), bench(), 3.0)
    assert result.candidate == "mine.py:attend"
    assert result.verified.n > 0
    assert result.verified.error_after is not None


def test_an_own_kernel_is_given_the_numbers_of_one_operator(tmp_path: Path) -> None:
    from recorded_chains import X, one

    path = tmp_path / "clamp.py"
    path.write_text("import torch\ndef clamp(x, low, high):\n    return torch.clamp(x, low, high)\n")
    site = one("aten::clamp", X, (), (), tensors=1, scalars=("", "-0.25", "0.5"))
    (result,) = verify_case(own_case(site, parse(f"{path}:clamp")), bench(), 1.0)
    assert result.verified.error_after == 0.0, result.reason


VERIFIED = Verified("accept", 2.0, (1.5, 2.5), 21, 8, 4, 1e-7, 2e-7, None, None, "CPU X", "torch.compile", "as told")
FINDING = Finding(
    "F06:a", "F06", "naive-attention", "attention", "", ("seen",), None, (), 0.1, 0.2, None, "order", None, None
)  # fmt: skip


def test_verdicts_are_kept_once_per_trial_and_recalled(tmp_path: Path) -> None:
    path = tmp_path / "verified.json"
    slower = replace(VERIFIED, verdict="reject", speedup=0.5, candidate="other")
    for _ in range(2):
        assert ledger.keep(path, tuple(ledger.entries(FINDING, SITE, (slower, VERIFIED), "2.13"))) is None
    kept = ledger.read(path)
    assert len(kept) == 2
    found = ledger.recalled(FINDING, kept)
    assert found.verified == VERIFIED
    assert found.alternatives == (slower,)
    assert json.loads(path.read_text())["schema"] == ledger.SCHEMA


def test_an_inconclusive_trial_does_not_replace_what_was_found_before(tmp_path: Path) -> None:
    path = tmp_path / "verified.json"
    nothing = replace(VERIFIED, verdict="inconclusive", speedup=None, interval=None, n=0)
    slower = replace(VERIFIED, verdict="reject", speedup=0.5)
    for verified, kept in ((nothing, nothing), (VERIFIED, VERIFIED), (nothing, VERIFIED), (slower, slower)):
        ledger.keep(path, tuple(ledger.entries(FINDING, SITE, (verified,), "2.13")))
        assert [entry.verified for entry in ledger.read(path)] == [kept]


def test_later_predictions_quote_what_was_measured_at_near_sizes_on_the_same_device() -> None:
    kept = tuple(ledger.entries(FINDING, SITE, (VERIFIED,), "2.13"))
    told = ledger.with_precedents(FINDING, SITE, kept, "CPU X").evidence
    assert told == (
        "seen",
        "measured before on this device: torch.compile 2.00× [1.50, 2.50] at [1, 2, 16, 16], accept",
    )
    assert ledger.with_precedents(FINDING, SITE, kept, "CPU Y").evidence == ("seen",)
    larger = replace(SITE, query=(8, 8, 64, 8), key=(8, 8, 64, 8), value=(8, 8, 64, 8))
    assert ledger.with_precedents(FINDING, larger, kept, "CPU X").evidence == ("seen",)


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "verified.json"

    def write(number: int) -> None:
        finding = replace(FINDING, id=f"F06:{number}")
        assert ledger.keep(path, tuple(ledger.entries(finding, SITE, (VERIFIED,), "2.13"))) is None

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))
    assert len(ledger.read(path)) == 16


@pytest.mark.parametrize("content", ["", "{", '{"schema": "other/1", "entries": []}', '{"schema": "probe.verified/1"}'])
def test_a_damaged_ledger_is_an_empty_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "verified.json"
    path.write_text(content)
    assert ledger.read(path) == ()


def fake_library(folder: Path, name: str, functions: str) -> None:
    """An installed package of that name."""
    module = folder.joinpath(*name.split("."))
    module.parent.mkdir(parents=True, exist_ok=True)
    for parent in module.relative_to(folder).parents:
        if parent != Path():
            (folder / parent / "__init__.py").touch()
    module.with_suffix(".py").write_text(functions)


def test_an_installed_library_is_a_candidate_and_called_by_its_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recorded_chains import rms

    program = program_of(rms())
    assert not [p for p in proposals(program) if p.name.startswith("apex")]
    norm = "def fused_rms_norm_affine(input, weight, normalized_shape, eps=1e-6, memory_efficient=False):\n"
    body = "    import torch\n    return torch.nn.functional.rms_norm(input, normalized_shape, weight, eps)\n"
    fake_library(tmp_path, "apex.normalization.fused_layer_norm", norm + body)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "apex" in [adapter.library for adapter in libraries()]
    (kernel,) = [p for p in proposals(program) if p.name == "apex rms_norm"]
    x, w = torch.randn(6, 8), torch.randn(8)
    torch.testing.assert_close(kernel.function(x, w), torch.nn.functional.rms_norm(x, (8,), w, 1e-6))


def test_attention_of_a_library_is_called_with_its_own_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):\n    import torch\n"
    body = "    q, k, v = (t.transpose(1, 2) for t in (q, k, v))\n"
    run = "    sdpa = torch.nn.functional.scaled_dot_product_attention\n"
    back = "    return sdpa(q, k, v, is_causal=causal, scale=softmax_scale).transpose(1, 2)\n"
    fake_library(tmp_path, "flash_attn", head + body + run + back)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    case = attention_case(replace(SITE, mask="causal", training=True))
    candidate = next(c for c in case.candidates if c.name == "flash-attention attention")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert gate(case, candidate, baselines(case, "cpu", 0)).failure is None


def test_verdicts_as_markdown(tmp_path: Path) -> None:
    class Shown:
        findings = (replace(FINDING, verified=VERIFIED),)
        warnings = ()

    text = as_markdown(Shown(), ())  # type: ignore[arg-type]
    assert "| ✓ accept | torch.compile | 2.00× \\[1.50, 2.50\\] | 21 |" in text
