"""Scripts of single operators run, on the recorded arguments; the ncu command names exactly their kernels."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders import GPU, kernel, launch, op, shapes, step, write
from places import ROOT

import probe
from probe.cli import main
from probe.errors import InputError, ProbeError, UsageError
from probe.repro.ncu import kernel_functions, ncu_command
from probe.repro.recorded import KernelCount, Recording
from probe.repro.script import script

SAMPLES = ROOT / "sample_traces"
CEILINGS = SAMPLES / "ceilings.json"
torch = pytest.importorskip("torch")


def recording(source: Path) -> Recording:
    return Recording(probe.analyze(source, ceilings=CEILINGS), probe.load(source))


def ran(text: str) -> Any:
    """The result of one call of a script's operator."""
    names: dict[str, Any] = {"__name__": "repro"}
    exec(compile(text, "repro.py", "exec"), names)
    names["WARM_UPS"] = 0
    return names["once"]()


@pytest.mark.parametrize("sample", ["transformer_step", "resnet_step", "starved_loader"])
def test_every_operator_of_the_samples_runs(sample: str) -> None:
    """Only marks and autograd's nodes are refused, which are no operators."""
    known, refused, run = recording(SAMPLES / sample), Counter[str](), 0
    for operator in known.analysis.ops:
        try:
            text = script(known.call(operator.index))
        except ProbeError as error:
            refused[operator.name] += 1
            assert "not an operator" in str(error), error
            continue
        ran(text)
        run += 1
    assert run > 100
    assert not [name for name in refused if name.startswith("aten::")]


def test_arguments_are_the_recorded_ones() -> None:
    known = recording(SAMPLES / "transformer_step")
    index = next(o.index for o in known.analysis.ops if o.name == "aten::addmm" and "256, 768" in (o.shapes or ""))
    text = script(known.call(index))
    assert '256), (256, 1), torch.float32, "normal"),  # mat1' in text
    assert 'tensor((256, 768), (1, 256), torch.float32, "normal"),  # mat2' in text  # the weight, transposed
    assert "torch.ops.aten.addmm.default" in text
    assert ran(text).shape[1] == 768


def test_indices_are_in_range() -> None:
    known = recording(SAMPLES / "transformer_step")
    lines = [
        line.strip()
        for operator in known.analysis.ops
        if operator.name in ("aten::embedding", "aten::nll_loss_forward", "aten::embedding_dense_backward")
        for line in script(known.call(operator.index)).splitlines()
        if "int64" in line
    ]
    assert lines and all('"integers", 1000)' in line for line in lines), lines


def test_the_written_script_stands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without probe on the path: it times many windows and prints their median beside the recorded time."""
    file = tmp_path / "mm.py"
    known = recording(SAMPLES / "starved_loader")
    index = next(o.index for o in known.analysis.ops if o.name == "aten::addmm")
    arguments = ["repro", str(SAMPLES / "starved_loader"), "--op", str(index), "--ceilings", str(CEILINGS)]
    assert main([*arguments, "-o", str(file)]) == 0
    said = capsys.readouterr().out
    assert f"{file}: aten::addmm" in said and "recorded on a CPU" in said
    result = subprocess.run([sys.executable, "-I", str(file)], capture_output=True, text=True, check=True)
    assert re.search(r"us a call: median of \d+ windows of \d+ calls, .* in the trace", result.stdout)
    assert not result.stderr
    monkeypatch.setattr(sys, "argv", [str(file), "--once"])
    runpy.run_path(str(file), run_name="__main__")
    assert capsys.readouterr().out == ""
    assert main([*arguments, "-o", str(file)]) == 2  # kept
    assert "--force" in capsys.readouterr().err
    assert main([*arguments, "-o", str(file), "--force"]) == 0


def test_without_a_file_the_script_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repro", str(SAMPLES / "starved_loader"), "--op", "0", "--ceilings", str(CEILINGS)]) == 0
    compile(capsys.readouterr().out, "repro.py", "exec")


@pytest.mark.parametrize("index", ["100000", "-1"])
def test_an_operator_that_is_not_there(index: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repro", str(SAMPLES / "starved_loader"), "--op", index]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def on_gpu(tmp_path: Path, *events: dict[str, Any], **head: Any) -> Recording:
    source = write(tmp_path, [step(1, 0, 200), *events], deviceProperties=GPU, **head)
    return Recording(probe.analyze(source), probe.load(source))


def call_of(known: Recording, name: str) -> str:
    return script(known.call(next(o.index for o in known.analysis.ops if o.name == name)))


def test_kernels_of_all_that_an_operator_calls(tmp_path: Path) -> None:
    known = on_gpu(
        tmp_path,
        op("aten::linear", 5, 60, **shapes([4, 8], [16, 8], [16])),
        op("aten::addmm", 10, 50, **shapes([16], [4, 8], [8, 16])),
        launch(1, 15), launch(2, 20), launch(3, 25),
        kernel("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_128x64>(cutlass_80::Params)", 30, 20, 1),
        kernel("void cublasLt::splitKreduce_kernel<32, 16, int, float>(cublasLt::cublasSplitKParams<float>)", 55, 5, 2),
        kernel("void cublasLt::splitKreduce_kernel<32, 16, int, float>(cublasLt::cublasSplitKParams<float>)", 65, 5, 3),
    )  # fmt: skip
    text = call_of(known, "aten::linear")
    command = next(line.strip() for line in text.splitlines() if line.strip().startswith("ncu "))
    words = shlex.split(command)
    assert words[words.index("--kernel-name") + 1] == "regex:^(Kernel2|splitKreduce_kernel)$"
    assert words[words.index("--launch-count") + 1] == "3"
    assert words[words.index("--launch-skip") + 1] == "9"  # three calls before
    assert words[-3:] == ["python", "repro.py", "--once"]
    assert "2 × void cublasLt::splitKreduce_kernel" in text
    assert 'DEVICE = "cuda"' in text


@pytest.mark.parametrize("name, function", [
    ("sgemm", "sgemm"),
    ("void at::native::(anonymous namespace)::f<c10::Half, (int)4>(int, float*)", "f"),
    ("void at::native::elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>>(int)",
     "elementwise_kernel"),
    ("ampere_bf16_s16816gemm_bf16_128x64_tn", "ampere_bf16_s16816gemm_bf16_128x64_tn"),
    ("triton_poi_fused_add_0", "triton_poi_fused_add_0"),
])  # fmt: skip
def test_names_by_which_ncu_knows_kernels(name: str, function: str) -> None:
    assert kernel_functions([KernelCount(name, 1.0)]) == [function]


def test_without_kernels_there_is_no_command() -> None:
    assert ncu_command((), "repro.py") is None


def test_amd_has_another_profiler(tmp_path: Path) -> None:
    known = on_gpu(
        tmp_path, op("aten::mm", 5, 20, **shapes([4, 8], [8, 16])), launch(1, 8, name="hipLaunchKernel"),
        kernel("Cijk_Alik_Bljk", 20, 5, 1), roctracer_version=1,
    )  # fmt: skip
    assert known.trace.device.kind == "rocm"
    assert "rocprofv3 --kernel-trace --kernel-include-regex Cijk_Alik_Bljk" in call_of(known, "aten::mm")


def test_a_custom_operator_is_said_to_be_one(tmp_path: Path) -> None:
    known = on_gpu(tmp_path, op("mylib::fused", 5, 20, **{
        **shapes([4, 8], []), "Input type": ["float", "Scalar"], "Concrete Inputs": ["", "0.5"],
    }), launch(1, 8), kernel("fused", 20, 5, 1))  # fmt: skip
    text = call_of(known, "mylib::fused")
    assert "mylib::fused is a custom operator that the torch at hand does not know: import what defines it" in text
    assert "torch.ops.mylib.fused(*args" in text and "        0.5,\n" in text
    with pytest.raises(AttributeError, match="fused"):
        ran(text.replace('DEVICE = "cuda"', 'DEVICE = "cpu"'))


@pytest.mark.parametrize("name, said", [
    ("c10d::allreduce_", "several ranks"),
    ("AddmmBackward0", "not an operator"),
    ("Torch-Compiled Region: 0/0", "torch.compile"),
])  # fmt: skip
def test_what_cannot_be_called_alone(tmp_path: Path, name: str, said: str) -> None:
    known = on_gpu(tmp_path, op(name, 5, 60, **shapes([4, 8])), op("aten::mm", 10, 20, **shapes([4, 8], [8, 16])),
                   launch(1, 12), kernel("sgemm", 20, 5, 1))  # fmt: skip
    with pytest.raises(UsageError, match=said) as caught:
        call_of(known, name)
    assert "aten::mm [4, 8] × [8, 16]" in str(caught.value)


def test_a_kernel_without_an_operator(tmp_path: Path) -> None:
    known = on_gpu(tmp_path, launch(1, 8), kernel("lonely", 20, 5, 1))
    with pytest.raises(UsageError, match="no operator of the trace launched"):
        call_of(known, "lonely")


def test_what_was_not_recorded_is_named(tmp_path: Path) -> None:
    """torch before 2.1 recorded no numbers: a reduction's dimension is then not known."""
    arguments = {**shapes([4, 8], [], []), "Input type": ["float", "Int", ""]}
    known = on_gpu(tmp_path, op("aten::softmax", 5, 20, **arguments), launch(1, 8), kernel("softmax", 20, 5, 1))
    with pytest.raises(InputError, match=r"its argument dim .* was not recorded"):
        call_of(known, "aten::softmax")


@pytest.mark.parametrize("name", ["h100_bert_small", "h100_qwen_0.5b_chat"])
def test_traces_of_others(foreign_traces: Path, name: str) -> None:
    """Every operator becomes a script that compiles; those of the GPU name their kernels."""
    source = foreign_traces / f"{name}.json.gz"
    known = Recording(probe.analyze(source), probe.load(source))
    commands = 0
    for operator in known.analysis.ops:
        text = script(known.call(operator.index))
        compile(text, "repro.py", "exec")
        commands += "  ncu --kernel-name-base" in text
    assert commands > 10
