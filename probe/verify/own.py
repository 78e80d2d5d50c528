"""The user's own kernel as a candidate: loaded from its file, called with what the recorded operators were given."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from probe.errors import UsageError
from probe.sites import AttentionSite, ChainSite, Site
from probe.verify.attention import attention_side
from probe.verify.attention_inputs import AttentionInputs
from probe.verify.case import Candidate, Case, Side
from probe.verify.cases import case_of
from probe.verify.chain import chain_case
from probe.verify.program import CannotReplayError, Program, program_of
from probe.verify.proposal import Proposal
from probe.verify.task import OwnCandidate


class SignatureError(Exception):
    """The function does not take what the recorded operators were given; the message says what that is."""


def parse(text: str) -> OwnCandidate:
    """FILE.py:FUNCTION, checked without running the file. Raises UsageError."""
    path, colon, function = text.rpartition(":")
    if not colon or not path or not function.isidentifier():
        raise UsageError(f"--candidate {text}: give FILE.py:FUNCTION")
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"--candidate {text}: there is no file {path}")
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"--candidate {text}: {path} is not Python: {error}") from None
    if function not in _names(tree):
        raise UsageError(f"--candidate {text}: {path} defines no {function}; there are {_listed(tree)}")
    return OwnCandidate(str(file.resolve()), function)


def _names(tree: ast.Module) -> set[str]:
    """All names that the module's own level binds, in whatever way."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
    return found


def _listed(tree: ast.Module) -> str:
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return ", ".join(functions) or "no functions"


def loaded(own: OwnCandidate) -> Callable[..., Any]:
    """The function; whatever the file raises passes."""
    spec = importlib.util.spec_from_file_location("probe_candidate", own.path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--candidate {own.name}: {own.path} cannot be imported; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["probe_candidate"] = module
    sys.path.insert(0, str(Path(own.path).parent))
    spec.loader.exec_module(module)
    found: Callable[..., Any] = getattr(module, own.function)
    return found


def own_case(site: Site, own: OwnCandidate) -> Case[Any]:
    """The site's case with the user's function as its only candidate."""
    if isinstance(site, ChainSite):
        try:
            program = program_of(site)
        except CannotReplayError:
            return chain_case(site)
        line = f"{own.function}({', '.join(_described(program))})"
        proposal = Proposal(own.name, line, _Called(own, program), fixed=True)  # it may be made for these sizes
        return chain_case(site, (proposal,))
    case = case_of(site)
    if not isinstance(site, AttentionSite):
        raise UsageError("--candidate: an optimizer's loop takes no function; name the operator with --op")
    candidate = Candidate(own.name, f"{own.function}(query, key, value)", _Attending(own, site))
    return _with_only(case, candidate)


def _with_only(case: Case[Any], candidate: Candidate[Any]) -> Case[Any]:
    from dataclasses import replace

    return replace(case, candidates=(candidate,))


def _described(program: Program) -> list[str]:
    """The arguments with their sizes: self float32[4096, 1024]."""
    return [f"{o.role} {o.dtype}{list(o.dims)}" for o in program.outside]


class _Called:
    """The user's function on a chain: its tensors from outside in order; for one operator all of its arguments."""

    def __init__(self, own: OwnCandidate, program: Program) -> None:
        self.own, self.program = own, program
        self._function: Callable[..., Any] | None = None
        self._arguments: Callable[..., tuple[Any, ...]] = lambda *tensors: tensors

    def __call__(self, *tensors: Any) -> Any:
        if self._function is None:
            function = loaded(self.own)
            self._arguments = self._fitting(function, tensors)
            self._function = function
        return self._function(*self._arguments(*tensors))

    def _fitting(self, function: Callable[..., Any], tensors: tuple[Any, ...]) -> Callable[..., tuple[Any, ...]]:
        """Tensors alone, or tensors and numbers as they were recorded: whichever the function takes."""
        for arguments in (lambda *given: given, self._recorded):
            try:
                inspect.signature(function).bind(*arguments(*tensors))
            except TypeError:
                continue
            except ValueError:  # a function without a signature takes what it takes
                return arguments
            return arguments
        takes = len(inspect.signature(function).parameters)
        read = "operator has" if self._alone else "chain reads"
        tensors_told = f"{len(tensors)} tensors: {', '.join(_described(self.program))}"
        raise SignatureError(f"{self.own.function} takes {takes} arguments, the recorded {read} {tensors_told}")

    @property
    def _alone(self) -> bool:
        return len(self.program.calls) == 1

    def _recorded(self, *tensors: Any) -> tuple[Any, ...]:
        """All arguments of the one operator; of a chain its tensors and then its floating numbers."""
        import torch

        space = {f"x{i}": tensor for i, tensor in enumerate(tensors)} | {"torch": torch}
        if self._alone:
            return tuple(eval(text, space) for text in self.program.calls[0].arguments.values())
        texts = (text for call in self.program.calls for text in call.arguments.values())
        return (*tensors, *(float(text) for text in texts if _is_float(text)))


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "." in text or "e" in text


class _Attending:
    """The user's function on attention: query, key, value, then mask and scale where it takes them."""

    def __init__(self, own: OwnCandidate, site: AttentionSite) -> None:
        self.own, self.site = own, site
        self._function: Callable[..., Any] | None = None

    def __call__(self, inputs: AttentionInputs) -> Side:
        function = self._function = self._function or loaded(self.own)
        extra = (inputs.mask, self.site.scale)
        count = self._taken(function)
        return attention_side(lambda query, key, value: function(*(query, key, value, *extra)[:count]), inputs)

    def _taken(self, function: Callable[..., Any]) -> int:
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:
            return 3
        count = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        if count < 3:
            raise SignatureError(f"{self.own.function} takes {count} arguments; attention has query, key and value")
        return min(count, 5)
