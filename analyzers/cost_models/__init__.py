"""Floating-point operations and bytes moved of every operator, from its recorded arguments alone.

`catalogue.cost` answers for one call, `attribution.attribute` for all calls of a trace: there, other calls supply
what one does not record, and work that a composite operator hands on is counted once. The conventions are those of
docs/cost_model.md.
"""

from probe.analyzers.cost_models.catalogue import cost
from probe.analyzers.cost_models.registry import register
from probe.analyzers.cost_models.terms import Cost, Kind, known

__all__ = ["Cost", "Kind", "cost", "known", "register"]
