"""Which tensors operators read and wrote: identities that a trace alone does not record."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from probe.trace import Int32s, Int64s, Mask, Table


@dataclass(frozen=True, eq=False)
class TensorUses(Table):
    """One row for each tensor among an operator's arguments or results, sorted by operator, inputs first."""

    op: Int32s  # row of Trace.host_ops
    argument: Int32s  # position among the arguments, or among the results
    item: Int32s  # position in a list of tensors; 0 for a single one
    is_output: Mask
    tensor: Int64s  # the same tensor object has the same number throughout a recording
    storage: Int64s  # views of one storage share its number; freed storages' numbers are used again
    offset: Int64s  # of the first element in the storage, in elements
    elements: Int64s
    element_bytes: Int32s
    device: Int32s  # into Tensors.devices


@dataclass(frozen=True, eq=False)
class Tensors:
    """The tensors of a trace's operators, and how much of trace and recording fit together."""

    uses: TensorUses
    devices: tuple[str, ...]  # "cpu", "cuda:0"
    matched: int  # operators of the trace that the recording knows
    unmatched_ops: int  # operators of the trace that it does not know
    unmatched_nodes: int  # nodes of the recording that are no operator of the trace: ranges of the user, for example
    warnings: tuple[str, ...] = ()

    def to_pandas(self) -> Any:
        """The uses as a pandas DataFrame, one row each, with the device's name; `op` is a row of Trace.host_ops."""
        import pandas as pd

        columns = dict(self.uses.columns())
        return pd.DataFrame({**columns, "device": [self.devices[d] if d >= 0 else None for d in self.uses.device]})

    def to_json(self) -> dict[str, Any]:
        """How much fits together, counted; for the uses themselves use `to_pandas`."""
        counts = {name: getattr(self, name) for name in ("matched", "unmatched_ops", "unmatched_nodes")}
        return {"uses": len(self.uses), **counts, "devices": list(self.devices), "warnings": list(self.warnings)}

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{key}</td><td>{escape(str(value))}</td></tr>" for key, value in self.to_json().items())
        return f"<table>{rows}</table>"
