"""What `probe whatif` is asked, as it was typed, made into a question about the operators of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from probe.analyzers.projection.fusion import Chain
from probe.analyzers.projection.layout import Layout, Model
from probe.analyzers.projection.question import Question, Replacement
from probe.errors import UsageError
from probe.results.analysis import Analysis

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_TOLD = re.compile(r"(?P<number>[0-9.]+(?:e-?[0-9]+)?) *(?P<unit>x|×|s|ms|us|µs|ns)", re.IGNORECASE)


@dataclass(frozen=True)
class Wish:
    """What is asked for, as it was typed."""

    onto: tuple[str, ...] = ()
    roof: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    dtype: str | None = None
    batch: float | None = None
    batch_size: int | None = None
    layout: Layout | None = None
    model: Model = field(default_factory=Model)
    link: str | None = None
    network: str | None = None
    price: float | None = None
    ceilings: str | None = None
    replace: tuple[str, ...] = ()
    fuse: tuple[str, ...] = ()
    graph: bool = False

    @property
    def needs_shapes(self) -> bool:
        """Whether the answer rests on the work of operators."""
        return bool(self.onto or self.dtype or self.batch is not None or self.fuse or self.roof)


def question_of(analysis: Analysis, wish: Wish, *, on_device: bool) -> Question:
    """The question. Raises UsageError, in one line, for what cannot be asked of this run."""
    if wish.graph and not on_device:
        raise UsageError(
            f"--graph: {analysis.source.path} was recorded on a CPU, which launches nothing; record on a GPU"
        )
    roof, remove = _all(analysis, "--roof", wish.roof), _all(analysis, "--remove", wish.remove)
    replaced = _replacements(analysis, wish.replace)
    for index in (roof & remove) | ((roof | remove) & set(replaced)):
        raise UsageError(f"operator {index} ({analysis.ops[index].name}): ask one of --roof, --remove and --replace")
    chains = tuple(_chain(analysis, text) for text in wish.fuse)
    return Question(None, wish.dtype, _batch(wish), roof, remove, replaced, chains, wish.graph)


def operators(analysis: Analysis, option: str, name: str) -> frozenset[int]:
    """Indices by `ops[].index`, or of every operator of that name. Raises UsageError where there is none."""
    found = frozenset(op.index for op in analysis.ops if str(op.index) == name or op.name == name)
    if not found:
        raise UsageError(f"{option} {name}: no operator of that index or name; `probe analyze` lists them")
    return found


def _all(analysis: Analysis, option: str, names: Iterable[str]) -> frozenset[int]:
    return frozenset().union(*(operators(analysis, option, name) for name in names))


def _chain(analysis: Analysis, text: str) -> Chain:
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or not all(names):
        raise UsageError(f"--fuse {text}: name two operators or more, in their order, as in --fuse aten::mul,aten::add")
    return Chain(text, tuple(operators(analysis, "--fuse", name) for name in names))


def _replacements(analysis: Analysis, texts: Sequence[str]) -> dict[int, Replacement]:
    found: dict[int, Replacement] = {}
    for text in texts:
        name, _, told = text.rpartition("=")
        for index in operators(analysis, "--replace", name) if name else (-1,):
            found[index] = _replacement(text, told if name else "")
    return found


def _replacement(text: str, told: str) -> Replacement:
    match = _TOLD.fullmatch(told.strip())
    try:
        number = float(match["number"]) if match is not None else math.nan
    except ValueError:
        number = math.nan
    if match is None or not (math.isfinite(number) and number > 0):
        raise UsageError(
            f"--replace {text}: say how many times as fast, or how long one call takes: aten::softmax=2x, 7=120us"
        )
    unit = match["unit"].lower()
    return Replacement(speedup=number) if unit in "x×" else Replacement(call_s=number * SECONDS[unit])


def _batch(wish: Wish) -> tuple[float, int] | None:
    if wish.batch is None:
        return None
    if not (math.isfinite(wish.batch) and wish.batch > 0):
        raise UsageError(f"--batch {wish.batch:g}: give a factor above 0, such as 2")
    if wish.batch_size is None:
        raise UsageError("--batch: a trace does not say which size is the batch's; give --batch-size as recorded")
    return wish.batch, wish.batch_size
