"""On what file system does a path lie, and is it a disk of this machine? Reads /proc/self/mountinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

Kind = Literal["disk", "memory", "network", "overlay", "program", "unknown"]

MEMORY = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")
OVERLAY = ("overlay", "aufs", "unionfs", "fuse.fuse-overlayfs")
NETWORK = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.ceph",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "orangefs",
    "smb3",
    "smbfs",
    "virtiofs",
    "wekafs",
)
MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")  # blanks, tabs, line ends and backslashes of a path, in octal

WARNINGS: dict[Kind, str] = {
    "memory": "{path} lies in memory ({type}): nothing here is a disk's figure; name the directory of your data",
    "network": "{path} lies on {type}: the figures include a network, or a host, and its caches, and change with "
    "what others do there",
    "overlay": "{path} lies on {type}, the writable layer of a container: data sets and checkpoints usually lie "
    "elsewhere; name their directory",
    "program": "{path} lies on {type}, a file system that is a program: what it caches is not known",
}


@dataclass(frozen=True)
class Place:
    """A directory's file system: its type as the kernel calls it, and the device if it is one of this machine."""

    type: str | None
    device: str | None
    kind: Kind

    def warning(self, path: Path) -> str | None:
        """What a reader of figures from `path` must know; None where it is a disk, or nothing is known."""
        text = WARNINGS.get(self.kind)
        return None if text is None else text.format(path=path, type=self.type)


UNKNOWN = Place(None, None, "unknown")


def find(path: Path, mountinfo: str) -> Place:
    """The file system of the absolute `path` by the text of /proc/self/mountinfo."""
    best, place = -1, UNKNOWN
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(rest) < 2:
            continue
        point = PurePosixPath(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:  # of two at one place the later covers the earlier
            best, place = len(point.parts), _place(rest[0], rest[1])
    return place


def _place(type_: str, source: str) -> Place:
    """The source is kept where it is a device: that of a network may name a user or hold a password."""
    device = source if source.startswith("/dev/") else None
    return Place(type_, device, _kind(type_))


def _kind(type_: str) -> Kind:
    if type_ in MEMORY:
        return "memory"
    if type_ in OVERLAY:
        return "overlay"
    if type_ in NETWORK:
        return "network"
    return "program" if type_.startswith("fuse") and type_ != "fuseblk" else "disk"
