"""All files of planted programs; importing this registers every one of them."""

import importlib
from pathlib import Path

FRAME = ("__init__", "areas", "program")
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in FRAME)
MODULES = tuple(importlib.import_module(f"planted.{name}") for name in NAMES)
