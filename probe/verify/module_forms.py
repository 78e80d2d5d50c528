"""As what does an accepted replacement go into a live module? Another forward by its own weights, or compiled.

Only what needs no other parameters: names of parameters, state dictionaries and optimizers stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from probe.verify.adapters.installed import libraries
from probe.verify.adapters.kinds import Adapter

EPSILONS = ("eps", "variance_epsilon", "epsilon")
GATED = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))  # as Llama's and as Mistral's files name them
COMPILED = "torch.compile"
Forward = Callable[..., Any]


@dataclass
class Form:
    """How a module is changed; exactly undone by `undo`."""

    module: Any
    forward: Forward | None  # None: the module is compiled
    _before: dict[str, Any] = field(default_factory=dict)

    def apply(self) -> None:
        """Change the module."""
        state = vars(self.module)
        self._before = {key: state[key] for key in ("forward", "_compiled_call_impl") if key in state}
        if self.forward is None:
            self.module.compile()
        else:
            self.module.forward = self.forward

    def undo(self) -> None:
        """As it was."""
        for key in ("forward", "_compiled_call_impl"):
            vars(self.module).pop(key, None)
        vars(self.module).update(self._before)


def form_of(module: Any, candidate: str) -> Form | str:
    """How the candidate that was accepted goes into this module; why it does not, in words."""
    if candidate == COMPILED:
        return Form(module, None)
    library, kernel = _named(candidate)
    if kernel in ("rms_norm", "layer_norm"):
        return _norm(module, library, kernel)
    if kernel in ("swiglu", "geglu_tanh"):
        return _gated(module, library, kernel)
    return f"{candidate} is no change of one module's forward: edit the code"


def _named(candidate: str) -> tuple[str, str]:
    """The library and its kernel: "F.rms_norm", "Liger-Kernel rms_norm"."""
    if candidate.startswith("F."):
        return "torch", candidate.removeprefix("F.")
    library, _, kernel = candidate.rpartition(" ")
    return library, kernel


def _kernel(library: str, kernel: str) -> Callable[..., Any] | None:
    """The function, called as adapters.kinds says."""
    if library == "torch":
        return _TORCH.get(kernel)
    from probe.verify.replacements.fused_kernels import KERNELS

    own = Adapter("probe", "probe.kernels.fused", KERNELS)
    adapter = next((one for one in (own, *libraries()) if one.library == library), None)
    return adapter.kernels.get(kernel, ("", None))[1] if adapter is not None else None


def _rms_norm(x: Any, weight: Any, eps: float) -> Any:
    import torch

    return torch.nn.functional.rms_norm(x, weight.shape, weight, eps)


def _layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    import torch

    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


_TORCH: dict[str, Callable[..., Any]] = {"rms_norm": _rms_norm, "layer_norm": _layer_norm}


def _norm(module: Any, library: str, kernel: str) -> Form | str:
    """By the module's own weight, bias and epsilon."""
    function = _kernel(library, kernel)
    own = dict(module.named_parameters(recurse=False))
    names = ("weight",) if kernel == "rms_norm" else ("weight", "bias")
    eps = next((getattr(module, name) for name in EPSILONS if isinstance(getattr(module, name, None), float)), None)
    if function is None:
        return f"{library} is not here"
    if set(own) != set(names) or eps is None or any(module.children()):
        return f"{type(module).__name__} is no norm with {' and '.join(names)} and one of {', '.join(EPSILONS)}"

    def forward(x: Any) -> Any:
        return function(x, *(getattr(module, name) for name in names), eps)

    return Form(module, forward)


def _gated(module: Any, library: str, kernel: str) -> Form | str:
    """The activation of one product times another, and the product that follows."""
    function = _kernel(library, kernel)
    names = next((three for three in GATED if all(hasattr(module, name) for name in three)), None)
    if function is None or names is None:
        listed = " or ".join(", ".join(three) for three in GATED)
        return f"{library} is not here" if function is None else f"{type(module).__name__} has no {listed}"

    def forward(x: Any) -> Any:
        gate, up, down = (getattr(module, name) for name in names)
        return down(function(gate(x), up(x)))

    return Form(module, forward)
