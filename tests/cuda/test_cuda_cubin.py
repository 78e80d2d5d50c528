"""What a cubin says about its kernels, whichever NVRTC and whichever layout of the ELF file it has."""

import pytest

from probe.kernels.cuda import cubin, nvrtc

SOURCE = """
extern "C" __global__ void plain(float *p, int n, double d, char c) { p[0] = n * d + c; }
extern "C" __global__ void sharing(float *p) {
    __shared__ float s[64];
    s[threadIdx.x] = p[threadIdx.x];
    __syncthreads();
    p[threadIdx.x] = s[threadIdx.x ^ 1];
}
extern "C" __global__ void spilling(float *p, int n) {
    float a[64];
    for (int i = 0; i < 64; i++) a[i] = p[i * n];
    for (int i = 0; i < n; i++) a[i & 63] += p[i];
    for (int i = 0; i < 64; i++) p[i] = a[i];
}
extern "C" __global__ void empty() {}
"""


COMPILED = [(n, a) for n in nvrtc.available() for a in (70, 75, 80, 90, 120)]


@pytest.fixture(scope="module", params=COMPILED, ids=[f"{n.version}-sm_{a}" for n, a in COMPILED])
def code(request: pytest.FixtureRequest) -> bytes:
    compiler, architecture = request.param
    if architecture not in compiler.architectures:
        pytest.skip(f"{compiler} does not know sm_{architecture}")
    made: bytes = compiler.compile(SOURCE, f"sm_{architecture}")
    assert cubin.architecture(made) == architecture
    return made


def test_resources(code: bytes) -> None:
    assert set(cubin.kernels(code)) == {"plain", "sharing", "spilling", "empty"}
    assert cubin.parameters(code, "plain") == (8, 4, 8, 1)
    assert cubin.parameters(code, "empty") == ()
    assert cubin.shared_bytes(code, "sharing") >= 256
    assert cubin.shared_bytes(code, "plain") == 0
    assert cubin.local_bytes(code, "spilling") == 256
    assert cubin.local_bytes(code, "plain") == cubin.local_bytes(code, "sharing") == 0
    assert 1 <= cubin.registers(code, "empty") <= cubin.registers(code, "plain") <= cubin.registers(code, "spilling")


def test_code_is_replaced_in_place(code: bytes) -> None:
    before = cubin.text(code, "plain")
    changed = cubin.with_text(code, "plain", bytes(reversed(before)))
    assert cubin.text(changed, "plain") == bytes(reversed(before))
    assert cubin.text(changed, "sharing") == cubin.text(code, "sharing")
    assert cubin.with_text(changed, "plain", before) == code


def test_code_of_another_length_is_refused(code: bytes) -> None:
    with pytest.raises(cubin.CubinError, match="bytes of code, not 16"):
        cubin.with_text(code, "plain", bytes(16))


def test_a_missing_kernel_is_named(code: bytes) -> None:
    with pytest.raises(cubin.CubinError, match=r"no section \.text\.absent; its kernels: .*plain"):
        cubin.text(code, "absent")


def test_other_files_are_no_cubins() -> None:
    with pytest.raises(cubin.CubinError, match="not a 64-bit ELF"):
        cubin.kernels(b"PTX")
    with pytest.raises(cubin.CubinError, match="not a 64-bit ELF"):
        cubin.architecture(b"PTX")
