"""One training loop under observation: what is timed, what is recorded, and that nothing of it reaches the loop."""

from probe.session.annotation import annotate
from probe.session.session import NoAnalysis, Session, profile

__all__ = ["NoAnalysis", "Session", "annotate", "profile"]
