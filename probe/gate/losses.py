"""Which losses does a program compute? The scalars that `backward` is called on, kept until they are asked for."""

from __future__ import annotations

from typing import Any


class Losses:
    """Catches losses once torch.autograd is imported: `imports.do("torch.autograd", losses.catch)`."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def catch(self, module: Any) -> None:
        """Keep the scalars that `module.backward` is called on."""
        backward = module.backward

        def caught(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            several = (tensors,) if hasattr(tensors, "numel") else tuple(tensors)
            self._kept += [t.detach().clone() for t in several if t.numel() == 1]
            return backward(tensors, *args, **kwargs)

        module.backward = caught

    def taken(self) -> list[Any]:
        """Those since the last call, as tensors: reading their values would wait for the device."""
        kept, self._kept = self._kept, []
        return kept
