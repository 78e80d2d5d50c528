"""Rules about ranks find what was planted and nothing else: two real Gloo ranks, built traces of GPUs, real traces."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import GPU, Event, copy, event, kernel, launch, op, shapes, step, write
from real_traces import analysed_now

import probe
from probe.analyzers import diagnosis as diagnosis_module
from probe.analyzers.cost_models.dtypes import FLOAT32
from probe.analyzers.rules import catalogue
from probe.analyzers.rules.scale_out import communication, gradient_types
from probe.analyzers.rules.scale_out.exchanges import Exchange, Exchanges
from probe.intervals import EMPTY, union
from probe.results.analysis import Analysis

CODES = {rule.code for rule in communication.RULES}


def codes(analysis: Analysis) -> set[str]:
    return {f.id.partition(":")[0] if f.code != "D02" else f.id for f in analysis.findings if f.code in CODES}


@pytest.fixture(autouse=True)
def only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rules of other areas claim and say is not asked here."""
    monkeypatch.setattr(catalogue, "RULES", communication.RULES)


# Two ranks of Gloo on a CPU


@pytest.fixture(scope="module")
def two_ranks_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no Gloo")
    import two_ranks

    folder = tmp_path_factory.mktemp("ranks")
    two_ranks.record(folder)
    return folder


@cache
def analysis_of_run(folder: Path) -> Analysis:
    """A run's analysis."""
    return probe.analyze(folder)


@pytest.mark.flaky(reruns=2)
@pytest.mark.parametrize(
    "program, expected",
    [
        ("unused", "D03"),
        ("accumulating", "D04"),
        ("accumulating_by_hand", "D04"),
        ("averaged_by_hand", "D09"),
        ("averaged_flat", "D01"),
        ("tensor_parallel", "D10"),
        ("pipeline", "D12"),
    ],
)
def test_real_ranks(two_ranks_runs: Path, program: str, expected: str) -> None:
    assert expected in codes(analysis_of_run(two_ranks_runs / program))


@pytest.mark.parametrize(
    "program, silent",
    [
        ("plain", {"D03", "D04", "D09", "D10", "D12", "D13", "D02:views"}),
        ("really_unused", {"D03", "D04", "D09"}),
        ("accumulating_locally", {"D04", "D09"}),
        ("averaged_flat", {"D04", "D09", "D10", "D02:small"}),
        ("tensor_parallel", {"D02:large", "D03", "D04", "D09", "D12", "D13"}),
        ("in_bfloat16", {"D03", "D04", "D09", "D10"}),
    ],
)
def test_real_ranks_without(two_ranks_runs: Path, program: str, silent: set[str]) -> None:
    assert not codes(analysis_of_run(two_ranks_runs / program)) & silent


def test_savings_fit_into_the_step(two_ranks_runs: Path) -> None:
    for folder in two_ranks_runs.iterdir():
        for finding in analysis_of_run(folder).findings:
            assert finding.saving_fraction is None or 0 <= finding.saving_fraction <= 1, finding


# One rank of a GPU job, event by event: microseconds


ACCUMULATE = "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad"
MIB = 1 << 18  # float32 elements


class Job:
    """One step of one rank: the host issues, the device runs products on one stream and exchanges on another."""

    def __init__(self, ranks: int = 8) -> None:
        self.events: list[Event] = []
        self.host = self.device = self.link = 10.0
        self.ranks, self.correlation = ranks, 0

    def _launched(self, name: str, start: float, duration: float, stream: int) -> None:
        self.correlation += 1
        self.events += [
            launch(self.correlation, self.host + 1),
            kernel(name, start, duration, self.correlation, stream),
        ]

    def product(self, duration: float, dtype: str = "float") -> None:
        """A matrix product of the forward pass."""
        self.events.append(op("aten::mm", self.host, 5, **shapes([512, 512], [512, 512], dtype=dtype)))
        start = max(self.device, self.host + 3)
        self._launched("sgemm", start, duration, 7)
        self.device, self.host = start + duration, self.host + 10

    def backward(self, duration: float, dtype: str = "float") -> None:
        """A product under autograd's engine."""
        self.events.append(op("autograd::engine::evaluate_function: MmBackward0", self.host, 8))
        self.product(duration, dtype)

    def exchange(
        self, kind: str, elements: int, duration: float, *, gradient: bool = False, dtype: str = "Float",
        wait: bool = False, name: str | None = None, peer: int | None = None,
    ) -> None:  # fmt: skip
        """A collective of NCCL; wait: the products that follow need its result."""
        about = {
            "Collective name": kind, "dtype": dtype, "In msg nelems": elements, "Out msg nelems": elements,
            "Group size": self.ranks, "Process Group Name": "0",
        }  # fmt: skip
        about |= {"Src Rank": peer, "Dst Rank": peer} if peer is not None else {}
        if gradient:
            self.events.append(op(ACCUMULATE, self.host, 9))
            self.events.append(op("torch::autograd::AccumulateGrad", self.host + 0.1, 0.2, **shapes([elements])))
        self.events.append(op(name or f"c10d::{kind}_", self.host + 0.5, 8, **shapes([elements])))
        self.events.append(op("record_param_comms", self.host + 0.6, 7, **about))
        start = max(self.link, self.device if wait or not gradient else self.host + 4)
        self._launched(f"ncclDevKernel_{kind}_Sum_f32_RING_LL", start, duration, 20)
        self.link, self.host = start + duration, self.host + 10
        if wait:
            self.device = self.link

    def mark(self, name: str) -> None:
        """A range of a framework, a microsecond long."""
        self.events.append(event("user_annotation", name, self.host, 1))
        self.host += 2

    def analysed(self, folder: Path, **options: Any) -> Analysis:
        """The step, ended when the device has done its work."""
        end = max(self.device, self.link, self.host) + 5
        about = {"distributedInfo": {"rank": 0, "world_size": self.ranks}, "deviceProperties": GPU}
        return probe.analyze(write(folder, [step(1, 0, end), *self.events], **about), **options)


def trained(job: Job, buckets: list[int], each: float, work: float = 400.0, last: float | None = None) -> Job:
    """Forward and backward of eight layers; the buckets are exchanged as they are filled, the last at the end."""
    for _ in range(8):
        job.product(work)
    for at in range(8):
        job.backward(2 * work)
        share = buckets[at * len(buckets) // 8 : (at + 1) * len(buckets) // 8]
        for elements in share:
            job.host = max(job.host, job.device)
            job.exchange("allreduce", elements, each if last is None or at < 7 else last, gradient=True)
    job.mark("Optimizer.step#SGD.step")
    return job


def test_buckets_behind_the_backward_pass_are_right(tmp_path: Path) -> None:
    assert not codes(trained(Job(), [6 * MIB] * 8, 300).analysed(tmp_path))


def test_one_bucket_for_all_is_late(tmp_path: Path) -> None:
    job = trained(Job(), [0] * 0, 0)
    job.host = job.device
    job.exchange("allreduce", 200 * MIB, 4000, gradient=True)
    found = job.analysed(tmp_path)
    assert codes(found) == {"D02:large"}
    assert found.findings[0].saving_s == pytest.approx(4000e-6 * 7 / 8, rel=0.05)
    assert "bucket_cap_mb=25" in (found.findings[0].how or "")


def test_many_small_buckets(tmp_path: Path) -> None:
    assert codes(trained(Job(), [MIB // 4] * 40, 300, work=40).analysed(tmp_path)) == {"D02:small"}


def exchanged(ran_ns: int, elements: int, kind: str = "all_reduce", start_ns: int = 0) -> Exchange:
    return Exchange(
        kind=kind, step=0, row=0, start_ns=start_ns, end_ns=start_ns + ran_ns, ran_ns=ran_ns, elements=elements,
        element=FLOAT32, ranks=2, gradient=True,
    )  # fmt: skip


def table_of(*rows: Exchange, steps: int = 1) -> Exchanges:
    """Exchanges of a CPU that nothing hides."""
    alone = union([x.start_ns for x in rows], [x.end_ns for x in rows])
    return Exchanges(rows, steps, 1.0, EMPTY, alone)


def test_what_the_bytes_of_an_exchange_take_is_no_latency() -> None:
    small, bucket = exchanged(300_000, 16), exchanged(1_500_000, MIB)
    assert table_of(small).latency_s == pytest.approx(300e-6, rel=0.01)
    assert table_of(bucket).latency_s == pytest.approx(1500e-6 - 4 * MIB / 1.25e9, rel=0.01)
    fast = exchanged(2_000_000, 32 * MIB)  # its rate tells how fast the bytes of the bucket went
    assert table_of(bucket, fast).latency_s == pytest.approx(1500e-6 - 2e-3 / 32, rel=0.01)
    assert table_of().latency_s == 0.0


def test_an_exchange_that_waits_counts_as_long_as_the_shortest_of_its_size() -> None:
    rows = [exchanged(ms * 1_000_000, MIB, start_ns=at * 100_000_000) for at, ms in enumerate((10, 40, 70))]
    rows.append(exchanged(30_000_000, 2 * MIB, start_ns=900_000_000))
    table = table_of(*rows, steps=3)
    assert table.exposed_s(rows) == pytest.approx(150e-3 / 3)
    assert table.unwaited_s(rows) == pytest.approx((3 * 10e-3 + 30e-3) / 3)


def test_a_forward_pass_without_products_parts_two_backward_passes(tmp_path: Path) -> None:
    """Recurrent layers and fused blocks call no product that a trace shows; autograd numbers them all the same."""
    job = Job()
    for turn in range(2):
        number = {"Sequence number": turn, "Fwd thread id": 0}
        job.events.append(op("aten::mkldnn_rnn_layer", job.host, 5, **shapes([8, 6, 256]), **number))
        job.host += 200
        node = {"Sequence number": turn, "Fwd thread id": 1}
        job.events.append(op("autograd::engine::evaluate_function: MkldnnRnnLayerBackward0", job.host, 8, **node))
        job.backward(200)
        job.host = max(job.host, job.device)
        job.exchange("allreduce", 4 * MIB, 400, gradient=True)
    job.mark("Optimizer.step#SGD.step")
    assert "D04" in codes(job.analysed(tmp_path))


@pytest.mark.parametrize("on_device", [True, False])
def test_hooks_of_torch_are_for_devices(on_device: bool) -> None:
    context: Any = SimpleNamespace(trace=SimpleNamespace(on_device=on_device))
    assert ("register_comm_hook" in gradient_types._advice(context, "bfloat16")[1]) == on_device


def test_gradients_copied_back_from_buckets(tmp_path: Path) -> None:
    job = trained(Job(), [6 * MIB] * 8, 300)
    job.host = max(job.device, job.link)
    for _ in range(8):
        job.events.append(op("torch.distributed.ddp.reducer::copy_bucket_to_grad", job.host, 9))
        job.product(60)
    assert codes(job.analysed(tmp_path)) == {"D02:views"}


def test_exposed_exchanges_without_a_special_cause(tmp_path: Path) -> None:
    job = Job()
    for _ in range(3):
        job.product(300)
        job.exchange("alltoall_base", 8 * MIB, 300, wait=True)
    found = job.analysed(tmp_path)
    assert codes(found) == {"D01"}
    finding = next(f for f in found.findings if f.code == "D01")
    assert finding.saving_s == pytest.approx(900e-6, rel=0.05)
    assert "all_to_all_single" in (finding.how or "")


def test_what_nothing_can_hide_is_not_promised(tmp_path: Path) -> None:
    """A step of nothing but communication: there is no computation to hide it behind."""
    job = Job()
    job.product(50)
    job.exchange("alltoall_base", 8 * MIB, 3000, wait=True)
    saving = next(f.saving_s for f in job.analysed(tmp_path).findings if f.code == "D01")
    assert saving == pytest.approx(50e-6, rel=0.1)


def test_accumulation_of_reduce_scatters(tmp_path: Path) -> None:
    job = Job()
    for _ in range(4):
        for _ in range(3):
            job.product(100)
        for _ in range(3):
            job.backward(200)
            job.host = max(job.host, job.device)
            job.exchange("_reduce_scatter_base", 4 * MIB, 260, gradient=True)
    job.mark("Optimizer.step#AdamW.step")
    assert "D04" in codes(job.analysed(tmp_path))


def test_two_models_are_no_accumulation(tmp_path: Path) -> None:
    """A generator and a discriminator: different gradients after two backward passes."""
    job = Job()
    for elements in (4 * MIB, 5 * MIB):
        job.product(100)
        job.backward(200)
        job.exchange("allreduce", elements, 400, gradient=True)
    job.mark("Optimizer.step#Adam.step")
    assert "D04" not in codes(job.analysed(tmp_path))


def sharded(prefetched: bool) -> Job:
    job = Job()
    for at in range(6):
        job.mark(f"FSDP::pre_forward ({at})")
        job.exchange("_allgather_base", 8 * MIB, 300, wait=not prefetched)
        job.product(400)
    return job


def test_sharded_parameters_are_gathered_ahead(tmp_path: Path) -> None:
    assert codes(sharded(prefetched=False).analysed(tmp_path)) == {"D05"}
    quiet = sharded(prefetched=True)
    for event_ in quiet.events:  # the gathers run while the product before them does
        if event_["cat"] == "kernel" and event_["name"].startswith("nccl"):
            event_["ts"] = max(event_["ts"] - 350, 11)
    assert "D05" not in codes(quiet.analysed(tmp_path))


@pytest.mark.parametrize("kind, seen", [("_allgather_base", True), ("_reduce_scatter_base", True), ("allreduce", True)])
def test_tensor_parallel_products_in_turns(tmp_path: Path, kind: str, seen: bool) -> None:
    job = Job()
    for _ in range(6):
        job.product(300, "c10::BFloat16")
        job.exchange(kind, 4 * MIB, 200, wait=True, dtype="BFloat16")
    found = job.analysed(tmp_path)
    assert ("D10" in codes(found)) == seen
    assert found.findings[0].saving_s == pytest.approx(7 / 8 * 6 * 200e-6, rel=0.1)


def test_pipeline_stage_that_waits(tmp_path: Path) -> None:
    job = Job(ranks=4)
    for _ in range(4):
        job.exchange("recv", MIB, 250, wait=True, name="c10d::recv_", peer=1)
        job.product(300)
        job.exchange("send", MIB, 10, wait=True, name="c10d::send", peer=3)
    assert "D12" in codes(job.analysed(tmp_path))


@pytest.mark.parametrize("dtype, products, found", [
    ("Float", "c10::BFloat16", True), ("Float", "c10::Half", True), ("Float", "float", False),
    ("BFloat16", "c10::BFloat16", False),
])  # fmt: skip
def test_width_of_gradients(tmp_path: Path, dtype: str, products: str, found: bool) -> None:
    job = Job()
    for _ in range(4):
        job.product(100, products)
    for _ in range(4):
        job.backward(100, products)
        job.host = max(job.host, job.device)
        job.exchange("allreduce", MIB // 2, 400, gradient=True, dtype=dtype)
    assert ("D13" in codes(job.analysed(tmp_path))) == found


def gloo(through_host: bool) -> list[Event]:
    """All-reduces by Gloo: of the device's tensors, or of the host's beside a device's work."""
    events = [step(1, 0, 5000), op("aten::mm", 10, 10, **shapes([64, 64], [64, 64])), launch(1, 12),
              kernel("sgemm", 20, 900, 1)]  # fmt: skip
    for turn in range(3):
        at = 1000.0 + 1000 * turn
        events.append(op("c10d::allreduce_", at, 300, **shapes([1 << 20])))
        events.append(event("user_annotation", "gloo:all_reduce", at + 310, 500, tid=9))
        if through_host:
            events.append(launch(10 + turn, at + 5, name="cudaMemcpyAsync"))
            events.append(copy("Memcpy DtoH (Device -> Pinned)", at + 10, 250, 10 + turn, 4 << 20))
    return events


@pytest.mark.parametrize("through_host", [True, False])
def test_gloo_on_tensors_of_the_device(tmp_path: Path, through_host: bool) -> None:
    found = probe.analyze(write(tmp_path, gloo(through_host), deviceProperties=GPU))
    assert ("D08" in codes(found)) == through_host


@pytest.mark.parametrize("mark, found", [("DataParallel.forward", True), ("DistributedDataParallel.forward", False)])
def test_one_process_for_all_devices(tmp_path: Path, mark: str, found: bool) -> None:
    job = Job(ranks=1)
    job.events.append(event("user_annotation", mark, 1, 500))
    for name in ("Scatter", "Broadcast", "Gather"):
        job.events.append(op(name, job.host, 9))
        job.product(200)
    assert ("D07" in codes(job.analysed(tmp_path))) == found


@pytest.mark.parametrize(
    "link, found", [({"8": 450e9}, True), ({"8": 100e9}, False), ({"2": 450e9}, False), ({}, False)]
)
def test_links_below_what_was_measured(tmp_path: Path, link: dict[str, float], found: bool) -> None:
    """64 MiB among 8 ranks in 1.2 ms: 98 GB/s of bus bandwidth. Nothing is said where so many were not measured."""
    job = Job()
    job.product(300)
    for more in range(3):
        job.host = max(job.host, job.device)
        job.exchange("allreduce", (64 + more) * MIB, 1200, gradient=True, wait=True)
    ceilings = {"origin": "measured", "device": GPU[0]["name"], "dram_bytes_per_s": 3e12}
    ceilings["link_bytes_per_s"] = link
    kept = {"schema": "probe.ceilings/1", "device": {"kind": "cuda", "name": GPU[0]["name"]}, "ceilings": ceilings}
    (tmp_path / "ceilings.json").write_text(json.dumps(kept))
    assert ("D11" in codes(job.analysed(tmp_path, ceilings=tmp_path / "ceilings.json"))) == found


def waiting() -> Job:
    """The same all-reduce takes 50 or 900 µs."""
    job = Job()
    for duration in (900, 50, 900, 950, 900):
        job.product(100)
        job.exchange("allreduce", MIB, duration, wait=True)
    return job


def test_waiting_for_another_rank(tmp_path: Path) -> None:
    assert "D06" in codes(waiting().analysed(tmp_path))


def test_collectives_of_one_length_wait_for_nobody(tmp_path: Path) -> None:
    job = Job()
    for duration in (900, 880, 900, 950, 900):
        job.product(100)
        job.exchange("allreduce", MIB, duration, wait=True)
    assert "D06" not in codes(job.analysed(tmp_path))


# Several ranks of a GPU job


def several_ranks(folder: Path, late: dict[int, float], steps: int = 12, ranks: int = 4) -> Path:
    """Traces of ranks that compute for about 400 µs before each of four all-reduces; the `late` ones for so much more.

    Clocks are apart by milliseconds, and who is ahead within a few µs changes from one all-reduce to the next.
    """
    chance = random.Random(1)
    jobs = [Job(ranks) for _ in range(ranks)]
    for number in range(steps):
        begun = max(job.device for job in jobs) + 5
        for job in jobs:
            job.host, job.device, job.link = begun + 1, begun + 1, begun + 1
        for _ in range(4):
            for rank, job in enumerate(jobs):
                job.product(400 + late.get(rank, 0.0) + chance.uniform(-5, 5))
            end = max(job.device for job in jobs) + 160
            for job in jobs:
                job.exchange("allreduce", MIB, end + chance.uniform(0, 1) - job.device, wait=True)
        ended = max(job.device for job in jobs) + 2
        for job in jobs:
            job.events.append(step(number, begun, ended - begun))
    for rank, job in enumerate(jobs):
        told = {"distributedInfo": {"rank": rank, "world_size": ranks}, "deviceProperties": GPU}
        write(folder, job.events, f"rank{rank}.json", baseTimeNanoseconds=10**18 + rank * 3_000_000, **told)
    return folder


def test_a_rank_that_is_late_in_every_step_is_named(tmp_path: Path) -> None:
    found = probe.analyze(several_ranks(tmp_path, {2: 200.0}))
    (finding,) = (f for f in found.findings if f.code == "D06")
    assert (finding.id, finding.where, finding.preview) == ("D06:rank-2", "rank 2", False)
    assert finding.saving_s == pytest.approx(4 * 200e-6, rel=0.05)  # of each all-reduce all but the others' spread
    others = [f.saving_s or 0.0 for f in found.findings if f.code != "D06"]
    assert found.time_s["communication"] == pytest.approx(4 * 360e-6, rel=0.05)
    assert others and max(others) <= 4 * 175e-6  # what is left of it when nobody is late


def test_the_late_rank_itself_is_named_by_its_own_trace(tmp_path: Path) -> None:
    """Rank 0's operators are told, and it waits for nobody."""
    found = probe.analyze(several_ranks(tmp_path, {0: 200.0}))
    assert found.findings[0].id == "D06:rank-0"
    assert found.findings[0].saving_s == pytest.approx(4 * 200e-6, rel=0.05)


def test_ranks_that_take_turns_in_being_last_are_not_named(tmp_path: Path) -> None:
    found = probe.analyze(several_ranks(tmp_path, {}))
    assert "D06" not in codes(found) and not found.stragglers


def test_a_rank_that_is_late_by_little_is_named_as_no_finding(tmp_path: Path) -> None:
    """70 µs of a step of 2.3 ms: the comparison names it, and no advice is given."""
    found = probe.analyze(several_ranks(tmp_path, {1: 18.0}))
    assert [one.rank for one in found.stragglers] == [1]
    assert "D06" not in codes(found)


def test_ranks_that_are_waited_for_outside_those_at_hand(tmp_path: Path) -> None:
    """Two of four: both wait for a third, whose trace is not there."""
    folder = several_ranks(tmp_path, {2: 2000.0})
    (folder / "rank2.json").unlink()
    (folder / "rank3.json").unlink()
    assert "D06:rank" not in {f.id for f in probe.analyze(folder).findings}


# Traces of others


@pytest.mark.parametrize(
    "name, there, silent",
    [
        ("a100_training_rank3.json.gz", {"D01"}, {"D02:large", "D04", "D10", "D12"}),
        ("mi300x_resnet_checkpointing_rank0.json.gz", {"D02:views"}, {"D03", "D04", "D09", "D10", "D12", "D13"}),
        ("v100_dlrm_4_of_8_ranks/rank0.json.gz", {"D01"}, {"D04", "D10", "D12"}),
        ("two_of_128_ranks/sampled_rank-0.json.gz", {"D01"}, {"D04", "D12"}),
        ("v100_ns_resolution_rank0.json.gz", set(), CODES - {"D02"}),
        ("v100_resnet50_training.json.gz", set(), CODES),
        ("h100_bert_small.json.gz", set(), CODES),
    ],
)
def test_traces_of_others(foreign_traces: Path, name: str, there: set[str], silent: set[str]) -> None:
    found = codes(analysed_now(foreign_traces / name))
    assert there <= found
    assert not found & silent


def test_rules_are_asked_with_all_others() -> None:
    """The module is in the catalogue; each has an example, and says what its saving is."""
    assert communication in catalogue.MODULES
    assert diagnosis_module.findings is catalogue.findings
    wanted: Callable[[int], str] = "D{:02d}".format
    assert sorted(CODES) == [wanted(number) for number in range(1, 14)]
    assert all(rule.example is not None and rule.about == "communication" for rule in communication.RULES)
