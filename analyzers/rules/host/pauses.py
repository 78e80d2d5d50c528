"""H09, H10, H15: Python runs, or waits for something, while neither the device nor an operator works."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from probe.analyzers.classify import PYTHON_DISPATCHES
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.host.full_queue import queue_is_full
from probe.analyzers.rules.host.gaps import HostTime, host_time, stepping_threads
from probe.analyzers.rules.host.waits import waits
from probe.analyzers.rules.matching.claims import touched
from probe.analyzers.rules.matching.flow import result_size
from probe.analyzers.rules.matching.ledger import element
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.threads import main_thread
from probe.intervals import Intervals, length_before, union
from probe.trace import Int64s, Mask
from probe.units import format_fraction, format_time

PYTHON_FRACTION = 0.15  # of the step
# Of a loop in Python that operators on whole tensors take in its place, at the most: a sine takes some 10 ns for an
# element, a line of Python for it 50 or more.
VECTORISED = 0.2
LOOP = 8  # pauses between operators of the same names per step, at the least, that are those of a loop
PYTHON_S = 0.5e-3  # a step loses as much to the machine, and nobody would look for it
ENGINE = "autograd::engine"
OPTIMIZER = "Optimizer."  # with which torch.optim's own marks begin

ENDING_FRACTION = 0.1  # of the step, after its last operator
ENDING_S = 0.5e-3  # less is what freeing a step's small tensors takes
LAST = 8  # units whose results may be alive until the step ends
MAPPED_BYTES = 128 << 10  # from this size on an array's memory goes back to the system when it is freed
FREED_BYTES_PER_S = 5e9  # at which it does: measured 5 to 10 GB/s
RARE_S = 5e-3  # a pause in some of the recorded steps alone must be longer, or it is the machine's
ALONE_S = 10e-3  # one in a single step
RARE_FRACTION = 0.3  # of the median step
STATE_DICT = 4  # so many detach() in a row before a pause are a state_dict()

SWITCH_S = (4.5e-3, 6.5e-3)  # Python gives up its lock to a waiting thread after 5 ms (sys.getswitchinterval)
SWITCHES = 3  # per step


def between_steps(context: Context) -> Iterator[Match]:
    """H15: after its last operator the step goes on for long: a checkpoint, logging, evaluation in Python."""
    if len(context.steps) < 2:  # the only one ends with the recording
        return
    time = host_time(context)
    ending = _ending(context, time)
    seconds = _ending_s(context, time, ending)
    rare_s = _rare_s(context, time, ending)
    if not _long_ending(context, seconds) and not rare_s:
        return
    what, how = _what_ends_it(context, time, ending)
    often = "every step" if not rare_s else "one of the recorded steps"
    spent_s = rare_s or seconds
    yield Match(
        rows=(),
        ops=(),
        key="rare" if rare_s else "",
        summary=(
            f"{often} goes on for {format_time(spent_s * (len(context.steps) if rare_s else 1))} after its last "
            f"operator: {format_fraction(spent_s / context.step_s)} of the time, in which nothing is computed"
        ),
        evidence=(what,),
        saving_s=spent_s,
        where="between the last operator of a step and the next step",
        replacement="do it every N steps, or in another thread or process",
        how=how,
    )


def _long_ending(context: Context, seconds: float) -> bool:
    return seconds >= max(ENDING_FRACTION * context.step_s, ENDING_S)


def _ending(context: Context, time: HostTime) -> Mask:
    """The pauses with which steps end."""
    return (time.gaps.after < 0) & (time.gaps.before >= 0)


def _ending_s(context: Context, time: HostTime, ending: Mask) -> float:
    """What they take in the typical step, without freeing what the last operators made."""
    return max(time.bare_s(time.typical_s(time.gaps.duration_ns * ending)) - _freeing_s(context), 0.0)


def _freeing_s(context: Context) -> float:
    """What a CPU takes in a typical step to free the large results of the last operators."""
    if context.trace.on_device:
        return 0.0
    names, ops = context.trace.names, context.trace.host_ops
    freed: dict[int, int] = {}
    for run in context.runs:
        if run and int(ops.thread[run[0].row]) == main_thread(context.trace):
            made = [unit for unit in run[-LAST:] if not names[ops.name[unit.row]].endswith("_")]
            sizes = [prod(result_size(unit) or ()) * element(unit).itemsize for unit in made]
            step = int(context.groups.step_of_op[run[0].row])
            freed[step] = sum(size for size in sizes if size >= MAPPED_BYTES)
    return float(np.median(list(freed.values()))) / FREED_BYTES_PER_S if freed else 0.0


def _rare_s(context: Context, time: HostTime, ending: Mask) -> float:
    """What a long pause that ends some of the steps only takes per step; 0 where there is none."""
    spent = time.gaps.duration_ns / 1e9
    longest = max(RARE_S, RARE_FRACTION * float(np.median(context.steps.duration_ns)) / 1e9)
    steps = len(context.steps)
    rare = ending & (spent > longest) & (time.gaps.step < steps - 1)  # the last step ends with the recording
    if int(rare.sum()) == 1:
        rare &= spent > ALONE_S
    if not 0 < int(rare.sum()) <= steps / 2 or _long_ending(context, _ending_s(context, time, ending)):
        return 0.0
    return time.bare_s(float(spent[rare].sum()) / steps)


def _what_ends_it(context: Context, time: HostTime, ending: Mask) -> tuple[str, str]:
    """What the operators before the longest such pause tell of it, and one line to change."""
    ops, names = context.trace.host_ops, context.trace.names
    longest = np.flatnonzero(ending)[np.argmax(time.gaps.duration_ns[ending])]
    row = int(time.gaps.before[longest])
    tops = np.flatnonzero((ops.parent < 0) & (ops.thread == ops.thread[row]) & (ops.start_ns <= ops.start_ns[row]))
    last = [names[name] for name in ops.name[tops[-STATE_DICT:]].tolist()]
    if last == ["aten::detach"] * STATE_DICT:
        how = "torch.distributed.checkpoint.async_save(…)  # or torch.save(…) every N steps only"
        return "it begins with a state_dict(): a checkpoint", how
    if last and last[-1] in ("aten::item", "aten::_local_scalar_dense", "aten::is_nonzero"):
        return "it begins with .item(): logging", "if step % 100 == 0: log(loss.item())"
    how = "if step % 100 == 0: …  # or hand it to concurrent.futures.ThreadPoolExecutor(1)"
    return f"the last operator is {last[-1] if last else 'not known'}", how


def python(context: Context) -> Iterator[Match]:
    """H09: Python, or what it calls outside torch, for 15 % of the step or more, at the same places in every step."""
    if queue_is_full(context):
        return
    time = host_time(context)
    ending = _ending(context, time)
    own = _own_ns(context, time) * ~_switches(context, time)
    inside_s, ending_s = time.bare_s(time.typical_s(own * ~ending)), time.bare_s(time.typical_s(own * ending))
    ending_s -= min(_freeing_s(context), ending_s) if ending_s > ENDING_S else 0.0
    total_s = inside_s + ending_s
    if total_s < max(PYTHON_FRACTION * context.step_s, PYTHON_S):
        return
    sites = time.by_site(own)
    stays_s = VECTORISED * time.bare_s(time.typical_s(own * (time.gaps.before >= 0) * ~ending))
    left_s = inside_s if _long_ending(context, ending_s) else total_s  # H15 has a long ending
    yield Match(
        rows=(),
        ops=(),
        summary=(
            f"Python, or what it calls outside torch, runs for {format_time(total_s)} per step between operators, "
            f"{format_fraction(total_s / context.step_s)} of the step, and nothing else works meanwhile"
        ),
        evidence=(
            *(f"{format_time(time.bare_s(seconds))} {time.between(row)}" for row, seconds in sites[:4]),
            *((f"what replaces it is counted with {format_time(stays_s)}",) if stays_s > 0 else ()),
        ),
        saving_s=left_s - stays_s if left_s >= PYTHON_FRACTION * context.step_s else None,
        where=time.between(sites[0][0]),
        replacement="operators on whole tensors, or work outside the training process",
        how=_advice(context, time, sites[0][0]),
    )


def _advice(context: Context, time: HostTime, row: int) -> str:
    """One line for the longest pause."""
    if int(time.gaps.before[row]) < 0 and (len(time.loading) or context.data_wait_s):
        return "DataLoader(…, num_workers=4)  # if it prepares the batch: in worker processes, ahead of time"
    if context.trace.on_device:
        return "step = torch.compile(step)  # if it is the model's own code; else vectorise it, or do it less often"
    return "# vectorise it with torch or numpy, do it every N steps, or in another process"


def _own_ns(context: Context, time: HostTime) -> Int64s:
    """What of each pause is Python's own, [gaps].

    Not its own are pauses inside an optimizer, in a loop that is a finding already, and after a wait for the device:
    without it the queue would not have run dry; nor how long backward() takes to begin, a measured wait for data
    before the first operator, and what torch.tensor(list) does before it allocates: about as long as it then fills.
    """
    gaps = time.gaps
    taken = np.append(touched(context), False)
    filling = _named(context, "aten::empty") & taken
    own = gaps.duration_ns * ~(filling[gaps.before] | _inside(gaps.start_ns, _optimizer(context)))
    if len(context.steps) == 1:  # it ends with the recording
        own *= gaps.after >= 0
    own *= ~(_named(context, "aten::ones_like")[gaps.before] & _named(context, ENGINE)[gaps.after])
    if context.trace.on_device:
        own *= ~_inside(gaps.start_ns, waits(context).stalls())
    else:  # where pauses between operators are short, H01 speaks of them
        looping = np.bincount(time.sites)[time.sites] >= LOOP * len(context.steps) if len(gaps) else gaps.before > 0
        own *= ~(looping & taken[gaps.before] & taken[gaps.after])
        own *= own > int(PYTHON_DISPATCHES * context.machine.dispatch_s * 1e9)
    if not len(time.loading):
        own -= np.where(gaps.before < 0, int((context.data_wait_s or 0.0) * 1e9), 0)
    allocating = np.flatnonzero(filling[gaps.after[:-1]] & (gaps.after[:-1] == gaps.before[1:]))
    own[allocating] -= gaps.duration_ns[allocating + 1]
    return np.asarray(np.maximum(own, 0), np.int64)


def _named(context: Context, start: str) -> Mask:
    """Operators whose names begin so, and False for row -1, [ops + 1]."""
    return np.append(context.trace.named(lambda name: name.startswith(start))[context.trace.host_ops.name], False)


def _optimizer(context: Context) -> Intervals:
    """When torch's optimizers run: what their Python costs is for the rules of optimizers to say."""
    trace = context.trace
    named = trace.named(lambda name: name.startswith(OPTIMIZER))
    marks, ops = trace.annotations, trace.host_ops
    return union(
        np.append(marks.start_ns[named[marks.name]], ops.start_ns[named[ops.name]]),
        np.append(marks.end_ns[named[marks.name]], ops.end_ns[named[ops.name]]),
    )


def _inside(instants: Int64s, a: Intervals) -> Mask:
    return length_before(a, instants + 1) > length_before(a, instants)


def other_threads(context: Context) -> Iterator[Match]:
    """H10: pauses as long as Python's switch interval, or while other threads run operators."""
    time = host_time(context)
    switching, helped = _switches(context, time), _others_busy(context, time)
    seconds = time.bare_s(float(time.gaps.duration_ns[switching | helped].sum()) / 1e9 / len(context.steps))
    if seconds < PYTHON_FRACTION * context.step_s:
        return
    count = int(switching.sum()) / len(context.steps)
    told = (f"pauses of about 5 ms, Python's switch interval, {times(count)}",) if switching.any() else ()
    busy = ("other threads run operators during the pauses",) if helped.any() else ()
    yield Match(
        rows=(),
        ops=(),
        summary=f"the step waits {format_time(seconds)} for other Python threads, which hold the interpreter's lock",
        evidence=(*told, *busy),
        saving_s=seconds,
        where=time.between(int(np.flatnonzero(switching | helped)[0])),
        replacement="a process in place of the thread",
        how="concurrent.futures.ProcessPoolExecutor()  # in place of threading.Thread",
    )


def _switches(context: Context, time: HostTime) -> Mask:
    """Pauses of Python's switch interval, where they follow several kinds of operators; else none."""
    seconds = time.gaps.duration_ns / 1e9
    found: Mask = (seconds >= SWITCH_S[0]) & (seconds <= SWITCH_S[1])
    several = len(np.unique(time.sites[found])) >= SWITCHES and int(found.sum()) >= SWITCHES * len(context.steps)
    return found if several else np.zeros(len(found), bool)


def _others_busy(context: Context, time: HostTime) -> Mask:
    """Pauses that are mostly covered by operators of threads that do not feed the step."""
    ops = context.trace.host_ops
    others = (ops.parent < 0) & ~np.isin(ops.thread, stepping_threads(context.trace))
    busy = union(ops.start_ns[others], ops.end_ns[others])
    covered = length_before(busy, time.gaps.end_ns) - length_before(busy, time.gaps.start_ns)
    mostly: Mask = 2 * covered > time.gaps.duration_ns
    return mostly


RULES = (
    Rule(
        "H15", "pause-between-steps", "the step goes on after its last operator", between_steps,
        trigger="10 % of the step after its last operator, or a pause there of 5 ms or more in some of the steps",
        advice="save, log and evaluate every N steps, or in another thread or process",
        saving="the pause, without what freeing the last results takes on a CPU",
        cannot_show="what runs in it: record stacks=True, or name it with probe.annotate",
        proof="arithmetic", effort="function", about="host", shares=True,
        example=Example(
            "torch.save(model.state_dict(), path)",
            "if step % 1000 == 0:\n    torch.save(model.state_dict(), path)",
        ),
    ),
    Rule(
        "H10", "other-threads", "other Python threads hold the interpreter's lock", other_threads,
        trigger="three pauses of about 5 ms per step after different operators, or operators of other threads in them",
        advice="move what other threads do into a process",
        saving="the pauses",
        cannot_show="threads that run no operators: only the lock's rhythm tells of them",
        proof="arithmetic", effort="function", about="host", shares=True, preview=True,
        example=Example("threading.Thread(target=tokenize)", "multiprocessing.Process(target=tokenize)"),
    ),
    Rule(
        "H09", "python-overhead", "Python runs between operators", python,
        trigger="15 % of the step in pauses longer than dispatching explains, at the same places in every step, "
        "outside the data loader, the optimizer and other findings",
        advice="vectorise it, do it less often, or in worker processes; torch.compile where it is the model's code",
        saving="the pauses; of those between operators four fifths, as what replaces them takes time too",
        cannot_show="which lines run in them: record stacks=True, or name them with probe.annotate",
        proof="module", effort="function", about="host", shares=True,
        example=Example("scores = [score(row) for row in batch.numpy()]", "scores = score(batch)"),
    ),
)  # fmt: skip
