"""What is the cross-entropy of some rows of logits, and its gradient? In torch's operators, in place."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Loss:
    """What is computed of a row of logits; softcap 0 is none."""

    ignore_index: int
    smoothing: float
    softcap: float


def by_torch(logits: torch.Tensor, target: torch.Tensor, how: Loss, gradients: bool) -> torch.Tensor:
    """The same in torch's operators, with two arrays of the chunk's size at most."""
    values = wide(logits)
    slope = None
    if how.softcap > 0:
        values = (values / how.softcap).tanh_()
        slope = values.square().neg_().add_(1.0) if gradients else None
        values.mul_(how.softcap)
    ignored = target == how.ignore_index
    label = torch.where(ignored, 0, target).unsqueeze(1)
    at_label = values.gather(1, label).squeeze(1)
    logarithm = values.logsumexp(1)
    loss = logarithm - (1.0 - how.smoothing) * at_label
    if how.smoothing > 0:
        loss -= how.smoothing * values.mean(1)
    if gradients:
        found = values.sub_(logarithm.unsqueeze(1)).exp_()
        found.sub_(how.smoothing / logits.shape[1])
        found.scatter_add_(1, label, found.new_full((1, 1), how.smoothing - 1.0).expand(len(label), 1))
        found = found if slope is None else found.mul_(slope)
        found.masked_fill_(ignored.unsqueeze(1), 0.0)
        if found is not logits:
            logits.copy_(found)
    return loss.masked_fill_(ignored, 0.0)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, or float64 as it is."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
