"""What do the fused kernels refuse, in which words, and what do their modules do instead?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from probe.errors import ProbeError, UnavailableError, UsageError

pytest.importorskip("triton")

from probe.kernels.fused import domain
from probe.kernels.fused.catalogue import KERNELS, for_rule
from probe.kernels.fused.chain import Chain, Operation, parsed
from probe.kernels.fused.chain_derivative import RULES, derivative
from probe.kernels.fused.chain_recording import Recorded, Value, of_function, of_operators
from probe.kernels.fused.examples import examples
from probe.kernels.fused.kernel import FusedKernel
from probe.kernels.fused.tiles import tile_for

BY_NAME = {kernel.name: kernel for kernel in KERNELS}
X = torch.ones(4, 8)
CHAIN = Chain(2, (Operation("mul", (0, 1)),), (2,))
ONE_INPUT = Chain(1, (Operation("exp", (0,)),), (1,))
Q = torch.ones(1, 2, 4, 8)
HEADS = torch.ones(1, 2, 4, 16)
ANGLES = torch.ones(4, 4)
TARGET = torch.zeros(4, dtype=torch.int64)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the tensors were on a GPU."""
    monkeypatch.setattr(domain, "without_gpu", lambda: True)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_every_entry_is_whole(kernel: FusedKernel) -> None:
    assert kernel.replaces and kernel.codes and "\n" not in kernel.replaces
    for name in kernel.operators:
        namespace, operator = name.split("::")
        assert namespace == "probe" and hasattr(torch.ops.probe, operator)
    assert all(kernel in for_rule(code) for code in kernel.codes)


def test_names_are_unique_and_rules_known() -> None:
    from probe.analyzers.rules.catalogue import RULES

    assert len(BY_NAME) == len(KERNELS)
    assert {code for kernel in KERNELS for code in kernel.codes} <= {rule.code for rule in RULES}


@pytest.mark.parametrize("kernel", [k for k in KERNELS if not k.on_cpu], ids=lambda k: k.name)
def test_without_a_gpu_they_say_so(kernel: FusedKernel) -> None:
    [example, *_] = [e for e in examples(torch.float32, "cpu", 4, 128) if e.kernel is kernel]

    assert "TRITON_INTERPRET" in str(kernel.why_not(*example.inputs, **example.options))
    with pytest.raises(UnavailableError, match=f"{kernel.name}: a Triton kernel cannot run on cpu"):
        example.call()


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("name", "inputs", "options", "reason"),
    [
        ("bias_activation", (X.double(),), {}, "float64"),
        ("bias_activation", (X, torch.ones(7)), {}, r"bias has the sizes \[7\] instead of \[8\]"),
        ("bias_activation", (X.t(),), {}, "x is not contiguous"),
        ("bias_activation", (X,), {"activation": "mish"}, "the activation is 'mish'"),
        ("bias_activation", (X,), {"p": 1.5}, "p is 1.5"),
        ("bias_activation", (X,), {"p": 0.5, "seed": -1}, "the seed must lie"),
        ("bias_activation", (X,), {"p": 0.5, "seed": torch.ones(2)}, "one int64"),
        ("bias_activation", (torch.tensor(1.0),), {}, "no dimension"),
        ("norm", (X, torch.ones(9)), {}, "the weight has the sizes"),
        ("norm", (torch.ones(2, 20000),), {}, "20000 elements; 16384 is the most"),
        ("norm", (X,), {"kind": "batch"}, "the norm is 'batch'"),
        ("residual_norm", (X, X[:2]), {}, "the residual has the sizes"),
        ("residual_norm", (X, X.half()), {}, "another dtype"),
        ("gated_activation", (X, X[:, :4]), {}, "up has the sizes"),
        ("gated_activation", (torch.ones(2, 7),), {}, "odd"),
        ("gated_activation", (X, X.to("meta")), {}, "up is on meta"),
        ("rope", (Q, Q[:, :, :2], ANGLES, ANGLES), {}, "they must be"),
        ("rope", (Q, Q, ANGLES[:, :3], ANGLES[:, :3]), {}, "cos is"),
        ("rope", (Q.transpose(2, 3), Q.transpose(2, 3), torch.ones(8, 2), torch.ones(8, 2)), {}, "not contiguous"),
        ("rope", (Q, Q, ANGLES, ANGLES), {"layout": "thirds"}, "the layout is 'thirds'"),
        ("rope", (Q, Q, ANGLES.clone().requires_grad_(), ANGLES), {}, "needs a gradient"),
        ("linear_cross_entropy", (X, torch.ones(5, 7), TARGET), {}, "the weight has the sizes"),
        ("linear_cross_entropy", (X, torch.ones(5, 8), TARGET[:2]), {}, "the target has the sizes"),
        ("linear_cross_entropy", (X, torch.ones(5, 8), TARGET.int()), {}, "must be int64"),
        ("linear_cross_entropy", (X, torch.ones(5, 8).half(), TARGET), {}, "of one dtype"),
        ("linear_cross_entropy", (X, torch.ones(5, 8), TARGET), {"reduction": "none"}, "'none'"),
        ("linear_cross_entropy", (X, torch.ones(5, 8), TARGET), {"softcap": -1.0}, "softcap is -1.0"),
        ("linear_cross_entropy", (X, torch.ones(5, 8), TARGET), {"chunk_rows": 0}, "chunk_rows is 0"),
        ("scored_attention", (Q, Q, Q), {}, "head_dim is 8"),
        ("scored_attention", (HEADS, HEADS[:, :1], HEADS), {}, "they must be"),
        ("scored_attention", (HEADS, HEADS, HEADS, torch.ones(3, 1)), {}, "is not broadcast to"),
        ("scored_attention", (HEADS, HEADS, HEADS), {"softcap": 0.0}, "softcap is 0.0"),
        ("scored_attention", (HEADS.clone().requires_grad_(), HEADS, HEADS), {}, "no gradients"),
        ("pointwise_chain", (CHAIN, X), {}, "1 inputs for a chain of 2"),
        ("pointwise_chain", (CHAIN, X, torch.ones(2, 3)), {}, "do not fit together"),
        ("pointwise_chain", (CHAIN, torch.ones(2, 3, 4), torch.ones(3, 1)), {}, "no row or column"),
        ("pointwise_chain", (CHAIN, torch.ones(8), torch.ones(4, 1)), {}, "does not follow from an input of the full"),
        ("pointwise_chain", (ONE_INPUT, X.long()), {}, "int64"),
        ("pointwise_chain", (ONE_INPUT, X.t()), {}, "not contiguous"),
        ("pointwise_chain", (Chain(1, (Operation("pow", (0, 9.0)),), (1,)), X), {}, "exponent 9"),
        ("pointwise_chain", (Chain(1, (Operation("erfinv", (0,)),), (1,)), X), {}, "erfinv is not known"),
        ("pointwise_chain", (Chain(1, (Operation("exp", (1,)),), (1,)), X), {}, "not there yet"),
        ("pointwise_chain", (Chain(1, (Operation("exp", (0,)),), (0,)), X), {}, "no result of an operator"),
    ],
)
def test_what_they_cannot_do_is_said(name: str, inputs: tuple[Any, ...], options: dict[str, Any], reason: str) -> None:
    kernel = BY_NAME[name]

    said = kernel.why_not(*inputs, **options)
    assert said is not None and "\n" not in said
    with pytest.raises(UsageError, match=reason):
        kernel.function(*inputs, **options)


@pytest.mark.parametrize("text", ["", "[]", "[1]", "{}", '[1, [["exp"]], [1]]', '[1, [["exp", 0]], []]'])
def test_texts_that_are_no_chain_are_refused(text: str) -> None:
    with pytest.raises(ProbeError):
        parsed(text)


def test_a_chain_is_its_text() -> None:
    chain = Chain(2, (Operation("mul", (0, 1)), Operation("add", (2, 1.0)), Operation("pow", (3, 2.0))), (4, 2))

    assert parsed(chain.text()) == chain


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda k: k["bias_activation"].module(8, p=0.0), (X,)),
        (lambda k: k["norm"].module(8), (X,)),
        (lambda k: k["norm"].module(8, kind="layer"), (X,)),
        (lambda k: k["residual_norm"].module(8, p=0.0), (X, X)),
        (lambda k: k["gated_activation"].module(), (X,)),
        (lambda k: k["rope"].module(), (Q, Q, ANGLES, ANGLES)),
        (lambda k: k["pointwise_chain"].module(CHAIN), (X, X)),
        (lambda k: k["linear_cross_entropy"].module(8, 5), (X, TARGET)),
        (lambda k: k["scored_attention"].module(softcap=2.0), (HEADS, HEADS, HEADS)),
    ],
)
def test_modules_work_without_a_gpu_too(make: Callable[[Any], torch.nn.Module], inputs: tuple[Any, ...]) -> None:
    module = make(BY_NAME)
    found = module(*inputs)
    first = found[0] if isinstance(found, tuple) else found

    assert first.isfinite().all()
    if list(module.parameters()):
        first.sum().backward()
        assert all(p.grad is not None for p in module.parameters())


def test_costs_count_what_moves() -> None:
    x, weight = torch.ones(100, 64, dtype=torch.float16), torch.ones(64, dtype=torch.float16)
    whole, row = 100 * 64 * 2, 64 * 2
    cost = BY_NAME["bias_activation"].cost(x, weight)
    assert (cost.bytes_read, cost.bytes_written) == (whole + row, whole)
    cost = BY_NAME["residual_norm"].cost(x, x, weight)
    assert (cost.bytes_read, cost.bytes_written) == (2 * whole + row, 2 * whole)
    assert BY_NAME["residual_norm"].backward_cost(x, x, weight).bytes_moved == 4 * whole + 2 * row
    assert BY_NAME["gated_activation"].cost(x).bytes_moved == whole + whole // 2
    assert BY_NAME["gated_activation"].backward_cost(x, x).bytes_moved == 5 * whole
    assert BY_NAME["pointwise_chain"].cost(CHAIN, x, weight).bytes_moved == 2 * whole + row
    chunked = BY_NAME["linear_cross_entropy"].cost(torch.ones(10, 8), torch.ones(5, 8), torch.zeros(10).long())
    assert chunked.flops == 6 * 10 * 5 * 8


def test_logits_are_never_held_as_a_whole() -> None:
    """The largest tensor that a chunked loss and its gradients allocate, against one that holds all logits."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            for one in found if isinstance(found, (tuple, list)) else (found,):
                largest = max(largest, one.numel() if isinstance(one, torch.Tensor) else 0)
            return found

    x, weight = torch.randn(600, 4, requires_grad=True), torch.randn(500, 4, requires_grad=True)
    target = torch.randint(0, 500, (600,))
    with Sizes():
        BY_NAME["linear_cross_entropy"].function(x, weight, target, chunk_rows=20).backward()
    assert 0 < largest <= 20 * 500
    with Sizes():
        BY_NAME["linear_cross_entropy"].reference(x, weight, target).backward()
    assert largest == 600 * 500


def test_nothing_is_computed_for_gradients_that_nobody_wants() -> None:
    x, weight = torch.randn(6, 4), torch.randn(5, 4, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 4, -100])
    function = BY_NAME["linear_cross_entropy"].function

    with torch.no_grad():
        assert not function(x, weight, target).requires_grad
    loss = function(x, weight, target, chunk_rows=2)
    [found] = torch.autograd.grad(loss, weight)
    [right] = torch.autograd.grad(BY_NAME["linear_cross_entropy"].reference(x, weight, target), weight)
    torch.testing.assert_close(found, right)


def test_a_target_that_is_no_class_is_refused_on_a_cpu() -> None:
    with pytest.raises(RuntimeError, match="index"):
        BY_NAME["linear_cross_entropy"].function(X, torch.ones(5, 8), TARGET + 5)


@pytest.mark.parametrize("columns", [1, 7, 16, 128, 130, 700, 768, 1024, 1030, 4096, 5000])
def test_tiles_waste_little(columns: int) -> None:
    tile = tile_for(columns)

    assert tile.rows * tile.columns <= 4096
    assert tile.columns & (tile.columns - 1) == tile.rows & (tile.rows - 1) == 0
    covered = tile.across(columns) * tile.columns
    assert columns <= covered <= max(128, 2 * columns) or columns < 16
    if columns > 1024:
        assert covered <= 1.125 * columns


def test_every_operator_has_a_derivative() -> None:
    from probe.kernels.fused.chain import OPERATORS

    assert set(RULES) == set(OPERATORS)


def test_derivatives_leave_out_what_nobody_reads() -> None:
    chain = Chain(2, (Operation("exp", (0,)), Operation("mul", (2, 1))), (3,))

    made, which = derivative(chain, (False, True))
    assert [o.name for o in made.operations] == ["exp", "mul"]
    assert which == (0,)
    made, which = derivative(Chain(2, (Operation("exp", (0,)),), (2,)), (True, True))
    assert which == (0, None)


def test_recorded_operators_make_a_chain() -> None:
    recorded = [
        Recorded("aten::add", (Value(0), Value(1), 2)),
        Recorded("aten::mul", (Value(2), 0.5)),
        Recorded("aten::to", (Value(3), torch.float16)),
        Recorded("aten::clamp_min", (Value(4), 0)),
        Recorded("aten::rsub", (Value(5), 1)),
    ]

    made = of_operators(2, recorded, [6])
    assert [(o.name, o.arguments) for o in made.operations] == [
        ("mul", (1, 2.0)),
        ("add", (0, 2)),
        ("mul", (3, 0.5)),
        ("to_float16", (4,)),
        ("clamp", (5, 0.0, float("inf"))),
        ("sub", (1.0, 6)),
    ]
    with pytest.raises(UsageError, match="aten::softmax is not among"):
        of_operators(1, [Recorded("aten::softmax", (Value(0), -1))], [1])


def test_functions_make_chains() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(x > y, torch.nn.functional.gelu(x, approximate="tanh"), (1 - y).clamp(max=2))

    made = of_function(function, X, X)
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    [found] = BY_NAME["pointwise_chain"].reference(made, x, y)
    torch.testing.assert_close(found, function(x, y))
    with pytest.raises(UsageError):
        of_function(lambda x: x.sum(), X)
