"""What the arguments of a Kineto event say: from JSON texts to typed values, None where they cannot be read."""

from __future__ import annotations

import json
import re
from typing import Any

from probe.readers.events import NONE
from probe.readers.kineto_json import Args, printable
from probe.trace import CollectiveCall, GeneratedKernel, LaunchShape, Signature

_CROSSES_BUS = re.compile(r"HtoD|DtoH|HostToDevice|DeviceToHost", re.IGNORECASE)  # as CUDA, as ROCm names copies
_DEEPEST = 8  # of nested argument lists: real ones have 3
_GROUP_RANK = re.compile(r"\d+")


def integer(value: Any) -> int:
    """A recorded id or size, -1 where there is none that fits into 64 bits."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return NONE
    return number if -(2**63) <= number < 2**63 else NONE


def positive(value: Any) -> int | None:
    """A recorded count, None where there is none."""
    number = integer(value)
    return number if number > 0 else None


def crosses_bus(name: str) -> bool:
    """Whether a copy of this name goes between host and device."""
    return _CROSSES_BUS.search(name) is not None


def signature(texts: list[bytes]) -> Signature | None:
    """The arguments of an operator: sizes, types, strides and scalars, and what `generated_texts` adds."""
    dims, dtypes, strides, scalars, *generated = texts
    try:
        return Signature(
            dims=tuple(_extents(v) for v in _list(dims)),
            dtypes=tuple(_text(v) for v in _list(dtypes)),
            strides=tuple(_extents(v) for v in _list(strides)),
            scalars=tuple(printable(v) if isinstance(v, str) else "" for v in _list(scalars)),
            kernel=_generated(*map(_value, generated)) if generated else None,
        )
    except (ValueError, RecursionError):
        return None


def generated_texts(args: Args) -> tuple[Any, ...]:
    """The texts of an operator that runs a kernel made by a compiler."""
    return (
        args.dims or args.old_dims, args.types, args.strides, args.scalars,
        args.kernel_backend, args.kernel_hash, args.kernel_file, args.grid, args.warps, args.stages,
    )  # fmt: skip


def _generated(backend: Any, digest: Any, file: Any, grid: Any, warps: Any, stages: Any) -> GeneratedKernel | None:
    if not isinstance(backend, str) or not backend:
        return None
    return GeneratedKernel(
        printable(backend), _name(digest), _name(file), _name(grid), positive(warps), positive(stages)
    )


def launch_shape(texts: list[bytes]) -> LaunchShape | None:
    """Grid and resources of a kernel."""
    try:
        grid, block, registers, shared, percent = map(_value, texts)
    except (ValueError, RecursionError):
        return None
    usable = isinstance(percent, (int, float)) and 0 < percent <= 100  # 0 means "not computed"
    return LaunchShape(
        grid=_sizes(grid),
        block=_sizes(block),
        registers_per_thread=positive(registers),
        shared_bytes=integer(shared) if shared is not None else None,
        theoretical_occupancy_fraction=percent / 100 if usable else None,
    )


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(integer(v) for v in value) if isinstance(value, list) else ()


def collective_texts(args: Args) -> tuple[Any, ...]:
    """The texts that `collective` reads."""
    return (
        args.collective, args.collective_dtype, args.in_elements, args.out_elements, args.group, args.group_size,
        args.group_ranks, args.source_rank, args.target_rank,
    )  # fmt: skip


def collective(texts: list[bytes]) -> CollectiveCall | None:
    """What ranks agreed to exchange."""
    try:
        kind, dtype, sent, received, group, size, ranks, source, target = map(_value, texts)
    except (ValueError, RecursionError):
        return None
    if not isinstance(kind, str) or not kind:
        return None
    peer = integer({"send": target, "recv": source}.get(kind.lower()))
    return CollectiveCall(
        kind=printable(kind),
        dtype=_name(dtype),
        in_elements=positive(sent),
        out_elements=positive(received),
        group=printable(str(group)) if isinstance(group, (str, int)) else None,
        group_size=positive(size),
        group_ranks=_ranks(ranks, positive(size)),
        peer=peer if peer >= 0 else None,
    )


def _ranks(value: Any, size: int | None) -> tuple[int, ...] | None:
    """The ranks of a group: Kineto writes them as a text, "[0, 1]", of which it shows the beginning, "[0, 1, ...]"."""
    if isinstance(value, str) and "..." not in value:
        value = [int(number) for number in _GROUP_RANK.findall(value)]
    if not isinstance(value, list) or not value or not all(type(v) is int for v in value):
        return None
    return tuple(value) if size is None or len(value) == size else None


def _name(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) and value else None


def _value(text: bytes) -> Any:
    return json.loads(text) if text else None


def _list(text: bytes) -> list[Any]:
    """The list in a JSON text, an empty one where there is no text; ValueError for anything else."""
    value = json.loads(text) if text else []
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _extents(value: Any, depth: int = 1) -> tuple[Any, ...]:
    """Nested lists of integers as tuples; ValueError for anything else."""
    if not isinstance(value, list) or depth > _DEEPEST:
        raise ValueError("not lists of integers")
    return tuple(_extent(v) if type(v) is int else _extents(v, depth + 1) for v in value)


def _extent(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError("more than 64 bits")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    return printable(value)
