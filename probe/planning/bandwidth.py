"""How fast must links and storage be, and are they? Needs of a training step against measured suites."""

from __future__ import annotations

from typing import Any

from probe.errors import UsageError
from probe.planning.result import Part, Plan, fraction, positive


def bandwidth(
    *, parameters: float, step_s: float, ranks: int, gradient_bytes: float = 4.0, overlap: float = 2 / 3,
    sample_bytes: float | None = None, samples: float | None = None, checkpoint_bytes_per_parameter: float = 12.0,
    checkpoint_every_s: float | None = None, pause: float = 0.01, measured_link: float | None = None,
    measured_storage: float | None = None,
) -> Plan:  # fmt: skip
    """The bandwidths at which communication hides and storage keeps up, in bytes/s.

    overlap: the share of the step during which gradients can be reduced. samples: of a rank's step, each of
    sample_bytes. pause: the share of the time that writing checkpoints may take. measured_link: busbw.
    """
    positive(parameters=parameters, step_s=step_s, ranks=ranks, gradient_bytes=gradient_bytes, samples=samples,
             sample_bytes=sample_bytes, checkpoint_every_s=checkpoint_every_s, measured_link=measured_link,
             measured_storage=measured_storage)  # fmt: skip
    fraction(overlap=overlap, pause=pause)
    if (samples is None) != (sample_bytes is None):
        raise UsageError("what is read needs both samples per step and bytes per sample (--samples, --sample-bytes)")
    size = parameters * gradient_bytes
    sent = 2 * (ranks - 1) / ranks * size
    result: dict[str, Any] = {"all_reduce_bytes": size, "busbw_needed_bytes_per_s": sent / (overlap * step_s)}
    parts = [Part("gradients sent by a rank per step", bytes=sent, how=f"ring over {ranks} ranks")]
    if samples is not None and sample_bytes is not None:
        result["read_needed_bytes_per_s"] = samples * sample_bytes * ranks / step_s
        parts.append(Part("samples read per step, all ranks", bytes=samples * sample_bytes * ranks))
    if checkpoint_every_s is not None:
        written = parameters * checkpoint_bytes_per_parameter
        result["write_needed_bytes_per_s"] = written / (checkpoint_every_s * pause)
        parts.append(Part("one checkpoint", bytes=written, how=f"{checkpoint_bytes_per_parameter:g} B a parameter"))
    needed = max(result.get("read_needed_bytes_per_s", 0.0), result.get("write_needed_bytes_per_s", 0.0))
    if measured_link is not None:
        result |= {"busbw_measured_bytes_per_s": measured_link,
                   "link_suffices": measured_link >= result["busbw_needed_bytes_per_s"],
                   "all_reduce_s": sent / measured_link}  # fmt: skip
    if measured_storage is not None and needed:
        result |= {"storage_measured_bytes_per_s": measured_storage, "storage_suffices": measured_storage >= needed}
    inputs = {"parameters": parameters, "step_s": step_s, "ranks": ranks, "gradient_bytes": gradient_bytes,
              "overlap": overlap, "samples": samples, "sample_bytes": sample_bytes}  # fmt: skip
    return Plan("bandwidth", inputs, result, tuple(parts), ("latency is not counted",))
