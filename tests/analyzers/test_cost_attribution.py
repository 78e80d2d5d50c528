"""Work that one operator hands to another counts once, and other calls supply what one does not record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import Event, kernel, launch, op, shapes, step, write
from real_traces import trace_in

from probe.analyzers.cost_models.attribution import GroupCosts, attribute
from probe.analyzers.cost_models.coverage import Coverage, coverage
from probe.analyzers.operators.op_table import OpGroups, group_operators
from probe.analyzers.operators.steps import recorded_steps
from probe.readers.kineto import read
from probe.trace import Trace


def attributed(trace: Trace) -> tuple[OpGroups, GroupCosts]:
    groups = group_operators(trace, recorded_steps(trace))
    return groups, attribute(trace, groups.of_op, groups.name, groups.signature)


def costs_of(events: list[Event], folder: Path) -> dict[str, tuple[float, float, float]]:
    """Own flops, own bytes and share of own calls, by operator."""
    groups, costs = attributed(read(write(folder, [step(1, 0, 1000), *events])))
    return {
        name: (costs.flops[g], costs.bytes[g], costs.own_fraction[g])
        for g, name in enumerate(groups.name)
    }  # fmt: skip


def typed(*arguments: tuple[list[Any], str, str]) -> dict[str, Any]:
    """Arguments with sizes, type and text."""
    dims, types, texts = zip(*arguments, strict=True)
    return {"Input Dims": list(dims), "Input type": list(types), "Concrete Inputs": list(texts)}


def test_a_composite_hands_its_work_on(tmp_path: Path) -> None:
    found = costs_of(
        [
            op("aten::linear", 0, 30, **shapes([4, 8], [16, 8], [16])),
            op("aten::t", 1, 2, **shapes([16, 8])),
            op("aten::addmm", 5, 20, **shapes([16], [4, 8], [8, 16])),
        ],
        tmp_path,
    )
    assert found["aten::linear"] == (0, 0, 0)
    assert found["aten::addmm"] == (2 * 4 * 8 * 16, 4 * (16 + 32 + 128 + 64), 1)
    assert found["aten::t"] == (0, 0, 1)


def test_a_composite_without_children_does_its_work_itself(tmp_path: Path) -> None:
    found = costs_of([op("aten::linear", 0, 30, **shapes([4, 8], [16, 8]))], tmp_path)
    assert found["aten::linear"] == (1024, 4 * (32 + 128 + 64), 1)


def test_many_small_parts_together_do_the_work(tmp_path: Path) -> None:
    parts = [op("aten::mul_", 10 * i + 1, 5, **shapes([4, 5], [4, 5])) for i in range(3)]
    lists = {"Input Dims": [[[4, 5]] * 3, [[4, 5]] * 3], "Input type": ["TensorList", "TensorList"]}
    found = costs_of([op("aten::_foreach_mul_", 0, 100, **lists), *parts], tmp_path)
    assert found["aten::_foreach_mul_"][2] == 0
    assert found["aten::mul_"] == (20, 240, 1)


def test_fills_below_a_convolution_are_not_its_work(tmp_path: Path) -> None:
    grad = [([2, 6, 5, 5], "float", ""), ([2, 4, 9, 9], "float", ""), ([6, 4, 3, 3], "float", "")]
    rest = ["[6]", "[2, 2]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1", "[True, True, False]"]
    arguments = typed(*grad, *(([], "ScalarList", text) for text in rest))
    found = costs_of(
        [op("aten::convolution_backward", 0, 50, **arguments), op("aten::fill_", 5, 9, **shapes([2, 4, 9, 9], []))],
        tmp_path,
    )
    assert found["aten::convolution_backward"][0] == 43200
    assert found["aten::convolution_backward"][2] == 1


def test_the_zeros_of_a_gradient_are_taken_off_its_own_bytes(tmp_path: Path) -> None:
    numbers = [([], "Scalar", text) for text in ("20", "-1", "False")]
    arguments = typed(([3, 6], "float", ""), ([3], "long int", ""), *numbers)
    found = costs_of(
        [
            op("aten::embedding_dense_backward", 0, 50, **arguments),
            op("aten::zero_", 1, 9, **shapes([20, 6])),
            op("aten::fill_", 2, 7, **shapes([20, 6], [])),
        ],
        tmp_path,
    )
    assert found["aten::embedding_dense_backward"][1] == 24 + 4 * (18 + 2 * 18)
    assert found["aten::fill_"][1] == 480
    assert found["aten::zero_"] == (0, 0, 0)


def test_the_parts_of_an_old_convolution_take_sizes_from_above(tmp_path: Path) -> None:
    x, dy = [2, 4, 9, 9], [2, 6, 5, 5]
    events = []
    for start, side in ((0, 1), (100, 3)):  # the same dy and x under different kernels
        w = [6, 4, side, side]
        events += [
            op("aten::cudnn_convolution_backward", start, 50, **shapes(x, dy, w)),
            op("aten::cudnn_convolution_backward_weight", start + 5, 20,
               **{"Input Dims": [[], dy, x], "Input type": ["GenericList", "float", "float"]}),
        ]  # fmt: skip
    found = costs_of(events, tmp_path)
    assert found["aten::cudnn_convolution_backward_weight"][0] == 2 * 300 * 4 * (1 + 9) / 2  # the mean of both


def test_a_forward_without_stride_takes_its_result_from_the_backward(tmp_path: Path) -> None:
    forward = {
        "Input Dims": [[2, 4, 9, 9], [6, 4, 3, 3], [], [], [], []],
        "Input type": ["float"] * 2 + ["GenericList"] * 4,
    }
    backward = op("aten::cudnn_convolution_backward", 100, 9, **shapes([2, 4, 9, 9], [2, 6, 5, 5], [6, 4, 3, 3]))
    found = costs_of([op("aten::cudnn_convolution", 0, 50, **forward), backward], tmp_path)
    assert found["aten::cudnn_convolution"][0] == 21600
    other = op("aten::cudnn_convolution_backward", 200, 9, **shapes([2, 4, 9, 9], [2, 6, 9, 9], [6, 4, 3, 3]))
    contradicted = costs_of([op("aten::cudnn_convolution", 0, 50, **forward), backward, other], tmp_path)
    assert np.isnan(contradicted["aten::cudnn_convolution"][0])


def test_the_type_of_a_list_is_that_of_all_tensors_of_its_sizes(tmp_path: Path) -> None:
    cat = op("aten::cat", 0, 9, **{"Input Dims": [[[2, 3], [4, 3]], []], "Input type": ["TensorList", "Scalar"]})
    seen = [op("aten::neg", 20 * i, 5, **shapes(size, dtype="c10::BFloat16")) for i, size in ((1, [2, 3]), (2, [4, 3]))]
    assert costs_of([cat, *seen], tmp_path)["aten::cat"][1] == 2 * 36
    assert np.isnan(costs_of([cat, seen[0]], tmp_path)["aten::cat"][1])
    contradicted = op("aten::neg", 90, 5, **shapes([2, 3]))
    assert np.isnan(costs_of([cat, *seen, contradicted], tmp_path)["aten::cat"][1])


def test_an_index_takes_its_result_from_its_backward_node(tmp_path: Path) -> None:
    index = op("aten::index", 0, 9, **{"Sequence number": 7, "Input Dims": [[50, 8], []], "Input type": ["float", ""]})
    node = op("IndexBackward0", 90, 9, **{"Sequence number": 7, **shapes([5, 8])})
    assert costs_of([index, node], tmp_path)["aten::index"][1] == 4 * 40 + 4 * 40 + 8 * 5


def test_an_empty_trace_has_no_costs(tmp_path: Path) -> None:
    groups, costs = attributed(read(write(tmp_path, [step(1, 0, 10), kernel("k", 1, 2, 5), launch(5, 0.5)])))
    assert [c.reason for c in costs.cost] == ["no model for k"]
    assert costs.own_fraction.tolist() == [1.0] and len(groups.of_op) == 0


def covered(path: Path) -> Coverage:
    trace = trace_in(path)
    groups, costs = attributed(trace)
    seconds = (groups.device_s if trace.on_device else groups.self_s).sum(axis=1)
    return coverage(costs, groups.name, groups.signature, seconds, trace.on_device)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("h100_bert_small", 0.95),
        ("h100_qwen_0.5b_chat", 0.95),
        ("v100_resnet50_training", 0.95),
        ("a100_training_rank3", 0.95),
        ("a100_triton_kernel", 0.95),
        ("mi300x_compiled_triton", 0.95),
        ("mi300x_normalisation_layers", 0.95),
        ("mi300x_qwen_0.5b_chat", 0.95),
        ("mi300x_resnet_checkpointing_rank0", 0.95),
        ("cpu_only_no_rank", 0.95),
        ("v100_dlrm_4_of_8_ranks/rank0", 0.9),
        ("v100_dlrm_4_of_8_ranks/rank1", 0.95),
        ("two_of_128_ranks/sampled_rank-0", 0.95),
    ],
)
def test_most_of_the_time_of_real_traces_is_known(foreign_traces: Path, name: str, least: float) -> None:
    """Of the time of operators whose arguments were recorded."""
    found = covered(foreign_traces / f"{name}.json.gz")
    assert found.recorded_fraction is not None
    listed = [f"{u.seconds / found.recorded_s:.2%} {u.name}: {u.reason}" for u in found.unknown[:12]]
    assert found.recorded_fraction >= least, "\n".join(listed)


def test_the_products_of_a_resnet_step_are_counted_once(foreign_traces: Path) -> None:
    """ResNet-50 at 224² has 4.09 G multiply-adds forward (He et al. 2016, table 1: 3.8 G), three times in training."""
    trace = trace_in(foreign_traces / "v100_resnet50_training.json.gz")
    groups, costs = attributed(trace)
    kinds = np.array([c.kind in ("matmul", "convolution") for c in costs.cost])
    calls = np.bincount(groups.of_op, minlength=len(groups.name))
    per_image = float(np.nansum((costs.flops * calls)[kinds])) / 6 / 32
    first_layer = 2 * 64 * 112 * 112 * 3 * 49  # needs no gradient of its input
    assert per_image == pytest.approx(3 * 2 * 4.09e9 - first_layer, rel=0.01)
