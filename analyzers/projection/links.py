"""How long does a collective take on a link? T = alpha + volume / beta, from tabulated or measured links.

Rates are those of one direction of one device, as the makers publish them; `USED` of them is what collectives reach.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Collective = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]
Algorithm = Literal["ring", "tree", "nvls"]

# busbw over the published rate of one direction: 370 (ring) and 480 GB/s (NVLS) of NVLink 4's 450 on 8 H100
# (NVIDIA/nccl-tests issue 212). NVLS reduces in the switch, so that its busbw may exceed the link's rate.
USED = 370 / 450
USED_NVLS = 480 / 450
USED_NVLS_PAIR = 430 / 450  # over two nodes, whose network is no limit then (NVIDIA/nccl issue 1221)
SWITCHED = 4  # ranks up to which a node's devices may be joined without a switch, which NVLS takes


class Link(Enum):
    """Name, bytes/s of one direction of one device, latency of one hop in seconds."""

    NVLINK2 = ("NVLink 2", 150e9, 3e-6)
    NVLINK3 = ("NVLink 3", 300e9, 3e-6)
    NVLINK4 = ("NVLink 4", 450e9, 3e-6)
    NVLINK5 = ("NVLink 5", 900e9, 3e-6)
    XGMI2 = ("Infinity Fabric 2", 150e9, 5e-6)
    XGMI3 = ("Infinity Fabric 3", 448e9, 5e-6)
    PCIE3 = ("PCIe 3.0 x16", 15.75e9, 5e-6)
    PCIE4 = ("PCIe 4.0 x16", 31.5e9, 5e-6)
    PCIE5 = ("PCIe 5.0 x16", 63e9, 5e-6)
    HDR = ("InfiniBand HDR", 25e9, 5e-6)
    NDR = ("InfiniBand NDR", 50e9, 5e-6)
    ETHERNET100 = ("Ethernet 100 Gbit/s", 12.5e9, 15e-6)
    ETHERNET400 = ("Ethernet 400 Gbit/s (RoCE)", 50e9, 8e-6)
    EFA = ("EFA, 400 Gbit/s a device", 50e9, 15e-6)

    def __init__(self, title: str, bytes_per_s: float, hop_s: float) -> None:
        self.title = title
        self.bytes_per_s = bytes_per_s
        self.hop_s = hop_s


Times = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Path:
    """What joins some ranks: bytes/s that collectives use of it (busbw), and the latency of a hop.

    cores: of the host whose processor moves the data, as Gloo's ranks on one host do; None where the device does.
    times: what all-reduces of several sizes took `among` ranks, if each has a core: bytes that a rank sends, seconds.
    """

    name: str
    bytes_per_s: float
    hop_s: float
    measured: bool = False
    cores: int | None = None
    times: Times = ()
    among: int = 2
    nvls: bool = False  # switches of this link reduce, so that an all-reduce sends everything once

    def crowding(self, ranks: int) -> float:
        """How many times longer data takes because ranks share cores: each keeps one busy while it moves its own."""
        return max(1.0, ranks / self.cores) if self.cores else 1.0


def path(link: Link) -> Path:
    """What collectives reach on a tabulated link."""
    return Path(link.title, link.bytes_per_s * USED, link.hop_s, nvls=link in (Link.NVLINK4, Link.NVLINK5))


def among_cores(name: str, busbw: float, hop_s: float, ranks: int, cores: int, times: Times = ()) -> Path:
    """A link that processors drive, by what so many ranks on so many cores measured of it."""
    crowded = max(1.0, ranks / cores)
    alone = tuple((sent, took_s / crowded) for sent, took_s in times)
    return Path(name, busbw * crowded, hop_s / crowded, True, cores, alone, ranks)


def volume_bytes(kind: Collective, size_bytes: float, ranks: int) -> float:
    """Bytes that a rank sends. size_bytes: what each holds of an all-reduce, or the whole of a gather or scatter."""
    if ranks <= 1:
        return 0.0
    share = (ranks - 1) / ranks
    return size_bytes * {"all_reduce": 2 * share, "send_recv": 1.0}.get(kind, share)


def hops(kind: Collective, ranks: int, algorithm: Algorithm = "ring") -> int:
    """How many latencies follow each other."""
    if ranks <= 1:
        return 0
    if kind == "send_recv" or (algorithm == "nvls" and kind != "all_to_all"):
        return 2 if kind == "all_reduce" else 1
    if algorithm == "tree":
        return 2 * math.ceil(math.log2(ranks))
    return 2 * (ranks - 1) if kind == "all_reduce" else ranks - 1


def seconds(kind: Collective, size_bytes: float, ranks: int, way: Path, algorithm: Algorithm = "ring") -> float:
    """Time of one collective among ranks that one kind of link joins."""
    if ranks <= 1 or size_bytes <= 0:
        return 0.0
    sent = volume_bytes(kind, size_bytes, ranks)
    if algorithm == "nvls":
        faster = USED_NVLS / USED if kind == "all_reduce" else 1.0
        transfer_s = sent / (way.bytes_per_s * faster) * way.crowding(ranks)
    else:
        transfer_s = _transfer_s(way, sent, ranks)
    return max(transfer_s + _latency_s(way, hops(kind, ranks, algorithm), ranks), 0.0)


def _transfer_s(way: Path, sent: float, ranks: int) -> float:
    """How long ranks of one link take to send so many bytes each, without the latency of the hops."""
    if way.times:
        alone_s = _interpolated(way.times, sent) - hops("all_reduce", way.among) * way.hop_s
    else:
        alone_s = sent / way.bytes_per_s
    return alone_s * way.crowding(ranks)


def _latency_s(way: Path, count: int, ranks: int) -> float:
    """Of so many hops in a row."""
    return count * way.hop_s * way.crowding(ranks)


def _interpolated(times: Times, sent: float) -> float:
    """Seconds for so many bytes: on the line between its neighbours, whose alpha and beta hold for their size only.

    Below the smallest it takes as long as that; beyond the largest the last rate holds on.
    """
    sizes = [size for size, _ in times]
    at = bisect_left(sizes, sent)
    if at == 0:
        return times[0][1]
    if at == len(times):
        return times[-1][1] * sent / sizes[-1]
    (below, least_s), (above, most_s) = times[at - 1 : at + 1]
    return least_s + (most_s - least_s) * (sent - below) / (above - below)


def best_seconds(kind: Collective, size_bytes: float, ranks: int, way: Path, *, nvls: bool = False) -> float:
    """The fastest algorithm there is: trees where latency counts, rings where volume does."""
    choices: list[Algorithm] = ["ring"]
    if kind == "all_reduce" and not way.times:  # what was measured is what the library chose
        choices.append("tree")
    if nvls:
        choices.append("nvls")
    return min(seconds(kind, size_bytes, ranks, way, how) for how in choices)


def spread_seconds(kind: Collective, size_bytes: float, ranks: int, per_node: int, near: Path, far: Path) -> float:
    """Time over several nodes, each of whose ranks has a network of its own to the other nodes.

    An all-to-all sends what is for other nodes over the network, the others are rings, and what is quicker.
    """
    inside = min(ranks, max(per_node, 1))
    nodes = math.ceil(ranks / inside)
    switched = near.nvls and inside > SWITCHED
    if size_bytes <= 0:
        return 0.0
    if nodes <= 1:
        return best_seconds(kind, size_bytes, ranks, near, nvls=switched)
    if inside == 1:
        return best_seconds(kind, size_bytes, ranks, far)
    if kind == "send_recv":
        return seconds(kind, size_bytes, 2, far)
    if kind == "all_to_all":
        away = size_bytes * (ranks - inside) / ranks
        return max(
            seconds(kind, size_bytes * inside / ranks, inside, near), far.hop_s * (nodes - 1) + away / far.bytes_per_s
        )
    choices = list(_through_all(kind, size_bytes, inside, nodes, near, far))
    if kind == "all_reduce" and switched and nodes == 2:
        choices.append(_exchanged_s(size_bytes, inside, near, far))
    return max(min(choices), 0.0)


def _through_all(
    kind: Collective, size_bytes: float, inside: int, nodes: int, near: Path, far: Path
) -> Iterator[float]:
    """Time of rings through all ranks, one for each network of a node, and of trees, which have fewer hops.

    The slower of the two links sets the pace: on nodes of 8 H100 and eight 400 Gbit/s cards busbw is 330 GB/s over 2
    nodes, 320 over 4 (NVIDIA/nccl issue 1221) and 350 over 248 of H200 (NVIDIA/nccl-tests issue 283).
    """
    sent = volume_bytes(kind, size_bytes, inside * nodes)
    transfer_s = max(_transfer_s(near, sent, inside), _transfer_s(far, sent / inside, nodes))
    passes = 2 if kind == "all_reduce" else 1
    within, between = passes * nodes * (inside - 1), passes * (nodes - 1)
    yield transfer_s + _latency_s(near, within, inside) + _latency_s(far, between, nodes)
    if kind == "all_reduce" and not (near.times or far.times):  # what was measured is what the library chose
        within, between = hops(kind, inside, "tree"), hops(kind, nodes, "tree")
        yield transfer_s + _latency_s(near, within, inside) + _latency_s(far, between, nodes)


def _exchanged_s(size_bytes: float, inside: int, near: Path, far: Path) -> float:
    """Time of an all-reduce of two nodes that exchange what their switches reduced."""
    sent = volume_bytes("all_reduce", size_bytes, 2 * inside)
    reduced_s = sent / (near.bytes_per_s * USED_NVLS_PAIR / USED) + hops("all_reduce", inside, "nvls") * near.hop_s
    return max(reduced_s, seconds("all_reduce", size_bytes / inside, 2, far))
