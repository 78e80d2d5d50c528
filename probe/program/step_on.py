"""Is there such a function to end the steps? Asked before the program is started, and without importing anything."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probe.errors import UsageError
from probe.program.hooks import named

_MADE = frozenset({"__getattr__", "globals", "locals", "vars", "setattr", "exec", "eval"})  # bind names unseen


def refuse_unknown(text: str, target: str, *, module: bool) -> None:
    """UsageError where neither the program nor the named module can hold the function of --step-on."""
    home, name, _ = named(text)
    if module and home in (target, f"{target}.__main__"):
        return  # of the module that is itself run no function can be named, which is said where it is started
    if home is None or home == "__main__":
        file = None if module else Path(target)
    else:
        program = None if module else Path(target).resolve()
        file = _source(home, text, program)
    if file is None or not file.is_file():
        return  # its text is not at hand; what is missing is said where the program is started
    remedy = missing(file, name)
    if remedy is not None:
        raise UsageError(f"--step-on {text}: {file} has no {name}; {remedy}")


def missing(file: Path, name: str) -> str | None:
    """What to do where a file surely binds no such name; None where it does, or may."""
    names = _bound(file)
    if names is None or name in names:
        return None
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else "name a function that it defines or imports"


def _source(module: str, text: str, program: Path | None) -> Path | None:
    """The file of a module, None where it has none of Python's; UsageError where there is no such module."""
    top, *below = module.split(".")
    with _ahead(str(program.parent if program is not None else Path.cwd())):
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
    if spec is not None and not below:
        return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None
    if spec is not None and spec.submodule_search_locations is None:
        return None  # no package: it binds the module itself, as os does os.path
    places = spec.submodule_search_locations if spec is not None else None
    for path in (Path(place, *below) for place in places or ()):
        if path.is_dir() or (path.parent.is_dir() and any(path.parent.glob(f"{path.name}.*"))):
            return path / "__init__.py" if path.is_dir() else path.parent / f"{path.name}.py"
    if program is not None and program.is_file() and b"sys.path" in program.read_bytes():
        return None  # it says itself where its modules are
    raise UsageError(f"--step-on {text}: no module {module} is found; mend its name, or set PYTHONPATH to where it is")


@contextmanager
def _ahead(first: str) -> Iterator[None]:
    """As the program will see it: its directory comes first."""
    sys.path.insert(0, first)
    try:
        yield
    finally:
        sys.path.remove(first)


def _bound(file: Path) -> set[str] | None:
    """Every name that a file binds or imports anywhere; None where it may bind others."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return None
    names: set[str] = set()
    for node in nodes:
        names.update(_of(node))
    return None if names & (_MADE | {"*"}) else names


def _of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Name) and (isinstance(node.ctx, ast.Store) or node.id in _MADE):
        yield node.id
    elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name is not None:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest is not None:
        yield node.rest
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
