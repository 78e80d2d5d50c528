"""The errors a user can cause, and nothing else.

ProbeError                       one line: what was wrong, where, what to do
├── UsageError        exit 2     an option or argument that makes no sense
├── InputError        exit 2     a file that cannot be read or is not what it should be
│   ├── TraceError               a trace
│   ├── RunError                 a run directory
│   └── CeilingsError            stored ceilings
├── GateFailed        exit 3     a gate or --fail-on condition
└── UnavailableError  exit 4     this machine lacks what was asked for

Anything else that reaches the command line is a defect of probe's own and exits with 1.
"""

from __future__ import annotations


class ProbeError(Exception):
    """Base of all errors a user can cause; the message is one line with the remedy in it."""

    exit_code = 2


class UsageError(ProbeError):
    """An option or argument that makes no sense."""


class InputError(ProbeError):
    """A file that cannot be read, or is not what it should be."""


class TraceError(InputError):
    """A trace that cannot be read."""


class RunError(InputError):
    """A run directory that cannot be read or written."""


class CeilingsError(InputError):
    """Stored ceilings that cannot be read."""


class GateFailed(ProbeError):  # noqa: N818 (a verdict, not a mistake)
    """A gate or a --fail-on condition failed."""

    exit_code = 3


class UnavailableError(ProbeError):
    """This machine lacks what was asked for: no GPU, no counters, no rights."""

    exit_code = 4
