"""Write docs/api.md again: what Python programs may call, from the signatures and docstrings.

Usage: python docs/api.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "api.md"
HEAD = """# Python

What a program may call. `import probe` is quick and imports neither torch nor dash; each name brings what it needs when
it is first used. A mistake of the caller's raises an error of `probe.errors`, whose message says what, where and what
to do. Inside the block of `probe.profile` nothing of probe's own is ever raised. Callbacks for libraries that own the
loop, TensorBoard and W&B: [programs](programs.md).

Every result has `.to_json()` (plain dicts and lists, the object that `--json` prints), `.to_pandas()`, prints as the
report of its command, and shows itself in a notebook.

This page is written by `python docs/api.py`.
"""
# Group → what it holds: "module:name" of a function or of a class; with a star its public methods, too.
GROUPS = {
    "Recording": ("probe.session.session:profile", "probe.session.session:Session*", "probe.session.requests:Request*",
                  "probe.session.annotation:annotate", "probe.session.annotation:annotate_modules"),
    "Analysing": ("probe.api:analyze", "probe.api:load", "probe.api:load_tensors", "probe.api:roofline",
                  "probe.examine.sides:compare", "probe.api:register_cost"),
    "Changing": ("probe.api:verify", "probe.api:step_effect", "probe.changes.replacing:replace"),
    "Results": ("probe.results.analysis:Analysis*", "probe.results.analysis:Operator", "probe.results.findings:Finding",
                "probe.results.findings:Verified", "probe.machine.device:Ceilings*", "probe.trace:Trace*",
                "probe.trace:HostOps", "probe.trace:DeviceWork*", "probe.trace:Signature"),
    "Errors": ("probe.errors:ProbeError", "probe.errors:UsageError", "probe.errors:InputError",
               "probe.errors:UnavailableError"),
}  # fmt: skip
SHORT = {"probe.session.session", "probe.session.annotation", "probe.changes.replacing", "probe.examine.sides"}
INNER = {"process_exits", "process_forked", "add_wait"}  # for other parts of probe
OF_API = {"analyze", "load", "load_tensors", "roofline", "register_cost"}


def render() -> str:
    """The whole page."""
    return (
        "\n".join([HEAD, *(line for group, names in GROUPS.items() for line in section(group, names))]).rstrip() + "\n"
    )


def section(group: str, names: tuple[str, ...]) -> Iterator[str]:
    """One group of names."""
    yield f"## {group}\n"
    for name in names:
        module, _, plain = name.rstrip("*").partition(":")
        yield from entry(getattr(import_module(module), plain), title(module, plain), whole=name.endswith("*"))


def title(module: str, name: str) -> str:
    """The name that a program uses: `probe.analyze`, where it is one of the package's own."""
    if name in ("Session", "Request"):
        return name
    if module in SHORT:
        return f"probe.{name}"
    return f"probe.{name}" if module == "probe.api" and name in OF_API else f"{module}.{name}"


def entry(thing: Any, name: str, *, whole: bool) -> Iterator[str]:
    """A function with its arguments, or a class with its fields and, where `whole`, its methods."""
    yield f"### {name}\n"
    if not inspect.isclass(thing):
        yield from call(thing, name.rpartition(".")[2])
        return
    yield from prose(thing.__doc__ or "")
    if dataclasses.is_dataclass(thing):
        yield from table(thing)
    for method, member in vars(thing).items() if whole else ():
        if (
            not method.startswith("_")
            and method not in INNER
            and (inspect.isfunction(member) or isinstance(member, property))
        ):
            yield from of_class(method, member)


def of_class(name: str, member: Any) -> Iterator[str]:
    """A method, or a property, in a paragraph of its own."""
    if isinstance(member, property):
        yield f"`{name}`\n:   {one_line(member.__doc__)}\n"
        return
    signature = signature_text(member, name)
    yield f"`{signature}`\n:   {one_line(member.__doc__)}\n"


def call(function: Callable[..., Any], name: str) -> Iterator[str]:
    """A function: its signature as code, what it does, its arguments as a list."""
    yield f"```python\n{broken('def ' + signature_text(function, name))}: ...\n```\n"
    yield from prose(inspect.getdoc(function) or "", set(inspect.signature(function).parameters))


def signature_text(function: Callable[..., Any], name: str) -> str:
    """Name and arguments with defaults; types stay in the source, where they do not push the names apart."""
    signature = inspect.signature(function)
    kept = [told(parameter) for parameter in signature.parameters.values() if parameter.name != "self"]
    text = f"{name}{signature.replace(parameters=kept, return_annotation=signature.empty)}"
    return re.sub(r"='([^'\"]*)'", r'="\1"', text.replace("=Ellipsis", "=..."))  # as formatters write text


def told(parameter: inspect.Parameter) -> inspect.Parameter:
    """An argument without its type; a function as default is an ellipsis."""
    default = ... if inspect.isfunction(parameter.default) else parameter.default
    return parameter.replace(annotation=parameter.empty, default=default)


def broken(line: str, width: int = 100) -> str:
    """A long signature over several lines."""
    if len(line) <= width:
        return line
    name, _, arguments = line.partition("(")
    return f"{name}(\n    " + re.sub(r", (?=\w+[=,)]|\*)", ",\n    ", arguments[:-1]) + ",\n)"


def prose(text: str, names: Collection[str] = ()) -> Iterator[str]:
    """A docstring as Markdown: paragraphs as they are, "name: what" of the arguments `names` as a list."""
    paragraph: list[str] = []
    for line in sentences(inspect.cleandoc(text), names):
        found = re.match(r"((?:\w+, )*\w+): (.*)$", line)
        if found and set(found[1].split(", ")) <= set(names):
            yield from ended(paragraph)
            paragraph = [f"`{found[1]}`\n:   {found[2]}"]
        elif line:
            paragraph.append(line)
        else:
            yield from ended(paragraph)
            paragraph = []
    yield from ended(paragraph)


def sentences(text: str, names: Collection[str]) -> list[str]:
    """The lines, with an argument that is explained in the middle of one on a line of its own."""
    known = "|".join(map(re.escape, names)) or "(?!)"
    return [line.strip() for line in re.sub(rf"(?<=\. )((?:(?:{known})(?:, |(?=: )))+: )", r"\n\1", text).splitlines()]


def ended(paragraph: list[str]) -> Iterator[str]:
    if paragraph:
        yield " ".join(paragraph) + "\n"


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def table(thing: type) -> Iterator[str]:
    """The fields of a dataclass, with the remark that stands behind each in the source."""
    remarks = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(thing), re.MULTILINE))
    yield "| field | |\n|---|---|"
    for field in dataclasses.fields(thing):
        yield f"| `{field.name}` | {remarks.get(field.name, '').replace('|', '&#124;')} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
