"""Does what Triton compiles for GPUs that are not here hold what is meant: tensor cores, wide loads, no spills?

The tiles that a quick look cannot cover are all compiled where PROBE_ALL_TILES is set, which takes many minutes.
"""

import contextlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

from triton import JITFunction  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

from probe.kernels.cuda import cubin, sass  # noqa: E402
from probe.kernels.triton import attention, attention_backward, attention_problem, attention_proof, saxpy  # noqa: E402
from probe.kernels.triton.attention_tiles import Pass, head_dims, tiles_for  # noqa: E402
from probe.kernels.triton.compile_offline import Call, Compiled, compiled  # noqa: E402

NVDISASM = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
# Of a block; what is compiled for 8.0 serves 8.6 and 8.9 too, which have no more than 99 KiB.
SHARED_BYTES = {80: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
KERNELS = {
    "forward": attention.forward_kernel,
    "keys": attention_backward.keys_kernel,
    "queries": attention_backward.queries_kernel,
}
TENSORS = ("q", "k", "v", "out", "d_out", "d_q", "d_k", "d_v")
FLOATS = {"log2_sum": "*fp32", "delta": "*fp32", "scale": "fp32", "scale_log2": "fp32"}
PRODUCT = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}
DECODED = ("HMMA", "HGMMA", "UTCHMMA")  # by probe.kernels.cuda.sass with their suffixes
MEMORY = ("LDG", "STG", "LDL", "STL", "HMMA")  # whose suffixes are held against nvdisasm's


def made_saxpy(architecture: int, block: int = 1024, divisible: tuple[str, ...] | None = None) -> Compiled:
    call = Call({"x": "*fp32", "y": "*fp32", "a": "fp32"}, {"block": block}, divisible)
    return compiled(saxpy.saxpy_kernel, call, architecture)


def made_attention(name: Pass, architecture: int, dtype: str, head_dim: int, *, causal: bool = True) -> Compiled:
    tiles = tiles_for(name, head_dim, 4 if dtype == "fp32" else 2, architecture)
    constants = {"head_dim": head_dim, "tile_q": tiles.queries, "tile_k": tiles.keys, "causal": causal, "wide": False}
    types = FLOATS | dict.fromkeys(TENSORS, f"*{dtype}")
    return compiled(KERNELS[name], Call(types, constants, warps=tiles.warps, stages=tiles.stages), architecture)


def mnemonics(made: Compiled) -> Counter[str]:
    """What our decoder reads."""
    return Counter(i.mnemonic for i in sass.of(made.cubin, made.name))


def disassembled(made: Compiled, folder: Path) -> Counter[str]:
    """What Triton's nvdisasm reads."""
    file = folder / "made.cubin"
    file.write_bytes(made.cubin)
    text = subprocess.run([NVDISASM, "-c", file], capture_output=True, text=True, check=True).stdout
    return Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@\S+\s+)?([A-Z][\w.]*)", text, re.MULTILINE))


def of_memory(found: Counter[str]) -> Counter[str]:
    return Counter({name: n for name, n in found.items() if name.partition(".")[0] in MEMORY})


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_saxpy_moves_128_bits_at_once(architecture: int, tmp_path: Path) -> None:
    made = made_saxpy(architecture)
    found = mnemonics(made)

    assert found["LDG.E.128"] == 4  # 8 elements a thread, of two arrays
    assert found["STG.E.128"] == 2
    assert sum(n for name, n in found.items() if name.startswith(("LDG", "STG"))) == 6
    assert of_memory(found) == of_memory(disassembled(made, tmp_path))


def test_width_follows_from_the_block_and_from_what_is_divisible() -> None:
    assert mnemonics(made_saxpy(90, block=256))["LDG.E.64"] == 2
    unaligned = mnemonics(made_saxpy(90, divisible=()))
    assert unaligned["LDG.E"] == 16
    assert not unaligned["LDG.E.128"]


@pytest.mark.parametrize(
    ("name", "architecture", "dtype", "head_dim"),
    [
        ("forward", 80, "fp16", 64),
        ("keys", 80, "bf16", 128),
        ("forward", 80, "fp32", 64),
        ("forward", 90, "bf16", 128),
        ("keys", 90, "bf16", 128),
        ("queries", 90, "bf16", 128),
        ("forward", 100, "bf16", 128),
    ],
)
def test_attention_uses_tensor_cores_and_spills_nothing(
    name: Pass, architecture: int, dtype: str, head_dim: int, tmp_path: Path
) -> None:
    made = made_attention(name, architecture, dtype, head_dim)
    found, known = mnemonics(made), disassembled(made, tmp_path)
    product = PRODUCT[architecture]

    assert covered(product, known) > 0
    assert covered("LDL", known) == covered("STL", known) == 0
    assert of_memory(found) == of_memory(known)
    assert made.shared_bytes <= SHARED_BYTES[architecture]
    evidence = attention_proof.of_cubin(made.cubin)
    assert evidence["architecture"] == f"sm_{architecture}"
    assert evidence["local_bytes"] == 0
    if product in DECODED:
        assert evidence["instruction"] == product
        assert evidence["count"] == covered(product, known)
        assert covered(product, Counter(evidence["loop"])) > 0


def covered(mnemonic: str, found: Counter[str]) -> int:
    return sum(n for name, n in found.items() if name.partition(".")[0] == mnemonic)


class Driver:
    """A GPU of compute capability 9.0 that Triton compiles for and cannot launch on."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls of our functions with tensors of the CPU compile as they would for those of a GPU, and launch nothing."""
    run, constants = JITFunction.run, attention_problem.constants
    monkeypatch.setattr(JITFunction, "run", lambda *a, warmup, **k: run(*a, warmup=True, **k))
    for module in (attention, attention_backward, saxpy):
        monkeypatch.setattr(module, "on_device_of", lambda tensor, kernel: contextlib.nullcontext())
    for module in (attention, attention_backward):
        monkeypatch.setattr(module, "constants", lambda tiles, call: constants(tiles, call) | {"wide": False})
    monkeypatch.setattr(attention_problem, "architecture_of", lambda tensor: 90)
    before = dict(vars(triton.runtime.driver))
    triton.runtime.driver.set_active(Driver())
    yield
    vars(triton.runtime.driver).update(before)


@pytest.mark.usefixtures("hopper")
def test_what_is_launched_is_what_is_proved() -> None:
    proof = attention_proof.proof(64, "bfloat16", "cpu", backward=True)

    assert proof is not None
    for found in (proof, proof["backward"]["keys"], proof["backward"]["queries"]):
        assert (found["instruction"], found["local_bytes"], found["architecture"]) == ("HGMMA", 0, "sm_90")
        assert found["count"] > 0
    made = saxpy.saxpy(torch.ones(4096), torch.ones(4096), 2.0)
    [name] = cubin.kernels(made.asm["cubin"])
    assert Counter(i.mnemonic for i in sass.of(made.asm["cubin"], name))["LDG.E.128"] == 4


ALL = [
    pytest.param(name, architecture, dtype, head_dim, causal, id=f"{name}-{architecture}-{dtype}-{head_dim}-{causal}")
    for architecture in SHARED_BYTES
    for dtype, itemsize in (("bf16", 2), ("fp16", 2), ("fp32", 4))
    for head_dim in head_dims(itemsize)
    for name in KERNELS
    for causal in (False, True)
]
ASKED = "PROBE_ALL_TILES" in os.environ


@pytest.mark.skipif(not ASKED, reason="PROBE_ALL_TILES is not set: it takes many minutes")
@pytest.mark.parametrize(("name", "architecture", "dtype", "head_dim", "causal"), ALL if ASKED else ALL[:1])
def test_all_tiles_fit(name: Pass, architecture: int, dtype: str, head_dim: int, causal: bool, tmp_path: Path) -> None:
    made = made_attention(name, architecture, dtype, head_dim, causal=causal)

    known = disassembled(made, tmp_path)
    assert any(covered(product, known) for product in PRODUCT.values())
    assert covered("LDL", known) == covered("STL", known) == cubin.local_bytes(made.cubin, made.name) == 0
    assert made.shared_bytes <= SHARED_BYTES[architecture]
