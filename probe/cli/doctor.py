"""`probe doctor`: what works on this machine, what does not, and the one step that mends it."""

from __future__ import annotations

from probe.cli.options import AsJson


def command(as_json: AsJson = False) -> None:
    """Show what this machine, driver, torch and permissions allow, and how to mend what does not work."""
    from probe.cli.output import console, print_json
    from probe.doctor import examine
    from probe.report.doctor import render
    from probe.schema import to_jsonable

    found = examine()
    if as_json:
        print_json(to_jsonable(found))
    else:
        render(found, console())
