"""Which kernels are there? All of them, for the tests that compile and prove each for every architecture."""

from __future__ import annotations

import importlib

from probe.kernels.cuda.kernel import Kernel

TOPICS = (
    "chase",
    "empty",
    "instructions",
    "loads",
    "mma",
    "register_banks",
    "shared_banks",
    "streams",
    "uniform_path",
)


def _all() -> tuple[Kernel, ...]:
    modules = [importlib.import_module(f"probe.kernels.cuda.{topic}") for topic in TOPICS]
    return tuple(kernel for module in modules for kernel in module.KERNELS)


ALL: tuple[Kernel, ...] = _all()
