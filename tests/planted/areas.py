"""All files of planted programs; importing this registers every one of them."""

import importlib
import importlib.util

NAMES = ("fusion", "attention", "loops", "host", "compute", "memory")
MODULES = tuple(
    importlib.import_module(f"planted.{name}") for name in NAMES if importlib.util.find_spec(f"planted.{name}")
)
