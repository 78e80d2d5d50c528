"""How do several GPUs reach each other? Peer-to-peer access and NVLink."""

from __future__ import annotations

from collections.abc import Iterator

from probe.doctor.check import Check, broken, unknown, works
from probe.doctor.gpu import NO_GPU, ON_CPU
from probe.doctor.machine import Machine
from probe.machine.nvml import Pair

MEANS = "bounds collectives and copies between GPUs"
ONE_GPU = "one GPU, nothing to connect"


def peer_to_peer(machine: Machine) -> Iterator[Check]:
    """Whether every pair of GPUs can read the other's memory directly."""
    name, pairs = "Peer-to-peer", machine.nvml.pairs
    if not pairs:
        yield unknown(name, ONE_GPU if machine.nvml.gpus else NO_GPU, MEANS if machine.nvml.gpus else ON_CPU)
        return
    refused = [pair for pair in pairs if pair.read not in ("ok", None)]
    if refused:
        first = refused[0]
        found = f"{len(refused)} of {len(pairs)} pairs cannot; GPU {first.a} and {first.b}: {first.read}"
        yield _refused(name, found, first)
    elif any(pair.read is None for pair in pairs):
        yield unknown(name, "NVML does not say", MEANS)
    else:
        yield works(name, f"every pair; pairs by path: {_paths(pairs)}", MEANS)


def _refused(name: str, found: str, pair: Pair) -> Check:
    means = "copies between these GPUs go through host memory"
    if pair.read in ("GPU not supported", "not supported"):
        return unknown(name, found, means, "nothing needs doing: these GPUs have no peer-to-peer")
    if pair.read == "disabled by registry key":
        return broken(name, found, means, "remove the driver option that disables it from /etc/modprobe.d, reboot")
    return broken(name, found, means, "turn off ACS and the IOMMU for these slots in the BIOS, reboot")


def _paths(pairs: tuple[Pair, ...]) -> str:
    """How many pairs go which way, by the words of `nvidia-smi topo -m`: "NVLink 6, PIX 2"."""
    ways = ["NVLink" if pair.nvlink == "ok" else pair.path or "path unknown" for pair in pairs]
    return ", ".join(f"{way} {ways.count(way)}" for way in dict.fromkeys(ways))


def nvlink(machine: Machine) -> Iterator[Check]:
    """Whether all NVLinks are up, and where they lead."""
    gpus = machine.nvml.gpus
    if not any(gpu.nvlinks for gpu in gpus):
        yield unknown("NVLink", "none on these GPUs" if gpus else NO_GPU, MEANS if gpus else ON_CPU)
        return
    total, active = sum(len(g.nvlinks) for g in gpus), sum(g.nvlinks_active for g in gpus)
    ends = {"a switch" if link == "switch" else "each other" for g in gpus for link in g.nvlinks if link != "down"}
    found = f"{active} of {total} links up" + (f", to {' and '.join(sorted(ends))}" if ends else "")
    if active == total:
        yield works("NVLink", found, MEANS)
    elif len(gpus) == 1:
        yield unknown("NVLink", found, "the only GPU that can be seen has no peer here")
    else:
        worst = min(gpus, key=lambda gpu: gpu.nvlinks_active - len(gpu.nvlinks))
        fabric, bridge = "sudo systemctl restart nvidia-fabricmanager", "check the NVLink bridges between the cards"
        remedy = fabric if "switch" in worst.nvlinks else bridge
        yield broken("NVLink", found, f"links of GPU {worst.index} are down; collectives are slower", remedy)
