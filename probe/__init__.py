"""probe: where does the time go, what is the limit, what do I change.

    import probe

    with probe.profile("runs/exp1") as prof:
        for batch in prof.batches(loader):
            train_step(batch)
            prof.step()

    print(prof.analysis())

Names are looked up when they are first used, so that `import probe` stays quick and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe.api import Analysis as Analysis
    from probe.api import analyze as analyze
    from probe.api import load as load
    from probe.api import load_tensors as load_tensors
    from probe.api import register_cost as register_cost
    from probe.api import roofline as roofline
    from probe.changes.replacing import replace as replace
    from probe.examine.sides import Comparison as Comparison
    from probe.examine.sides import compare as compare
    from probe.projecting.whatif import whatif as whatif
    from probe.session import annotate as annotate
    from probe.session import annotate_modules as annotate_modules
    from probe.session import profile as profile
    from probe.trace import Trace as Trace

_HOMES = {
    "profile": "probe.session",
    "annotate": "probe.session",
    "annotate_modules": "probe.session",
    "load": "probe.api",
    "load_tensors": "probe.api",
    "register_cost": "probe.api",
    "roofline": "probe.api",
    "replace": "probe.changes.replacing",
    "whatif": "probe.projecting.whatif",
    "analyze": "probe.api",
    "Analysis": "probe.api",
    "compare": "probe.examine.sides",
    "Comparison": "probe.examine.sides",
    "Trace": "probe.trace",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("torch-probe")
    if name not in _HOMES:
        raise AttributeError(f"module 'probe' has no attribute {name!r}")
    if name == "profile":
        from probe.session import session

        session.ANALYSE = _analyse  # a session lies below the analysis and cannot name it
    return getattr(import_module(_HOMES[name]), name)


def _analyse(path: Any) -> Any:
    return import_module("probe.api").analyze(path)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])
