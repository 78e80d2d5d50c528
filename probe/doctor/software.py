"""Does the software work? Python, torch, its profiler, and the compilers it calls."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from probe.collectors import kineto_log
from probe.doctor.check import Check, broken, unknown, works
from probe.doctor.machine import Machine

OLDEST_PYTHON = (3, 11)  # pyproject.toml: requires-python
OLDEST_TORCH = (2, 4)  # pyproject.toml: dependencies
START = "https://pytorch.org/get-started/locally"


def python(machine: Machine) -> Iterator[Check]:
    """The interpreter and where it lives."""
    kind = "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
    found = f"{platform.python_implementation()} {platform.python_version()}, {kind}"
    needed = ".".join(map(str, OLDEST_PYTHON))
    if sys.version_info >= OLDEST_PYTHON:
        yield works("Python", found, f"probe needs {needed} or newer")
    else:
        yield broken("Python", found, f"probe needs {needed} or newer", f"install Python {needed}")


def torch_build(machine: Machine) -> Iterator[Check]:
    """Whether torch imports, is new enough, and is built for the hardware that is here."""
    torch = machine.torch
    if torch is None:
        yield broken("torch", machine.torch_error or "not installed", "nothing can be profiled", "pip install torch")
        return
    version = str(torch.__version__)
    toolkit = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    build = toolkit or (f"ROCm {torch.version.hip}" if torch.version.hip else "CPU")
    found = f"{version.partition('+')[0]}, built for {build}"
    problem = _torch_problem(machine, version, torch.version.cuda, bool(torch.version.hip))
    means = "what probe measures and records"
    yield broken("torch", found, *problem) if problem else works("torch", found, means)


def _torch_problem(machine: Machine, version: str, cuda: str | None, hip: bool) -> tuple[str, str] | None:
    """(what is wrong, what mends it), or None."""
    newest = machine.nvml.cuda
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        return f"older than {'.'.join(map(str, OLDEST_TORCH))}", "pip install --upgrade torch"
    if machine.nvml.gpus and not cuda and not hip:
        suits = f"a build for CUDA {newest} or older" if newest else "a CUDA build"
        return "an NVIDIA GPU is here, but this build cannot use it", f"install {suits}: {START}"
    # Within a major version any driver runs any toolkit (CUDA minor version compatibility).
    if cuda and newest and int(cuda.split(".")[0]) > int(newest.split(".")[0]):
        return f"the driver runs CUDA {newest} at most", f"update the driver, or take an older build: {START}"
    if machine.nvml.gpus and machine.cuda_error and not machine.hides_gpus:
        return machine.cuda_error, "check CUDA_VISIBLE_DEVICES and the driver checks below"
    return None


def profiler(machine: Machine) -> Iterator[Check]:
    """Records two operators with Kineto, for real."""
    name = "torch.profiler"
    if machine.torch is None:
        yield unknown(name, "needs torch", "records operators", "pip install torch")
        return
    if machine.torch.autograd._profiler_enabled():
        yield unknown(name, "a profiler is running in this process", "only one can record at a time")
        return
    events = _record(machine)
    if events:
        yield works(name, "records CPU operators (Kineto)", "operators, shapes and times can be recorded")
    else:
        yield broken(name, "recorded no event", "runs cannot be profiled", f"reinstall torch: {START}")


def _record(machine: Machine) -> int:
    """Events of a tiny profile. The low-level profiler: torch.profiler imports torch._inductor, about a second."""
    assert machine.torch is not None
    with kineto_log.silenced(), machine.torch.autograd.profiler.profile(use_kineto=True) as profile:
        machine.torch.ones(2).add(1)
    return len(profile.kineto_results.events())


def compiler(machine: Machine) -> Iterator[Check]:
    """A C++ compiler, which torch.compile needs for the CPU (torch/_inductor/cpp_builder.py: $CXX, then g++)."""
    name, means = "C++ compiler", "torch.compile needs one for the CPU; probe itself does not"
    chosen = machine.environ.get("CXX")
    path = next(filter(None, map(shutil.which, [chosen] if chosen else ["g++", "clang++", "c++"])), None)
    if path:
        yield works(name, _version(path) or path, means)
    else:
        yield broken(name, f"CXX={chosen}, not found" if chosen else "none found", means, _install_compiler(machine))


def _install_compiler(machine: Machine) -> str:
    if sys.platform == "darwin":
        return "xcode-select --install"
    release = machine.read("etc/os-release") or ""
    for families, command in (
        (("debian", "ubuntu"), "sudo apt-get install g++"),
        (("fedora", "rhel", "centos", "amzn"), "sudo dnf install gcc-c++"),
        (("alpine",), "sudo apk add g++"),
        (("arch",), "sudo pacman -S gcc"),
        (("suse",), "sudo zypper install gcc-c++"),
    ):
        if any(family in release.lower() for family in families):
            return command
    return "install g++ with the system's package manager"


def nvcc(machine: Machine) -> Iterator[Check]:
    """The CUDA compiler, which only building CUDA extensions needs."""
    means = "only building CUDA extensions needs it"
    home = machine.environ.get("CUDA_HOME")
    path = shutil.which("nvcc") or (shutil.which(str(Path(home) / "bin/nvcc")) if home else None)
    version = _version(path, containing="release") if path else None  # "Cuda compilation tools, release 12.4, …"
    if version:
        yield works("nvcc", version, means)
    else:
        yield unknown("nvcc", f"{path} does not run" if path else "not found", means)


def triton(machine: Machine) -> Iterator[Check]:
    """Triton, which torch.compile uses on a GPU. Looked up, not imported: that takes a second."""
    means = "torch.compile on a GPU, and probe's fused kernels"
    if importlib.util.find_spec("triton") is not None:
        yield works("Triton", _distribution_version("triton"), means)
    elif machine.cuda:
        yield broken("Triton", "not installed", means, "pip install triton")
    else:
        yield unknown("Triton", "not installed", means)


def _distribution_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "installed"


def _version(path: str, containing: str = "") -> str | None:
    """The first line of `path --version` with `containing` in it; None where it fails."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=1, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return next((line.strip() for line in lines if containing in line), None)
