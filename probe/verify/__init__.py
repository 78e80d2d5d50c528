"""Is a suggested replacement faster on the recorded shapes, and right? The method is in docs/verify.md."""

from probe.verify.engine import Result
from probe.verify.engine import verify as verify_site

__all__ = ["Result", "verify_site"]
