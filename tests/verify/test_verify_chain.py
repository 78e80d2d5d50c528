"""Recorded operators run again as they were: views between them, numbers, gradients; what cannot be says why."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recorded_chains import W, X, one, rms, step

import probe
from probe.examine.examine import Request, examine
from probe.sites import ChainSite, Read
from probe.verify.bench import bench
from probe.verify.cases import case_of
from probe.verify.chain import chain_case, drawn
from probe.verify.engine import verify_case
from probe.verify.numeric import baselines, gate
from probe.verify.program import CannotReplayError, program_of
from probe.verify.replacements.families import propose

AVERAGED = ("float", "ScalarList", "Scalar", "")
LIST = "ScalarList"
CONVOLVED = ("float", "float", "", LIST, LIST, LIST, "Scalar", LIST, "Scalar")


def test_the_chain_is_the_function_it_was_recorded_of() -> None:
    program = program_of(rms())
    x, w = torch.randn(6, 8), torch.randn(8)
    (found,) = program.function()(x, w)
    torch.testing.assert_close(found, x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w)
    assert [o.dims for o in program.outside] == [X, W]
    assert program.results == (((6, 8), "float32"),)


def test_gradients_of_all_outside_tensors_are_compared() -> None:
    case = chain_case(replace(rms(), training=True))
    (base, *_) = baselines(case, "cpu", 0)
    assert [g.shape for g in base.old.gradients] == [torch.Size(X), torch.Size(W)]


def test_rms_norm_is_proposed_and_right_and_its_weight_counts() -> None:
    case = chain_case(replace(rms(), training=True))
    candidate = next(c for c in case.candidates if c.name == "F.rms_norm")
    against = baselines(case, "cpu", 0)
    assert {base.problem.name for base in against} >= {"recorded sizes", "zeros", "large values", "odd sizes"}
    assert gate(case, candidate, against).failure is None
    wrong = replace(candidate, build=lambda inputs: candidate.build(replace(inputs, tensors=(inputs.tensors[0],) * 2)))
    with pytest.raises(RuntimeError):
        gate(case, wrong, against)


def test_views_between_operators_are_told_by_sizes_and_strides() -> None:
    product = step("aten::mm", ((6, 8), (8, 12)), (Read(None, 0), Read(None, 1)))
    turned = step(
        "aten::relu", ((2, 4, 3, 3),), (Read(0),), strides=((36, 3, 12, 1),)
    )  # .view(2, 3, 4, 3).transpose(1, 2)
    program = program_of(ChainSite("F14", (product, turned), training=False, known=True))
    x, w = torch.randn(6, 8), torch.randn(8, 12)
    (found,) = program.function()(x, w)
    torch.testing.assert_close(found, (x @ w).view(2, 3, 4, 3).transpose(1, 2).relu())


def test_parts_of_an_outside_tensor_are_parts_of_one() -> None:
    half, strides = (6, 4), ((8, 1), (8, 1))
    steps = (
        step("aten::relu", ((6, 8),), (Read(None, 0, 0),)),
        step("aten::mul", (half, half), (Read(None, 0, 0), Read(None, 0, 4)), strides=strides),
    )
    program = program_of(ChainSite("F11", steps, training=False, known=True))
    x = torch.randn(6, 8)
    _, found = program.function()(x)
    torch.testing.assert_close(found, x[:, :4] * x[:, 4:])


def test_a_number_that_was_not_recorded_is_chosen_and_said() -> None:
    program = program_of(one("aten::mul", X, (), tensors=2, kinds=("float", "double")))
    assert len(program.outside) == 1
    assert program.assumed == ("0.5 stands for the number that aten::mul was given",)


def test_the_reference_is_float64_past_casts_in_between() -> None:
    cast = step("aten::_to_copy", (X, (), (), (), (), (), ()), (Read(None, 0),), ("", "6", "", "", "", "False", ""),
                kinds=("c10::BFloat16", "Scalar", "", "", "", "Scalar", ""))  # fmt: skip
    program = program_of(ChainSite("F01", (cast, step("aten::tanh", (X,), (Read(0),))), training=False, known=True))
    exact = drawn(program, torch.Generator().manual_seed(0)).exact()
    assert program.function(exact=True)(*exact.tensors)[0].dtype == torch.float64
    assert program.function()(torch.zeros(X, dtype=torch.bfloat16))[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (one("aten::native_dropout", X, (), (), tensors=1, scalars=("", "0.1", "True")), "draws random numbers"),
        (one("aten::add_", X, X, (), tensors=2, scalars=("", "", "1")), "changes a tensor that comes from outside"),
        (one("nowhere::op", X), "does not know"),
        (one("aten::clamp_min", X, (), tensors=1, scalars=("", ""), kinds=("float", "")), "clamp_min"),
        (one("aten::mul", X, (5, 3)), "does not run on its recorded arguments"),
        (replace(rms(), why_not="one place has 90 operators"), "90 operators"),
        (ChainSite("F01", (), training=False, known=True), "no operators"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_says_why_and_is_inconclusive(site: ChainSite, said: str) -> None:
    with pytest.raises(CannotReplayError, match=said):
        program_of(site)
    (result,) = verify_case(case_of(site), bench(), 5.0)
    assert result.verified.verdict == "inconclusive"
    assert said in result.reason


def test_a_dtype_that_was_never_made_is_refused() -> None:
    other = step("aten::tanh", (X,), (Read(0),), kinds=("double",))
    site = ChainSite("F01", (step("aten::relu", (X,), (Read(None, 0),)), other), training=False, known=True)
    with pytest.raises(CannotReplayError, match="a cast was not recorded"):
        program_of(site)


def loss_site() -> ChainSite:
    """Cross-entropy of a product: 6 rows, 40 classes."""
    logits = (6, 40)
    steps = (
        step("aten::mm", (X, (8, 40)), (Read(None, 0), Read(None, 1)), strides=((8, 1), (1, 8))),
        step("aten::_log_softmax", (logits, (), ()), (Read(0),), ("", "1", "False")),
        step("aten::nll_loss_forward", (logits, (6,), (), (), ()), (Read(1), Read(None, 2)), ("", "", "", "1", "-100"),
             kinds=("float", "long int", "", "Scalar", "Scalar")),
    )  # fmt: skip
    return ChainSite("F09", steps, training=True, known=True)


def qkv_site() -> ChainSite:
    """Three products of one input."""
    sizes = ((4,), X, (8, 4), (), ())
    reads = ((Read(None, 2 * i + 1), Read(None, 0), Read(None, 2 * i + 2)) for i in range(3))
    steps = tuple(step("aten::addmm", sizes, three, ("", "", "", "1", "1")) for three in reads)
    return ChainSite("F13", steps, training=True, known=True)


def bias_site() -> ChainSite:
    steps = (
        step("aten::mm", (X, (8, 4)), (Read(None, 0), Read(None, 1))),
        step("aten::add", ((6, 4), (4,), ()), (Read(0), Read(None, 2)), ("", "", "1")),
    )
    return ChainSite("F14", steps, training=True, known=True)


def small_products() -> ChainSite:
    steps = tuple(step("aten::mm", (X, (8, 4)), (Read(None, 2 * i), Read(None, 2 * i + 1))) for i in range(4))
    return ChainSite("F21", steps, training=True, known=True)


def folded_site() -> ChainSite:
    """A convolution and its batch norm in evaluation."""
    image, kernel, wide, channels = (2, 3, 8, 8), (5, 3, 3, 3), (2, 5, 8, 8), (5,)
    options = ("", "", "", "[1, 1]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1")
    sizes = (image, kernel, *((),) * 7)
    conv = step("aten::convolution", sizes, (Read(None, 0), Read(None, 1)), options, kinds=CONVOLVED)
    reads = (Read(0), *(Read(None, i) for i in range(2, 6)))
    normed = (wide, channels, channels, channels, channels, (), (), ())
    norm = step("aten::native_batch_norm", normed, reads, ("", "", "", "", "", "False", "0.1", "1e-05"))
    return ChainSite("F15", (conv, norm), training=False, known=True)


@pytest.mark.parametrize(
    ("site", "name"),
    [
        (loss_site(), "cross-entropy in chunks"),
        (loss_site(), "F.linear_cross_entropy"),
        (loss_site(), "F.linear_cross_entropy, chunked"),
        (loss_site(), "probe linear_cross_entropy"),
        (qkv_site(), "3 products as one"),
        (bias_site(), "addmm"),
        (small_products(), "one bmm"),
        (folded_site(), "folded into the convolution"),
        (replace(one("aten::relu", (2, 3, 8, 8)), code="E09"), "channels_last"),
        (replace(one("aten::mm", X, (8, 8), kinds=("double", "double")), code="E14"), "float32"),
    ],
)  # fmt: skip
def test_the_named_replacement_is_proposed_and_its_numbers_are_right(site: ChainSite, name: str) -> None:
    if name.startswith("F.linear") and not hasattr(torch.nn.functional, "linear_cross_entropy"):
        pytest.skip("torch before 2.13 has no linear_cross_entropy")
    case = chain_case(site)
    candidate = next((c for c in case.candidates if c.name == name), None)
    assert candidate is not None, [c.name for c in case.candidates]
    assert gate(case, candidate, baselines(case, "cpu", 0)).failure is None


def test_a_guess_of_roles_that_is_wrong_fails_the_numbers() -> None:
    swapped = loss_site()
    case = chain_case(swapped)
    candidate = next(c for c in case.candidates if c.name == "cross-entropy in chunks")
    other = replace(candidate, build=lambda inputs: candidate.build(
        replace(inputs, tensors=(inputs.tensors[0].flip(0), *inputs.tensors[1:]))))  # fmt: skip
    assert gate(case, other, baselines(case, "cpu", 0)).failure is not None


def test_without_a_compiler_torch_compile_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_: None)
    (compiled,) = [p for p in propose(program_of(rms())) if p.name == "torch.compile"]
    if not torch.cuda.is_available():
        assert compiled.objection is not None
        assert "g++" in compiled.objection


@pytest.mark.flaky(reruns=2)
def test_the_site_of_a_real_recording_is_its_program(tmp_path: Path) -> None:
    x, w = torch.randn(512, 1024, requires_grad=True), torch.randn(1024, requires_grad=True)
    with probe.profile(tmp_path / "run", wait=1, warmup=1, active=2, telemetry=False) as session:
        session.quiet = True
        for _ in range(5):
            (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w).sum().backward()
            session.step()
    sites = [f.site for f in examine(str(session.path), Request()).found if f.finding.code == "F04"]
    assert len(sites) == 1
    site = sites[0]
    assert isinstance(site, ChainSite)
    assert [s.name for s in site.steps] == [f"aten::{n}" for n in ("pow", "mean", "add", "rsqrt", "mul", "mul")]
    assert site.training
    assert site.known
    assert [o.dims for o in program_of(site).outside] == [(512, 1024), (1024,)]
