"""A class is given with its evidence, and only where the evidence decides."""

import pytest

from probe.analyzers.classify import Class, Machine, classify
from probe.analyzers.cost_models import Cost
from probe.analyzers.gpu.kernel_evidence import KernelRuns
from probe.analyzers.operators.strides import is_strided
from probe.analyzers.roofline import place
from probe.analyzers.shown_rates import ShownRates
from probe.machine.device import Ceilings, Device, Level
from probe.trace import LaunchShape, Signature

CPU = Ceilings(
    "measured", "cpu", dram_bytes_per_s=20e9, flops_per_s={"float32": 200e9, "float64": 100e9}, launch_s=2e-6,
    levels={"L2": Level(1 << 20, 4e-9, 200e9), "DRAM": Level(None, 1e-7, 20e9)},
)  # fmt: skip
GPU = Ceilings(
    "datasheet", "gpu", dram_bytes_per_s=3e12, launch_s=2.5e-6,
    flops_per_s={"float32": 60e12, "tf32": 400e12, "bfloat16": 900e12},
)  # fmt: skip


def on_cpu(cost: Cost, time_s: float, signature: Signature | None = None) -> Class:
    return classify(cost, place(cost, CPU), time_s, Machine(CPU, 2e-6, False), signature=signature)


UNKNOWN_GPU = Ceilings("assumed", "gpu", launch_s=2.5e-6)
H100 = Device("cuda", "H100", compute_capability="9.0", sm_count=132)
WIDE = LaunchShape((9000, 1, 1), (128, 1, 1), 32, 0)  # many waves at full occupancy


def on_gpu(
    cost: Cost, time_s: float, shape: LaunchShape | None = None, *, tf32: bool = False, name: str = "k",
    signature: Signature | None = None, ceilings: Ceilings = GPU, shown: ShownRates | None = None,
) -> Class:  # fmt: skip
    """The class of one call of one kernel on a GPU of 132 SMs."""
    machine = Machine(ceilings, 2e-6, True, device=H100, shown=shown or ShownRates())
    runs = (KernelRuns(name, shape, 1, time_s),)
    return classify(cost, place(cost, ceilings, tf32=tf32), time_s, machine, runs=runs, signature=signature)


MATMUL = Cost(2e9, 12e6, "matmul", "float32")
ADD = Cost(16e6, 192e6, "pointwise", "float32")


@pytest.mark.parametrize(
    ("cost", "time_s", "bound", "limiter"),
    [
        (MATMUL, 12e-3, "compute", "fp32"),
        (MATMUL, 1.0, "compute", "fp32"),
        (ADD, 10e-3, "memory", "dram"),
        (Cost(64e3, 768e3, "pointwise", "float32"), 50e-6, "memory", "l2"),
        (Cost(16, 192, "pointwise", "float32"), 2e-6, "overhead", "dispatch"),
        (Cost(None, None, "unknown", reason="no model"), 2e-6, "overhead", "dispatch"),
        (Cost(None, None, "unknown", reason="no model"), 5e-3, "unknown", None),
        (Cost(2e9, 12e6, "matmul", "float16"), 12e-3, "unknown", None),
        (Cost(0, 0, "view"), 1e-6, "overhead", "dispatch"),
        (Cost(0, 0, "wrapper"), 3e-6, "overhead", "dispatch"),
        (Cost(0, 0, "wrapper"), 5e-3, "host", "python"),
        (Cost(None, 4e6, "collective"), 1e-3, "communication", None),
        (Cost(0, 0, "host"), 1e-3, "host", "loader"),
        (Cost(2e9, 12e6, "matmul", "float64"), 25e-3, "compute", "fp64"),
    ],
)
def test_on_a_cpu(cost: Cost, time_s: float, bound: str, limiter: str | None) -> None:
    found = on_cpu(cost, time_s)
    assert (found.bound, found.limiter) == (bound, limiter)
    assert found.evidence


@pytest.mark.parametrize(
    ("cost", "time_s", "bound"),
    [
        (Cost(2e12, 1e8, "matmul", "bfloat16"), 3e-3, "compute"),
        (Cost(1e8, 1.2e9, "pointwise", "bfloat16"), 5e-4, "memory"),
        (Cost(1e4, 1e5, "pointwise", "float32"), 2e-6, "overhead"),
        (Cost(2e12, 1e8, "matmul", "bfloat16"), 30e-3, "unknown"),
        (Cost(None, None, "unknown", reason="no shapes recorded"), 1e-3, "unknown"),
    ],
)
def test_on_a_gpu(cost: Cost, time_s: float, bound: str) -> None:
    assert on_gpu(cost, time_s).bound == bound


SLOW = Cost(1e9, 1e7, "attention", "bfloat16")


@pytest.mark.parametrize(
    ("shape", "limiter"),
    [
        (LaunchShape((16, 1, 1), (128, 1, 1)), "low-occupancy"),  # fewer blocks than SMs
        (LaunchShape((900, 1, 1), (128, 1, 1), theoretical_occupancy_fraction=0.12), "low-occupancy"),
        (LaunchShape((9000, 1, 1), (128, 1, 1), 255, 49152), "low-occupancy"),  # two blocks of four warps on an SM
        (LaunchShape((140, 1, 1), (1024, 1, 1), 64, 0), "tail"),  # one block a time on each of 132 SMs: 2 waves
        (LaunchShape((9000, 1, 1), (128, 1, 1), theoretical_occupancy_fraction=0.8), None),
        (WIDE, None),
        (LaunchShape((), ()), None),
        (None, None),
    ],
)
def test_latency_needs_evidence_from_the_launch(shape: LaunchShape | None, limiter: str | None) -> None:
    found = on_gpu(SLOW, 1e-3, shape)
    assert (found.bound, found.limiter) == ("latency" if limiter else "unknown", limiter)
    assert found.evidence


@pytest.mark.parametrize(
    ("name", "bound", "limiter"),
    [
        ("void at::native::(anonymous namespace)::indexSelectLargeIndex<float>", "latency", "dependency"),
        ("void cub::DeviceRadixSortOnesweepKernel<int>", "latency", "dependency"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<float, 4>", "latency", "strided-access"),
        ("void cudnn::ops::nchwToNhwcKernel<float, float>", "memory", "copy"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy_contig<float, 4>", "unknown", None),
    ],
)
def test_names_of_kernels_are_evidence_far_below_the_roofs_only(name: str, bound: str, limiter: str | None) -> None:
    found = on_gpu(SLOW, 1e-3, WIDE, name=name)
    assert (found.bound, found.limiter) == (bound, limiter)
    near = on_gpu(Cost(0, 3e9, "copy", "float32"), 2e-3, WIDE, name=name)
    assert (near.bound, near.limiter) == ("memory", "dram")


@pytest.mark.parametrize("share", [0.29, 0.05])
def test_pointwise_operators_wait_for_their_bytes_however_far_from_the_roof(share: float) -> None:
    at_the_roof_s = 192e6 / 3e12
    found = on_gpu(ADD, at_the_roof_s / share, WIDE)
    assert (found.bound, found.limiter) == ("memory", None)
    assert "launch does not show why" in found.evidence[-1]
    heavy = Cost(
        192e6 * 19, 192e6, "pointwise", "float32"
    )  # near the ridge point of 20: arithmetic may be what is slow
    assert on_gpu(heavy, at_the_roof_s / share, WIDE).bound == "unknown"
    few = LaunchShape((16, 1, 1), (128, 1, 1))
    assert on_gpu(ADD, at_the_roof_s / share, few).bound == "latency"  # the launch shows why


def test_strides_are_evidence_on_a_gpu() -> None:
    apart = Signature(((64, 64),), ("float",), ((64, 128),))
    assert on_gpu(SLOW, 1e-3, WIDE, signature=apart).limiter == "strided-access"


def test_most_of_the_time_decides() -> None:
    machine = Machine(GPU, 2e-6, True, device=H100)
    few = LaunchShape((16, 1, 1), (128, 1, 1))
    runs = (KernelRuns("a", few, 1, 4e-4), KernelRuns("b", WIDE, 1, 6e-4))
    assert classify(SLOW, place(SLOW, GPU), 1e-3, machine, runs=runs).bound == "unknown"
    found = classify(SLOW, place(SLOW, GPU), 1e-3, machine, runs=(runs[0], KernelRuns("b", WIDE, 1, 3e-4)))
    assert found.limiter == "low-occupancy" and any(text.startswith("57% of its time") for text in found.evidence)


def test_many_tiny_kernels_are_overhead_whatever_one_long_one_does() -> None:
    machine = Machine(GPU, 2e-6, True, device=H100)
    runs = (KernelRuns("tiny", WIDE, 100, 3e-4), KernelRuns("long", WIDE, 1, 2e-4))
    found = classify(SLOW, place(SLOW, GPU), 5e-4, machine, runs=runs)
    assert (found.bound, found.limiter) == ("overhead", "small-kernel")


def test_kernels_that_move_data_are_bound_by_it_whatever_the_sizes() -> None:
    machine = Machine(GPU, 2e-6, True, device=H100)
    cat = "void at::native::(anonymous namespace)::CatArrayBatchedCopy<float, unsigned int, 2, 64, 64>(float*)"
    adam = "void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float>, float>"
    unsized = Cost(None, None, "unknown", None, reason="sizes of a tensor list not recorded")
    for runs, bound in [
        ((KernelRuns(cat, WIDE, 1, 1e-3),), "memory"),
        ((KernelRuns(adam, WIDE, 1, 1e-3),), "memory"),
        ((KernelRuns(adam, WIDE, 9, 9e-3), KernelRuns("sgemm", WIDE, 1, 0.9e-3)), "memory"),
        ((KernelRuns(adam, WIDE, 1, 1e-3), KernelRuns("sgemm", WIDE, 1, 1e-3)), "unknown"),
        ((KernelRuns(adam.replace("float", "double"), WIDE, 1, 1e-3),), "unknown"),
        ((KernelRuns("void at::native::reduce_kernel<512, 1>", WIDE, 1, 1e-3),), "unknown"),
        ((), "unknown"),
    ]:
        assert classify(unsized, place(unsized, GPU), 1e-3, machine, runs=runs).bound == bound, runs


def test_a_copy_over_the_bus_is_not_held_against_memory() -> None:
    machine = Machine(GPU, 2e-6, True, device=H100)
    copy = Cost(0, 2e8, "copy", "float32")
    found = classify(copy, place(copy, GPU), 1e-2, machine, copied_fraction=1.0)
    assert (found.bound, found.limiter) == ("host", "copy")
    assert "10 GB/s" in found.evidence[0]
    short = classify(copy, place(copy, GPU), 3e-6, machine, copied_fraction=1.0)
    assert (short.bound, short.limiter) == ("overhead", "copy")


class TestAgainstTheFastest:
    """Where nothing was measured, the fastest operators of the same trace stand for the roof."""

    FASTEST = ShownRates(bytes_per_s=2e12, flops_per_s={"bfloat16": 400e12})
    product = Cost(2e12, 1e8, "matmul", "bfloat16")  # 2.2 ms at the peak of 900, 5 ms at the rate shown

    def test_close_to_them_is_close_to_the_roof(self) -> None:
        found = on_gpu(self.product, 10e-3, WIDE, shown=self.FASTEST)
        assert (found.bound, found.limiter) == ("compute", "tensor-core")
        assert "50% of the fastest bfloat16 product in this trace" in found.evidence
        assert on_gpu(self.product, 10e-3, WIDE).bound == "unknown"

    def test_not_where_the_peak_is_much_further_away(self) -> None:
        slow = ShownRates(bytes_per_s=2e12, flops_per_s={"bfloat16": 90e12})
        assert on_gpu(self.product, 30e-3, WIDE, shown=slow).bound == "unknown"

    def test_measured_ceilings_are_what_kernels_reach(self) -> None:
        measured = Ceilings("measured", "gpu", GPU.dram_bytes_per_s, GPU.flops_per_s, GPU.launch_s)
        assert on_gpu(self.product, 10e-3, WIDE, shown=self.FASTEST, ceilings=measured).bound == "unknown"

    def test_of_an_unknown_device(self) -> None:
        add = Cost(1e8, 1.2e9, "pointwise", "float32")  # 0.6 ms at the rate shown
        found = on_gpu(add, 1e-3, WIDE, ceilings=UNKNOWN_GPU, shown=self.FASTEST)
        assert (found.bound, found.limiter) == ("memory", "dram")
        assert on_gpu(add, 1e-3, WIDE, ceilings=UNKNOWN_GPU).bound == "unknown"
        far = on_gpu(add, 1e-2, WIDE, ceilings=UNKNOWN_GPU, shown=self.FASTEST, name="gather_kernel")
        assert (far.bound, far.limiter) == ("latency", "dependency")

    def test_arithmetic_on_vector_units_is_no_product(self) -> None:
        busy = Cost(1e12, 1e9, "pointwise", "float32")  # 1000 FLOP/byte: not known to be bound by memory
        assert on_gpu(busy, 1e-3, WIDE, ceilings=UNKNOWN_GPU, shown=self.FASTEST).bound == "unknown"


def test_gaps_between_elements_are_strided_access() -> None:
    transposed = Signature(((4096, 4096), (4096, 4096)), ("float", "float"), ((4096, 1), (1, 4096)))
    assert on_cpu(ADD, 10e-3, transposed).limiter == "strided-access"


@pytest.mark.parametrize(
    ("dims", "strides", "strided"),
    [
        ((2, 3), (3, 1), False),
        ((2, 3), (1, 2), False),
        ((64, 64, 8, 8), (4096, 1, 512, 64), False),
        ((2, 3), (1, 4), True),
        ((2, 3), (0, 1), False),
        ((1, 3), (99, 1), False),
        ((4,), (2,), True),
        ((), (), False),
        ((2, 3), (-3, 1), True),
        ((2, 3), ("x", 1), False),
        ((2,), (1, 1), False),
    ],
)
def test_what_is_contiguous(dims: tuple[int, ...], strides: tuple[int, ...], strided: bool) -> None:
    assert is_strided(Signature((dims,), ("float",), (strides,))) is strided


def test_placement_figures() -> None:
    placed = place(MATMUL, CPU)
    assert placed.intensity == pytest.approx(2e9 / 12e6)
    assert placed.ridge_point == pytest.approx(10)
    assert placed.roof_s == pytest.approx(0.01)
    assert placed.side == "compute"
    assert place(Cost(None, None, "unknown"), CPU).roof_s is None
    assert place(ADD, Ceilings("assumed", "?")).roof_s is None
