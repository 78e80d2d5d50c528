"""One training loop under observation: what is timed, what is recorded, and that nothing of it reaches the loop."""

from probe.session.annotation import annotate, annotate_modules
from probe.session.off import NoAnalysis
from probe.session.session import Session, profile

__all__ = ["NoAnalysis", "Session", "annotate", "annotate_modules", "profile"]
