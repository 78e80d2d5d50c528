"""What do the checks look at? The parts of this machine that are read once and shared by several checks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from probe.errors import ProbeError
from probe.machine import environment, nvml
from probe.machine.cpu_info import read_text
from probe.machine.device import Device

CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON = 19, 21, 38  # linux/capability.h


@dataclass(frozen=True)
class Machine:
    """torch, NVML and the devices as found; `root` and `environ` are replaced in tests."""

    torch: ModuleType | None = None
    torch_error: str | None = None  # why torch cannot be imported
    cuda_error: str | None = None  # why torch cannot use a GPU
    nvml: nvml.System = field(default_factory=nvml.System)
    cpu: Device = field(default_factory=environment.cpu_device)
    cuda: tuple[Device, ...] = ()  # as torch numbers them
    visible: Mapping[str, int] = field(default_factory=dict)  # NVML UUID -> torch's number
    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def has_nvidia(self) -> bool:
        """Whether an NVIDIA GPU is in this machine, be it usable or not."""
        return bool(self.nvml.gpus) or self.driver_loaded or bool(self.nvidia_on_pci)

    @property
    def driver_loaded(self) -> bool:
        """Whether the kernel has the NVIDIA driver loaded, or WSL passes one through."""
        wsl = self.root / "usr/lib/wsl/lib/libnvidia-ml.so.1"
        return self.read("proc/driver/nvidia/version") is not None or wsl.exists()

    @property
    def hides_gpus(self) -> bool:
        """Whether CUDA_VISIBLE_DEVICES hides every GPU from this process on purpose."""
        return self.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")

    @property
    def nvidia_on_pci(self) -> tuple[str, ...]:
        """PCI addresses of NVIDIA display controllers, with or without a driver."""
        devices = sorted((self.root / "sys/bus/pci/devices").glob("*"))
        return tuple(
            d.name
            for d in devices
            if read_text(d / "vendor") == "0x10de" and (read_text(d / "class") or "").startswith("0x03")
        )

    def read(self, path: str) -> str | None:
        """The text of a file under the machine's root."""
        return read_text(self.root / path)

    def capable(self, *capabilities: int) -> bool:
        """Whether this process holds any of these Linux capabilities."""
        status = self.read("proc/self/status") or ""
        mask = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
        return any(mask >> capability & 1 for capability in capabilities)


def look() -> Machine:
    """This machine."""
    torch, torch_error = environment.load_torch()
    system = nvml.examine()
    cuda, visible, cuda_error = _cuda_devices(system)
    return Machine(torch, torch_error, cuda_error, system, environment.cpu_device(), cuda, visible)


def _cuda_devices(system: nvml.System) -> tuple[tuple[Device, ...], dict[str, int], str | None]:
    try:
        torch = environment.usable_cuda()
    except ProbeError as error:
        return (), {}, str(error)
    with ExitStack() as stack:
        if system.unavailable is None:  # keeps NVML open: initialising it once per device can take a second each
            stack.enter_context(nvml.opened())
        count = torch.cuda.device_count()
        devices = tuple(environment.cuda_device(index) for index in range(count))
        gpus = [environment.nvml_gpu(index) for index in range(count)]
    return devices, {g.uuid: i for i, g in enumerate(gpus) if g and g.uuid}, None
