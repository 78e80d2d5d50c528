"""Which accepted replacements of a run go into a live model? They are checked there, and can be undone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import InputError, ProbeError, UsageError
from probe.examine.examine import Request, examine
from probe.examine.sources import Named, RunSource, find
from probe.results.findings import Finding, Verified

if TYPE_CHECKING:
    from probe.verify.module_check import Given
    from probe.verify.module_forms import Form

_TENSOR = re.compile(r"(\w+)\[([\d, ]*)\]")
MOST_ID = 2  # token numbers that are made up lie below it: every vocabulary has them


@dataclass(frozen=True)
class Change:
    """One module that computes otherwise now."""

    path: str
    kind: str  # its class
    replacement: str
    code: str  # of the rule


@dataclass(frozen=True)
class Left:
    """A suggestion that was not followed, and why. replacement: what was accepted for it."""

    code: str
    title: str
    replacement: str
    reason: str


@dataclass
class Replaced:
    """What `replace` did to a model. The changes hold until `undo`."""

    changed: tuple[Change, ...]
    left: tuple[Left, ...]
    _forms: list[Form]

    def undo(self) -> None:
        """Every module as it was; a second time does nothing."""
        while self._forms:
            self._forms.pop().undo()

    def __str__(self) -> str:
        lines = [f"{one.path}: {one.kind} → {one.replacement} ({one.code})" for one in self.changed]
        lines += [f"left: {one.code} {one.title}, {one.replacement}: {one.reason}" for one in self.left]
        return "\n".join(lines) or "nothing accepted in this run"


def replace(model: Any, run: Named = None, *, inputs: Sequence[Any] | None = None) -> Replaced:
    """Put the replacements that `probe verify` accepted for a run into `model`, each after a check on live inputs.

    inputs: what `model` is called with for the check; by default random tensors of the recorded sizes. Parameters and
    their names stay. Raises UsageError for what is no run or no module, InputError where the inputs are not known.
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"probe.replace takes a torch.nn.Module, not {type(model).__name__}")
    source = find(run)
    if not isinstance(source, RunSource):
        raise UsageError("probe.replace takes a run directory: verdicts are kept there")
    accepted = list(_accepted(str(source.run.path)))
    made = _Making(model, source, inputs)
    for finding, verified in accepted:
        made.follow(finding, verified)
    return Replaced(tuple(made.changed), tuple(made.left), made.forms)


def _accepted(path: str) -> Iterator[tuple[Finding, Verified]]:
    """Findings of the run with what was accepted for them, the fastest first; most saving first."""
    from probe.verify import ledger

    kept = ledger.read(Path(path) / ledger.NAME)
    findings = examine(path, Request()).analysis.findings
    for finding in sorted(findings, key=lambda one: -(one.saving_s or 0.0)):
        known = ledger.recalled(finding, kept)
        tried = [one for one in (known.verified, *known.alternatives) if one is not None and one.verdict == "accept"]
        yield from ((finding, one) for one in tried)


class _Making:
    """What was done so far."""

    def __init__(self, model: Any, source: RunSource, inputs: Sequence[Any] | None) -> None:
        self.changed: list[Change] = []
        self.left: list[Left] = []
        self.forms: list[Form] = []
        self._model, self._source, self._inputs = model, source, inputs
        self._done: set[str] = set()  # findings that were followed
        self._device = _device_name(model)

    def follow(self, finding: Finding, verified: Verified) -> None:
        """Change the modules of one finding, or say why not."""
        if finding.id in self._done:
            return
        reason = self._changed(finding, verified)
        if reason is None:
            self._done.add(finding.id)
            self.left = [one for one in self.left if (one.code, one.title) != (finding.code, finding.title)]
        else:
            self.left.append(Left(finding.code, finding.title, verified.candidate or "", reason))

    def _changed(self, finding: Finding, verified: Verified) -> str | None:
        from probe.verify.module_forms import form_of

        if verified.device != self._device:
            return f"it was accepted on {verified.device}, the model is on {self._device}"
        if finding.code in ("F24", "F25", "F26", "F27"):
            return f"an optimizer is no module: {finding.how or 'change its construction'}"
        modules = self._modules(finding)
        if isinstance(modules, str):
            return modules
        forms = [(path, form_of(module, verified.candidate or "")) for path, module in modules.items()]
        fit = [(path, form) for path, form in forms if not isinstance(form, str)]
        wrong = next((form for _, form in forms if isinstance(form, str)), None)
        classes = sorted({type(module).__name__ for module in modules.values()})
        meant = {type(form.module) for _, form in fit}  # `*` may stand for modules of several classes
        if wrong is not None and (len(classes) == 1 or not fit):
            return wrong
        if len(meant) > 1:
            return f"{finding.module} stands for modules of several classes ({', '.join(classes)}): edit the code"
        return self._put_in(fit, finding, verified)

    def _modules(self, finding: Finding) -> dict[str, Any] | str:
        """By path; why there are none."""
        if not finding.module:
            return "the run does not say in which module it lies; record with probe.profile(model=model)"
        named = dict(self._model.named_modules())
        found = {path: named[path] for path in named if path and _same(path, finding.module)}
        if not found:
            return f"the model has no module {finding.module}"
        taken = [change.path for change in self.changed]
        if any(_inside(a, b) or _inside(b, a) for a in found for b in taken):
            return "a module in it, or around it, has been changed already"
        return found

    def _put_in(self, forms: list[tuple[str, Form]], finding: Finding, verified: Verified) -> str | None:
        """All of them, or none."""
        from probe.verify.module_check import caught, wrong

        given = caught(self._model, [form.module for _, form in forms], self._live_inputs())
        for path, form in forms:
            seen: Given | None = given.get(id(form.module))
            if seen is None:
                return f"{path} is not called when the model runs"
            said = wrong(form.module, form.apply, form.undo, seen)
            if said is not None:
                return f"{path} with it {said}" if said.startswith(("fails", "returns")) else f"{path}: {said}"
        for path, form in forms:
            form.apply()
            self.forms.append(form)
            self.changed.append(Change(path, type(form.module).__name__, verified.candidate or "", finding.code))
        return None

    def _live_inputs(self) -> Sequence[Any]:
        """What was given, else tensors of the recorded sizes."""
        if self._inputs is None:
            self._inputs = _recorded_inputs(self._source, self._model)
        return self._inputs


def _same(path: str, pattern: str) -> bool:
    """Whether a module's path is the finding's, in which * stands for one part of any value."""
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _inside(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.")


def _device_name(model: Any) -> str:
    from probe.verify.bench import bench

    first = next(model.parameters(), None)
    return bench(str(first.device) if first is not None else "cpu").name


def _recorded_inputs(source: RunSource, model: Any) -> list[Any]:
    """Random tensors of the sizes that the model's graph was recorded with. Raises InputError without a graph."""
    import torch

    from probe.readers import module_graph

    name = source.run.main.graph
    remedy = "give inputs: probe.replace(model, run, inputs=(x,))"
    if name is None:
        raise InputError(f"{source.run.path}: the model's inputs were not recorded; {remedy}")
    try:
        calls = module_graph.read(source.run.path / name).calls
    except ProbeError as error:
        raise InputError(f"{error}; {remedy}") from None
    described = [_TENSOR.fullmatch(text) for text in calls[0].inputs] if calls else []
    if not described or not all(described):
        raise InputError(f"{source.run.path}: the model takes more than tensors; {remedy}")
    first = next(model.parameters(), torch.empty(0))
    return [_drawn(one.group(1), one.group(2), first.device) for one in described if one is not None]


def _drawn(dtype: str, dims: str, device: Any) -> Any:
    import torch

    size, kind = [int(n) for n in dims.split(",") if n.strip()], getattr(torch, dtype)
    if kind.is_floating_point:
        return torch.randn(size, device=device).to(kind)
    return torch.randint(0, MOST_ID, size, device=device).to(kind)
