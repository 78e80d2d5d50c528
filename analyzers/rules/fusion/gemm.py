"""F02, F14: biases, activations and dropout in passes of their own after a matrix product."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from math import prod

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion.norm_patterns import is_array, is_vector
from probe.analyzers.rules.matching.by_hand import by_a_number
from probe.analyzers.rules.matching.continued import forward, taken
from probe.analyzers.rules.matching.ledger import (
    Account,
    array_bytes,
    as_recorded_s,
    element,
    ledger_of,
    scalars,
    spelled,
)
from probe.analyzers.rules.matching.patterns import op, through, value
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.search import matches
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.units import format_fraction, format_time

ACTIVATIONS = "gelu relu silu tanh sigmoid leaky_relu elu hardswish mish softplus hardtanh clamp_min threshold"
PRODUCTS = "mm addmm bmm baddbmm convolution"
LEAST_OF_PRODUCT = 0.05  # of the product's time: what an epilogue must cost to be worth another product
VECTOR = value(test=is_vector)


def _drops(unit: Unit) -> bool:
    """Whether a dropout drops anything: not in evaluation."""
    return unit.name == "native_dropout" or scalars(unit)[2:3] != ("False",)


def _is_wider(unit: Unit) -> bool:
    """Whether one array is repeated to be added to the other, as it is."""
    return len({prod(size) for size in unit.dims[:2]}) == 2 and _adds_once(unit)


def _of_one_size(unit: Unit) -> bool:
    return len(set(unit.dims[:2])) == 1


def _adds_once(unit: Unit) -> bool:
    """Whether an addition has no factor of its own, as far as it was recorded."""
    return scalars(unit)[2:3] in ((), ("",), ("1",), ("1.",), ("1.0",))


BIASED = op("add", value("x", is_array), VECTOR, name="add")
PRODUCT = op("mm", name="product") | op("bmm", test=lambda unit: unit.size[:1] == (1,), name="product")  # einsum's
BIASED_PRODUCT = op("add", through("mul div", PRODUCT, most=1), VECTOR, test=_adds_once, name="add")
BIASED_BATCH = op(
    "add",
    op("bmm", name="product"),
    value(test=is_array),
    test=lambda unit: _is_wider(unit) and _adds_once(unit),
    name="add",
)
SCALED = op("mul", PRODUCT, test=by_a_number, name="scaled")
ADDED = op("add", SCALED, value(test=is_array), test=_of_one_size, name="add")
DROPPED = op("dropout native_dropout", op(ACTIVATIONS, BIASED | op(PRODUCTS, name="product")), test=_drops)
ACTIVATED = op(ACTIVATIONS, BIASED_PRODUCT, name="activation") | op(ACTIVATIONS, BIASED, name="activation")
EPILOGUE = op(ACTIVATIONS, op("addmm mm", name="product"), name="activation")

LINEAR = "F.linear(x, weight, bias)  # weight is [out, in]; for x @ w + b torch.addmm(b, x, w), x of two dimensions"
BATCHED = "torch.baddbmm(b, x, w)  # b is [batch, 1, out]"

DROPOUTS = frozenset({"dropout", "native_dropout"})

Key = tuple[tuple[int, ...], tuple[str, ...]]


def activations(context: Context) -> Iterator[Match]:
    """F02: bias, activation and dropout that one pass could do; one match per size and spelling."""
    ledger = ledger_of(context)
    for (size, names), account in ledger.accounts(_dropped(context), _key):
        yield _one_pass(context, size, names, account, known=context.trace.on_device or not account.trained)
    closed = taken(context)
    found = [p for flow in context.flows for p in matches(flow, ACTIVATED) if not closed[_last(p).row]]
    after = [p for p in found if p.named["add"].row in context.claimed]  # by F14
    apart = [p for p in found if not context.claimed.intersection(unit.row for unit in p.units)]
    for (size, names), account in ledger.accounts(map(_without_product, apart), _key):
        yield _one_pass(context, size, names, account)
    for (size, names), account in ledger.accounts(map(_activation_only, after), _key):
        yield _after_biased_product(context, size, names, account)


def _dropped(context: Context) -> Iterator[Place]:
    """Activations with dropout, and the bias before them where it is added apart.

    On a CPU dropout stays outside: compiled code draws its random numbers one by one, several times slower.
    """
    places = map(_without_product, forward(context, DROPPED))
    if context.trace.on_device:
        return places
    kept = (replace(p, units=tuple(u for u in p.units if u.name not in DROPOUTS)) for p in places)
    return (p for p in kept if len(p.units) > 1)


def _last(place: Place) -> Unit:
    return place.named["activation"]


def _without_product(place: Place) -> Place:
    product = place.named.get("product")
    return replace(place, units=tuple(unit for unit in place.units if unit is not product))


def _activation_only(place: Place) -> Place:
    return replace(place, units=(place.named["activation"],))


def _key(place: Place) -> Key:
    return place.units[-1].size, tuple(unit.name for unit in place.units)


def _one_pass(
    context: Context, size: tuple[int, ...], names: tuple[str, ...], account: Account, *, known: bool = True
) -> Match:
    """Bias, activation and dropout as one; known: whether that is quicker, as it is not beside dropout on a CPU."""
    unit = account.places[0].units[-1]
    array, calls = array_bytes(unit), account.calls
    return Match(
        rows=account.rows,
        ops=account.ops,
        key="-".join(names) + "-" + "x".join(map(str, size)),
        summary=(
            f"{_words(names)} over {list(size)}, {times(calls)}, are {len(names)} passes "
            f"{'and as many backward ' if account.trained else ''}that take {format_time(account.seconds)}"
        ),
        evidence=(
            spelled(names),
            f"{list(size)}, {element(unit).name}",
            *(
                (f"{format_time(account.arithmetic_s)} of it is arithmetic or random numbers, which stay",)
                if account.arithmetic_s > 0.1 * account.seconds
                else ()
            ),
        ),
        saving_s=as_recorded_s(context, account.saving_s(array * (5.25 if account.trained else 2.0)))
        if known
        else None,  # x → y, mask; dy, x, mask → dx
        where=times(calls),
        replacement="torch.compile of the function",
        how="block = torch.compile(block)  # holds bias, activation and dropout"
        if context.trace.on_device
        else "block = torch.compile(block)  # holds bias and activation; dropout stays outside, on a CPU",
        tier=account.tier,
    )


def _words(names: tuple[str, ...]) -> str:
    plain = {"add": "bias", "native_dropout": "dropout"}
    words = [plain.get(name, name) for name in names if name not in ("to_copy", "copy", "clone")]
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _after_biased_product(context: Context, size: tuple[int, ...], names: tuple[str, ...], account: Account) -> Match:
    """What is left after F14 has taken the bias: an activation that only the product itself could do."""
    return Match(
        rows=account.rows,
        ops=account.ops,
        key="-".join(names) + "-" + "x".join(map(str, size)),
        summary=(
            f"{names[0]} over {list(size)}, {times(account.calls)}, takes {format_time(account.seconds)} in a pass of "
            f"its own after product and bias; a compiler can do all of it as the product's last step"
        ),
        evidence=(f"mm → add → {names[0]}",),
        saving_s=None,
        where=times(account.calls),
        replacement="torch.compile with max-autotune",
        how='layer = torch.compile(layer, mode="max-autotune")  # products with their epilogues',
        tier=account.tier,
    )


def epilogues(context: Context) -> Iterator[Match]:
    """F14: a bias or a factor in a pass of its own; on a device also an activation after the product."""
    biases: dict[tuple[int, ...], list[Place]] = defaultdict(list)
    with_dropout = {p.named["add"].row for p in _dropped(context) if "add" in p.named and _may_be_one(context, p)}
    for place in forward(context, BIASED_PRODUCT):
        if place.named["add"].row in with_dropout:
            continue  # F02's
        biases[place.named["add"].size].append(place)
    for place in forward(context, BIASED_BATCH):
        if _fits(place):
            biases[place.named["add"].size].append(place)
    for size, same in biases.items():
        yield _bias(context, size, same)
    factors: dict[tuple[int, ...], list[Place]] = defaultdict(list)
    for place in forward(context, ADDED):
        factors[place.named["add"].size].append(place)
    for size, same in factors.items():
        yield _factor(context, size, same)
    alike: dict[Key, list[Place]] = defaultdict(list)
    for place in forward(context, EPILOGUE) if context.trace.on_device else ():
        alike[_key(_activation_only(place))].append(place)
    for key, same in alike.items():
        yield from _activation(context, key, same)


def _may_be_one(context: Context, place: Place) -> bool:
    """Whether bias, activation and dropout are better in one pass than the bias in the product.

    On a CPU they are not in training, where compiled code has to stop at the dropout, backward as well.
    """
    return context.trace.on_device or not context.backward_rows([unit.row for unit in place.units])


def _fits(place: Place) -> bool:
    """Whether what is added is a bias: as wide as the result of an einsum, in its last dimensions; one for each batch.

    A bias of one dimension is recognised by that.
    """
    product, added = place.named["product"], place.named["add"]
    if [len(size) for size in product.dims[:2]] != [3, 3]:
        return False
    (batch, _, _), (_, _, width) = product.dims[:2]
    bias = min(added.dims[:2], key=prod)
    if batch > 1:
        return bias == (batch, 1, width)
    return prod(bias) == width and added.size[-len(bias) :] == bias


def _bias(context: Context, size: tuple[int, ...], same: list[Place]) -> Match:
    """The bias of products of one size: addmm adds it on the way."""
    batched = same[0].named["product"].size[:-2] not in ((), (1,))
    rows = [place.named["add"].row for place in same]
    seconds, calls = ledger_of(context).seconds(rows), len(same) / len(context.steps)
    of_products = ledger_of(context).seconds([place.named["product"].row for place in same])
    return Match(
        rows=tuple(rows),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="bias-" + "x".join(map(str, size)),
        summary=(
            f"the bias of {calls:.0f} product{'s' * (calls > 1)} over {list(size)} per step is added in a pass of its "
            f"own: {format_time(seconds)} beside {format_time(of_products)} for the products"
        ),
        evidence=(spelled([unit.name for unit in same[0].units]), "addmm adds a bias while it writes the product"),
        saving_s=as_recorded_s(context, seconds),
        where=times(calls),
        replacement="torch.baddbmm" if batched else "torch.nn.functional.linear",
        how=BATCHED if batched else LINEAR,
        tier=same[0].tier,
    )


def _factor(context: Context, size: tuple[int, ...], same: list[Place]) -> Match:
    """A number that multiplies products of one size before they are added to something: addmm does both."""
    scaled = [place.named["scaled"].row for place in same]
    rows = [*scaled, *context.backward_rows(scaled)]
    seconds, calls = ledger_of(context).seconds(rows), len(same) / len(context.steps)
    return Match(
        rows=tuple(rows),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in scaled})),
        key="factor-" + "x".join(map(str, size)),
        summary=(
            f"{calls:.0f} product{'s' * (calls > 1)} over {list(size)} per step {'are' if calls > 1 else 'is'} "
            f"multiplied by a number in a pass of its own before something is added: {format_time(seconds)}"
        ),
        evidence=(spelled([unit.name for unit in same[0].units]), "addmm multiplies and adds while it writes"),
        saving_s=as_recorded_s(context, seconds),
        where=times(calls),
        replacement="torch.addmm",
        how="torch.addmm(y, x, w, alpha=scale)  # for y + scale * (x @ w), x and y of two dimensions",
        tier=same[0].tier,
    )


def _activation(context: Context, key: Key, same: list[Place]) -> Iterator[Match]:
    """The activation after products of one size, where it takes enough beside them."""
    rows = [place.named["activation"].row for place in same]
    seconds, calls = ledger_of(context).seconds(rows), len(same) / len(context.steps)
    of_products = ledger_of(context).seconds([place.named["product"].row for place in same])
    if not of_products or seconds < LEAST_OF_PRODUCT * of_products:
        return
    yield Match(
        rows=tuple(rows),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key=f"{key[1][0]}-" + "x".join(map(str, key[0])),
        summary=(
            f"{key[1][0]} over {list(key[0])} after {calls:.0f} product{'s' * (calls > 1)} per step takes "
            f"{format_time(seconds)}, {format_fraction(seconds / of_products)} of the products that wrote it"
        ),
        evidence=(spelled([unit.name for unit in same[0].units]),),
        saving_s=as_recorded_s(context, seconds),
        where=times(calls),
        replacement="torch.compile with max-autotune",
        how='layer = torch.compile(layer, mode="max-autotune")  # its products apply the activation as they write',
        tier=same[0].tier,
    )


RULES = (
    Rule(
        "F14", "gemm-epilogue", "what a matrix product could do itself comes in a pass after it", epilogues,
        trigger="a bias added to what mm, bmm or einsum wrote, or a number that multiplies it before a sum; on a GPU "
        "an activation of 5 % of its product's time or more",
        advice="let the product add the bias (addmm, F.linear, baddbmm), and a compiler the activation",
        saving="the time of the pass",
        cannot_show="whether the compiler's product is as fast as the library's",
        proof="replay", effort="line", needs=("shapes",),
        example=Example("y = x @ w + b", "y = F.linear(x, w.T, b)"),
    ),
    Rule(
        "F02", "bias-activation-dropout", "bias, activation and dropout in passes of their own", activations,
        trigger="a bias added apart, an activation and a dropout that read one another",
        advice="compile the function that holds them",
        saving="of their time without arithmetic, the share of the bytes that one pass need not move",
        cannot_show="whether a product before them could apply them itself",
        proof="replay", needs=("shapes",),
        example=Example("y = F.dropout(F.gelu(x @ w + b), 0.1)", "@torch.compile\ndef feed(x): ...  # holds all three"),
    ),
)  # fmt: skip
