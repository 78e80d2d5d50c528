"""Write docs/rules.md again from the catalogue of rules.

Usage: python docs/rules.py
"""

from __future__ import annotations

from pathlib import Path

from probe.report.rules import in_order
from probe.report.rules_markdown import render

if __name__ == "__main__":
    (Path(__file__).parent / "rules.md").write_text(render(in_order()))
