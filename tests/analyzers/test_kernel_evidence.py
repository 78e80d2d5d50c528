"""What launches and names say of kernels: occupancy, waves, tails, tensor cores, and the rules made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import GPU, copy, document, kernel, launch, op, shapes, step, write
from real_traces import analysis_of

import probe
from probe.analyzers.gpu.kernel_evidence import KernelRuns, bus_fractions, causes, filling, in_blocks, runs_of_groups
from probe.analyzers.gpu.kernel_names import fused, is_unvectorised, sort_of
from probe.analyzers.gpu.sm_limits import limits, residence
from probe.analyzers.gpu.tensor_cores import Arithmetic, arithmetic, eligible, float32_runs_in, unaligned
from probe.analyzers.operators.op_table import group_operators
from probe.analyzers.operators.steps import recorded_steps
from probe.analyzers.shown_rates import LEAST_RIDGE
from probe.machine.device import Device
from probe.trace import LaunchShape, Signature

A100 = Device("cuda", "A100", compute_capability="8.0", sm_count=108)
H100 = Device("cuda", "H100", compute_capability="9.0", sm_count=132)
MI300 = Device("rocm", "MI300X", compute_capability="9.4", sm_count=304)


@pytest.mark.parametrize(
    ("device", "block", "registers", "shared", "blocks", "limited_by"),
    [
        (A100, 128, 32, 0, 16, "threads"),
        (A100, 128, 255, 49152, 2, "registers"),  # 256 registers a thread: 8 warps
        (H100, 128, 40, 100000, 2, "shared memory"),
        (A100, 32, 16, 0, 32, "blocks"),
        (A100, 1024, 40, 0, 1, "registers"),
        (A100, 640, 96, 42024, 1, "registers"),
        (A100, 64, 168, 65536, 2, "shared memory"),
        (Device("cuda", "T4", compute_capability="7.5", sm_count=40), 256, 32, 0, 4, "threads"),
        (Device("cuda", "RTX", compute_capability="8.6", sm_count=82), 1024, 32, 0, 1, "threads"),
    ],
)
def test_what_fits_on_an_sm(
    device: Device, block: int, registers: int, shared: int, blocks: int, limited_by: str
) -> None:
    limit = limits(device)
    assert limit is not None
    fits = residence(LaunchShape((1,), (block, 1, 1), registers, shared), limit)
    assert fits is not None and fits.exact
    assert (fits.blocks, fits.limited_by) == (blocks, limited_by)
    assert fits.occupancy_fraction == pytest.approx(fits.blocks * -(-block // 32) / limit.warps)


def test_what_is_not_known_of_occupancy() -> None:
    assert limits(Device("cuda", "?", compute_capability="99.0")) is None
    assert limits(Device("cpu", "?")) is None
    limit = limits(MI300)
    assert limit is not None
    fits = residence(LaunchShape((1,), (256, 1, 1)), limit)
    assert fits is not None and not fits.exact and fits.occupancy_fraction == 1.0
    assert residence(LaunchShape((1,), ()), limit) is None


def test_waves_and_the_last_of_them() -> None:
    shape = LaunchShape((300, 1, 1), (1024, 1, 1), 32, 0)  # two at a time on each of 132 SMs
    filled = filling(shape, H100)
    assert filled is not None and filled.waves == pytest.approx(300 / 264)
    assert filled.tail_fraction == pytest.approx(300 / 264 / 2)
    persistent = filling(LaunchShape((264, 1, 1), (1024, 1, 1), 32, 0), H100)
    assert persistent is not None and persistent.tail_fraction is None and persistent.warps_fraction == 1.0
    assert filling(LaunchShape((), ()), H100) is None
    assert filling(shape, Device("cuda", "?")) is None


def test_the_profilers_estimate_stands_in_where_registers_are_not_recorded() -> None:
    told = filling(LaunchShape((900, 1, 1), (128, 1, 1), theoretical_occupancy_fraction=0.12), H100)
    assert told is not None and told.warps_fraction == 0.12
    computed = filling(LaunchShape((9000, 1, 1), (128, 1, 1), 32, 0, theoretical_occupancy_fraction=0.01), H100)
    assert computed is not None and computed.warps_fraction == 1.0


def test_causes_are_shares_of_the_time() -> None:
    few = KernelRuns("a", LaunchShape((8, 1, 1), (128, 1, 1), 32, 0), 1, 3e-4)
    tiny = KernelRuns("b", None, 100, 1e-4)
    found = causes((few, tiny), H100, 5e-6)
    assert [(cause.limiter, cause.share) for cause in found] == [
        ("low-occupancy", pytest.approx(0.75)),
        ("small-kernel", pytest.approx(0.25)),
    ]
    assert found[0].text == "8 blocks for 132 SMs"
    assert causes((), H100, 5e-6) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("void cutlass::Kernel<cutlass_80_tensorop_s1688gemm_64x64_32x4_nn_align1>(…)", Arithmetic(True, "tf32")),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_256x128_64x3>", Arithmetic(True, "bfloat16")),
        ("void cutlass::Kernel<cutlass_80_simt_sgemm_128x32_8x5_nn_align1>(…)", Arithmetic(False)),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32>", Arithmetic(True, "bfloat16")),
        ("void cutlass::Kernel2<cutlass_80_tensorop_d884gemm_64x32_16x4_nn_align1>(…)", Arithmetic(True, "float64")),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", Arithmetic(True, "bfloat16")),
        ("sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nchw", Arithmetic(True, "tf32")),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize32x32x8_stage3_ffma_aligna4", Arithmetic(False, "float32")),
        ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", Arithmetic(True, "bfloat16")),
        ("ampere_fp16_s1688gemm_fp16_128x128_ldg8_f2f_tn", Arithmetic(True, "float16")),
        ("volta_fp16_s884gemm_fp16_128x128_ldg8_f2f_nn", Arithmetic(True, "float16")),
        ("volta_h884gemm_256x64_ldg8_nn", Arithmetic(True)),
        ("volta_s884cudnn_fp16_256x64_ldg8_relu_exp_small_nhwc_tn_v1", Arithmetic(True)),
        ("turing_h1688gemm_128x64_ldg8_nn", Arithmetic(True)),
        ("volta_sgemm_64x64_nt", Arithmetic(False)),
        ("ampere_sgemm_128x64_nn", Arithmetic(False)),
        ("cudnn_infer_volta_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1", Arithmetic(False)),
        ("void cudnn::detail::dgrad_engine<float, 512, 6, 5, 3, 3, 3, false>(…)", Arithmetic(False, "float32")),
        ("nvjet_tst_128x64_64x8_2x1_v_bz_TNN", Arithmetic(True)),
        ("void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<64>>", Arithmetic(True)),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", Arithmetic(True, "bfloat16")),
        ("Cijk_Alik_Bljk_B_BS_BH_Bias_HA_S_SAV_UserArgs_MT256x128x64_MI16x16x1_SN", Arithmetic(True)),
        ("Cijk_Ailk_Bljk_SB_MT64x64x16_SE_K1", Arithmetic(False)),
        ("igemm_fwd_gtcx3_nhwc_bf16_bx0_ex1_bt128x128x32", Arithmetic(True, "bfloat16")),
        ("attn_fwd", Arithmetic(True)),
        ("void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 2, 2, false>", Arithmetic(False)),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>", None),
        ("triton_poi_fused_add_relu_0", None),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", None),
    ],
)  # fmt: skip
def test_names_tell_tensor_cores(name: str, expected: Arithmetic | None) -> None:
    assert arithmetic(name) == expected


@pytest.mark.parametrize(
    ("name", "cuda", "rocm"),
    [
        ("cutlass_80_tensorop_s1688gemm_128x128_32x3_nn", "tf32", "tf32"),
        ("void cutlass::Kernel2<cutlass_75_tensorop_s1688gemm_128x128_nn_align4>(…)", "tf32", "float32"),
        ("cutlass_tensorop_s1688fprop_optimized_128x64_32x3_nhwc_align4", "tf32", "float32"),
        ("nvjet_sss_128x64_64x8_2x1_v_bz_TNN", "tf32", "float32"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize32x32x8_stage3_ffma_aligna4", "float32", "float32"),
        ("ampere_sgemm_128x64_nn", "float32", "float32"),
        ("sgemm", "float32", "float32"),
        ("implicit_tf32_kernel", "tf32", "tf32"),
        ("Cijk_Alik_Bljk_S_B_Bias_MT256x128x64_MI16x16x1_SN", "tf32", "float32"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>", None, None),
    ],
)
def test_in_what_float32_is_multiplied(name: str, cuda: str | None, rocm: str | None) -> None:
    assert float32_runs_in(name, A100) == cuda
    assert float32_runs_in(name, MI300) == rocm


def test_who_has_tensor_cores_for_what() -> None:
    v100 = Device("cuda", "V100", compute_capability="7.0")
    assert eligible("float16", v100) and not eligible("bfloat16", v100) and not eligible("float32", v100)
    assert eligible("float32", A100) and eligible("bfloat16", MI300)
    assert not eligible("float8_e4m3fn", A100) and eligible("float8_e4m3fn", H100)
    assert not eligible(None, A100) and not eligible("float32", Device("cpu", "cpu"))


def test_sizes_that_are_no_multiple_of_eight() -> None:
    assert unaligned(Signature(((64, 30), (30, 50257)), ("float", "float"))) == (30, 50257)
    assert unaligned(Signature(((8, 64, 32), (64,), ()), ("float", "float", "Scalar"))) == ()


@pytest.mark.parametrize(
    ("name", "sort"),
    [
        ("void at::native::(anonymous namespace)::indexSelectLargeIndex<float, long>", "indexed"),
        ("void split_embedding_codegen_forward_unweighted_kernel<float>", "indexed"),
        ("void at::native::_scatter_gather_elementwise_kernel<128, 8>", "indexed"),
        ("void at::native::vectorized_gather_kernel<16, long>", "indexed"),
        ("void cub::DeviceRadixSortHistogramKernel<int>", "sort"),
        ("void at_cuda_detail::cub::DeviceScanKernel<int>", "scan"),
        ("batched_transpose_32x32_half", "layout"),
        ("void at::native::elementwise_kernel<128, 4, gpu_kernel_impl_nocast<direct_copy_kernel_cuda(…)>>", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::bfloat16_copy_kernel_cuda(…)>", "cast"),
        ("void at::native::unrolled_elementwise_kernel<direct_copy_kernel_cuda(…), memory::LoadWithCast<1>>", "cast"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)", "collective"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>", None),
        ("ampere_sgemm_128x64_nn", None),
    ],
)  # fmt: skip
def test_what_kernels_do(name: str, sort: str | None) -> None:
    assert sort_of(name) == sort


def test_generated_kernels_list_what_they_fuse() -> None:
    assert fused("triton_poi_fused_add_relu_0") == ("add", "relu")
    words = fused("triton_red_fused__unsafe_view_add_mean_mul_pow_rsqrt_1")
    assert words == ("unsafe_view", "add", "mean", "mul", "pow", "rsqrt")
    assert fused("triton_per_fused__softmax_native_layer_norm_backward_3") == ("softmax", "native_layer_norm_backward")
    assert fused("triton_tem_fused_mm_4") == ("mm",)
    assert fused("ampere_sgemm_128x64_nn") == () and fused("triton_kernel_of_mine") == ()


def test_general_pointwise_kernels() -> None:
    assert is_unvectorised("void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<…>>")
    assert is_unvectorised("void at::native::elementwise_kernel_manual_unroll<128, 8, …>")
    assert not is_unvectorised("void at::native::vectorized_elementwise_kernel<4, …>")


def test_the_lowest_ridge_point_is_that_of_the_data_sheets() -> None:
    assert 5 < LEAST_RIDGE < 20


# --- traces ---------------------------------------------------------------------------------------------------------


def busy(*kernels: dict[str, Any], name: str = "aten::native_batch_norm", **args: Any) -> list[Any]:
    """A step in which one operator launches these kernels one after another, 200 µs each."""
    events: list[Any] = [step(1, 0, 1000), op(name, 5, 40, **args)]
    for index, found in enumerate(kernels):
        events.append(launch(index + 1, 10 + index))
        events.append({**found, "args": {**found["args"], "correlation": index + 1}})
    return events


def long(name: str, start: float, grid: int, block: int, registers: int = 32, shared: int = 0) -> dict[str, Any]:
    """A kernel of 200 µs."""
    known = {"grid": [grid, 1, 1], "block": [block, 1, 1], "registers per thread": registers, "shared memory": shared}
    return kernel(name, start, 200, 0, **known)


def analysed(tmp_path: Path, events: list[Any]) -> probe.Analysis:
    """What is said of a trace of an H100."""
    return probe.analyze(write(tmp_path, events, deviceProperties=[{**GPU[0], "name": H100_NAME}]))


def codes(analysis: probe.Analysis) -> list[str]:
    return [finding.code for finding in analysis.findings if finding.code.startswith("E0")]


NORM = shapes([10, 64, 56, 56], [64], [64], [64], [64])
H100_NAME = "NVIDIA H100 80GB HBM3"


def test_few_blocks_are_found(tmp_path: Path) -> None:
    found = analysed(tmp_path, busy(long("collect", 50, 33, 256), **NORM))
    assert codes(found) == ["E05"]
    finding = next(f for f in found.findings if f.code == "E05")
    assert "33 blocks for 132 SMs: 75%" in finding.summary
    assert 0 < finding.saving_s <= 0.75 * 200e-6 * 1.05  # as far as the step waits for it
    assert "channels_last" in (finding.how or "")
    assert finding.ops and found.ops[finding.ops[0]].limiter == "low-occupancy"


def test_tails_are_found(tmp_path: Path) -> None:
    found = analysed(tmp_path, busy(long("collect", 50, 300, 1024), **NORM))  # 1.14 waves of two blocks an SM
    assert codes(found) == ["E04"]
    finding = next(f for f in found.findings if f.code == "E04")
    assert "1.14 waves of blocks take the time of 2" in finding.summary
    assert 0 < finding.saving_s <= (1 - 300 / 528) * 200e-6 * 1.05
    assert "1.76× as large" in (finding.how or "")
    assert found.ops[finding.ops[0]].limiter == "tail"


def test_few_warps_are_found_without_a_promise(tmp_path: Path) -> None:
    found = analysed(tmp_path, busy(long("collect", 50, 9000, 64, 255), **NORM))
    assert codes(found) == ["E06"]
    assert next(f for f in found.findings if f.code == "E06").saving_s is None


@pytest.mark.parametrize(
    "quiet",
    [
        long("collect", 50, 9000, 256),  # fills the device
        long("collect", 50, 264, 1024),  # one whole wave
        long("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", 50, 9000, 64, 255),  # tiles in registers
        long("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 50, 24, 512),  # collectives take few SMs on purpose
        kernel("collect", 50, 4, 0, grid=[4, 1, 1]),  # too short to matter
    ],
    ids=["wide", "one wave", "tensor cores", "collective", "short"],
)
def test_no_shape_to_blame(tmp_path: Path, quiet: dict[str, Any]) -> None:
    assert not {"E04", "E05", "E06"} & set(codes(analysed(tmp_path, busy(quiet, **NORM))))


def test_few_blocks_near_the_roof_are_left_in_peace(tmp_path: Path) -> None:
    """200 MB each way in 200 µs are far more than half of this device's bandwidth."""
    fast = busy(long("k", 50, 33, 256), name="aten::relu", **shapes([48 << 20]))
    assert codes(analysed(tmp_path, fast)) == []


def test_far_below_the_roof_with_a_reason(tmp_path: Path) -> None:
    name = (
        "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::CUDAFunctor_add>>"
    )
    events = busy(long(name, 50, 9000, 128), name="aten::mul", **shapes([1024, 1024], [1024, 1024]))
    found = analysed(tmp_path, events)
    assert codes(found) == ["E07"]
    finding = next(f for f in found.findings if f.code == "E07")
    assert 0 < finding.saving_s <= (200e-6 - 2 * 3 * 4 * 2**20 / 3.35e12) * 1.05
    assert "one element per thread" in finding.evidence[0] and "contiguous" in (finding.how or "")
    vectorised = name.replace("elementwise_kernel", "vectorized_elementwise_kernel")
    events = busy(long(vectorised, 50, 9000, 128), name="aten::mul", **shapes([1024, 1024], [1024, 1024]))
    assert [f.saving_s for f in analysed(tmp_path, events).findings if f.code == "E07"] == [None]


def test_a_grid_in_threads_is_divided_by_the_block(tmp_path: Path) -> None:
    """HIP's extended launch takes the grid in threads, and profilers write what it was given."""
    assert in_blocks(LaunchShape((16, 256, 1), (1, 256, 1))).grid == (16, 1, 1)
    events = busy(long("batched_gemm", 50, 16384, 256), **NORM)
    assert events[2]["name"] == "cudaLaunchKernel"
    events[2]["name"] = "hipExtModuleLaunchKernel"
    trace = probe.load(write(tmp_path, events, deviceProperties=GPU))
    groups = group_operators(trace, recorded_steps(trace))
    (runs,) = runs_of_groups(trace, groups.of_kernel).values()
    assert runs[0].shape is not None and runs[0].shape.grid == (64, 1, 1)


def test_copies_over_the_bus_by_group(tmp_path: Path) -> None:
    events = [
        step(1, 0, 1000),
        op("aten::copy_", 5, 10, **shapes([64, 64], [64, 64])), launch(1, 6, name="cudaMemcpyAsync"),
        copy("Memcpy HtoD (Pinned -> Device)", 20, 500, 1, 16384),
        op("aten::add", 20, 10, **shapes([64, 64], [64, 64])), launch(2, 21), kernel("k", 530, 100, 2),
    ]  # fmt: skip
    path = write(tmp_path, events, deviceProperties=GPU)
    trace = probe.load(path)
    groups = group_operators(trace, recorded_steps(trace))
    fractions = bus_fractions(trace, groups.of_op, groups.of_kernel, groups.name)
    assert dict(zip(groups.name, fractions.tolist(), strict=True)) == {"aten::add": 0.0, "aten::copy_": 1.0}
    copied = next(o for o in probe.analyze(path).ops if o.name == "aten::copy_")
    assert (copied.bound, copied.limiter, copied.roof_fraction) == ("host", "copy", None)


def test_time_by_what_kernels_do(tmp_path: Path) -> None:
    product = shapes([64, 30], [30, 64], dtype="c10::BFloat16")
    events = busy(
        long("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", 50, 9000, 64),
        long("ampere_sgemm_128x64_nn", 300, 9000, 64), name="aten::mm", **product,
    )  # fmt: skip
    told = analysed(tmp_path, events).kernel_time_s
    assert told["tensor_core"] == told["vector"] == told["eligible"] == pytest.approx(200e-6)
    assert told["unaligned"] == pytest.approx(400e-6) and told["cast"] == 0.0
    assert probe.analyze(write(tmp_path, [step(1, 0, 10), op("aten::mm", 1, 5)], "cpu.json")).kernel_time_s == {}
    assert document([])["traceEvents"] == []


@pytest.mark.parametrize(
    "name",
    [
        "h100_bert_small", "h100_qwen_0.5b_chat", "mi300x_compiled_triton", "mi300x_normalisation_layers",
        "mi300x_qwen_0.5b_chat", "mi300x_resnet_checkpointing_rank0", "v100_resnet50_training",
        "v100_dlrm_4_of_8_ranks/rank0", "v100_dlrm_4_of_8_ranks/rank2", "two_of_128_ranks/sampled_rank-0",
    ],
)  # fmt: skip
def test_little_is_unknown_where_shapes_were_recorded(foreign_traces: Path, name: str) -> None:
    times = analysis_of(foreign_traces / f"{name}.json.gz").time_s
    assert (times["unknown"] or 0.0) <= 0.05 * (times["step"] or 0.0)
