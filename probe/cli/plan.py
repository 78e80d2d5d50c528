"""`probe plan`: calculators for memory, KV cache, training time and cost, bandwidth, and what fits."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any, Optional

import typer

from probe.cli.options import AsJson, size_of
from probe.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Calculators: what fits, how long it takes, what it costs.")

Layers = Annotated[Optional[int], typer.Option("--layers", help="Transformer blocks.")]
Hidden = Annotated[Optional[int], typer.Option("--hidden", help="Width of the residual stream.")]
Heads = Annotated[Optional[int], typer.Option("--heads", help="Attention heads.")]
KeyValueHeads = Annotated[Optional[int], typer.Option("--key-value-heads", help="Fewer than heads for GQA.")]
Vocabulary = Annotated[Optional[int], typer.Option("--vocabulary", help="Different tokens.")]
Intermediate = Annotated[Optional[int], typer.Option("--intermediate", help="Feed-forward width; else 4 × hidden.")]
Gated = Annotated[bool, typer.Option("--gated", help="SwiGLU: three matrices.")]
Tied = Annotated[bool, typer.Option("--tied", help="The head is the embedding.")]
Experts = Annotated[int, typer.Option("--experts", help="Of a layer.")]
ExpertsAToken = Annotated[int, typer.Option("--experts-a-token", help="How many of them one token uses.")]
Batch = Annotated[int, typer.Option("--batch", help="Sequences of a device's micro-batch.")]
Sequence = Annotated[int, typer.Option("--sequence", help="Tokens of a sequence.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Element type: bfloat16, float16, float32, …")]
Mixed = Annotated[str, typer.Option("--mixed", help="amp, pure (with master weights) or none.")]
Optimizer = Annotated[str, typer.Option("--optimizer", help="adamw, adam, sgd, momentum, adafactor or lion.")]
Checkpointing = Annotated[bool, typer.Option("--checkpointing", help="Activations of each layer computed again.")]
Flash = Annotated[bool, typer.Option("--flash/--no-flash", help="Attention that keeps no score matrices.")]
Data = Annotated[int, typer.Option("--data", help="Data-parallel ranks.")]
Tensor = Annotated[int, typer.Option("--tensor", help="Ranks that share each layer.")]
Pipeline = Annotated[int, typer.Option("--pipeline", help="Stages of the pipeline.")]
Zero = Annotated[int, typer.Option("--zero", help="0 to 3; 3 is FSDP.")]
Device = Annotated[Optional[str], typer.Option("--device", help="Whose memory it must fit into: H200.")]
Memory = Annotated[Optional[str], typer.Option("--memory", help="The same as a size: 80GB.")]


@app.command("memory")
def memory(
    step: Annotated[
        Optional[str], typer.Option("--step", help="FILE.py:FUNCTION of any model; FUNCTION() returns a step.")
    ] = None,
    layers: Layers = None, hidden: Hidden = None, heads: Heads = None, vocabulary: Vocabulary = None,
    key_value_heads: KeyValueHeads = None, intermediate: Intermediate = None, gated: Gated = False, tied: Tied = False,
    experts: Experts = 1, experts_a_token: ExpertsAToken = 1, batch: Batch = 1, sequence: Sequence = 2048,
    dtype: Dtype = "bfloat16", mixed: Mixed = "amp", optimizer: Optimizer = "adamw",
    checkpointing: Checkpointing = False, flash: Flash = True, data: Data = 1, tensor: Tensor = 1,
    pipeline: Pipeline = 1, zero: Zero = 0, device: Device = None, memory: Memory = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Training memory by part: of a transformer by its sizes, or of any step by running it on tensors without data."""
    from probe.planning.memory import Training, training_memory

    if step is not None:
        from probe.planning.step_memory import step_memory

        with redirect_stdout(sys.stderr if as_json else sys.stdout):  # standard output is for the object
            found = step_memory(step)
        _show(found, as_json)
        return
    shape = _shape(
        layers, hidden, heads, vocabulary, key_value_heads, intermediate, gated, tied, experts, experts_a_token
    )
    how = Training(batch, sequence, dtype, mixed, optimizer, checkpointing, flash, data, tensor, pipeline, zero)
    _show(training_memory(shape, how, _capacity(device, memory)), as_json)


@app.command("fit")
def fit(
    layers: Layers = None, hidden: Hidden = None, heads: Heads = None, vocabulary: Vocabulary = None,
    key_value_heads: KeyValueHeads = None, intermediate: Intermediate = None, gated: Gated = False, tied: Tied = False,
    experts: Experts = 1, experts_a_token: ExpertsAToken = 1, batch: Batch = 1, sequence: Sequence = 2048,
    dtype: Dtype = "bfloat16", mixed: Mixed = "amp", optimizer: Optimizer = "adamw",
    checkpointing: Checkpointing = False, flash: Flash = True, data: Data = 1, tensor: Tensor = 1,
    pipeline: Pipeline = 1, zero: Zero = 0, device: Device = None, memory: Memory = None,
    usable: Annotated[float, typer.Option("--usable", help="Share of the memory that can be used.")] = 0.9,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """The largest batch and the longest context that fit into a device."""
    from probe.planning.fit import fit as largest
    from probe.planning.memory import Training

    capacity = _capacity(device, memory)
    if capacity is None:
        raise UsageError("say what it must fit into: --device H200, or --memory 80GB")
    shape = _shape(
        layers, hidden, heads, vocabulary, key_value_heads, intermediate, gated, tied, experts, experts_a_token
    )
    how = Training(batch, sequence, dtype, mixed, optimizer, checkpointing, flash, data, tensor, pipeline, zero)
    _show(largest(shape, how, capacity, usable=usable), as_json)


@app.command("kv-cache")
def kv_cache(
    layers: Annotated[int, typer.Option("--layers", help="Transformer blocks.")],
    context: Annotated[int, typer.Option("--context", help="Tokens of a sequence.")],
    batch: Annotated[int, typer.Option("--batch", help="Sequences in flight.")] = 1,
    heads: Heads = None,
    key_value_heads: KeyValueHeads = None,
    head_size: Annotated[Optional[int], typer.Option("--head-size", help="Width of one head.")] = None,
    latent: Annotated[Optional[int], typer.Option("--latent", help="MLA: width of the latent vector.")] = None,
    rope: Annotated[Optional[int], typer.Option("--rope", help="MLA: width of the rotary key.")] = None,
    parameters: Annotated[Optional[float], typer.Option("--parameters", help="Of the model: 7e9.")] = None,
    dtype: Dtype = "bfloat16",
    weight_dtype: Annotated[str, typer.Option("--weight-dtype", help="Element type of the weights.")] = "bfloat16",
    device: Device = None,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Inference memory: weights, and keys and values of MHA, GQA or MLA."""
    from probe.planning.kv_cache import kv_cache as cache

    _show(cache(
        layers=layers, context=context, batch=batch, dtype=dtype, heads=heads, key_value_heads=key_value_heads,
        head_size=head_size, latent=latent, rope=rope, parameters=parameters, weight_dtype=weight_dtype,
        capacity_bytes=_capacity(device, memory),
    ), as_json)  # fmt: skip


@app.command("training")
def training(
    parameters: Annotated[float, typer.Option("--parameters", help="That a token uses: 7e9.")],
    tokens: Annotated[float, typer.Option("--tokens", help="Of the whole training: 2e12.")],
    devices: Annotated[int, typer.Option("--devices", help="How many train together.")],
    device: Annotated[str, typer.Option("--device", help="H100 SXM, …")],
    dtype: Dtype = "bfloat16",
    mfu: Annotated[Optional[float], typer.Option("--mfu", help="0.4, or take it from --run.")] = None,
    run: Annotated[Optional[str], typer.Option("--run", help="A run or trace whose measured MFU is taken.")] = None,
    price: Annotated[Optional[float], typer.Option("--price", help="US dollars for an hour of one device.")] = None,
    failures: Annotated[
        Optional[float], typer.Option("--failures-per-device-day", help="0.0006 is one in 1700 days.")
    ] = None,
    checkpoint_s: Annotated[Optional[float], typer.Option("--checkpoint-s", help="To write one checkpoint.")] = None,
    restart_s: Annotated[float, typer.Option("--restart-s", help="Seconds from a failure to the next step.")] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Time and cost of a training: 6ND at an MFU, with failures and the best time between checkpoints."""
    from probe.analyzers.projection.devices import target
    from probe.planning.training import training as plan

    onto = target(device)
    peak = _peak(device, dtype)
    usd = price if price is not None else onto.facts.usd_per_hour if onto.facts is not None else None
    _show(plan(
        parameters=parameters, tokens=tokens, devices=devices, peak_flops_per_s=peak, mfu=_mfu(mfu, run),
        usd_per_hour=usd, failures_per_device_day=failures, checkpoint_s=checkpoint_s, restart_s=restart_s,
    ), as_json)  # fmt: skip


@app.command("bandwidth")
def bandwidth(
    parameters: Annotated[float, typer.Option("--parameters", help="Of the model: 7e9.")],
    step_s: Annotated[float, typer.Option("--step-s", help="Seconds of a step.")],
    ranks: Annotated[int, typer.Option("--ranks", help="Data-parallel ranks.")],
    gradient_bytes: Annotated[float, typer.Option("--gradient-bytes", help="Of one parameter's gradient.")] = 4.0,
    sample_bytes: Annotated[
        Optional[float], typer.Option("--sample-bytes", help="Read for one sample; goes with --samples.")
    ] = None,
    samples: Annotated[Optional[float], typer.Option("--samples", help="Of a rank's step.")] = None,
    checkpoint_every_s: Annotated[
        Optional[float], typer.Option("--checkpoint-every-s", help="Seconds between two checkpoints.")
    ] = None,
    ceilings: Annotated[
        Optional[str], typer.Option("--microbench", help="JSON of `probe run microbench collectives storage`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The bandwidths that hide an all-reduce and keep storage out of the way, against what was measured."""
    from probe.planning.bandwidth import bandwidth as plan
    from probe.planning.measured import measured

    link, storage = measured(ceilings, ranks) if ceilings is not None else (None, None)
    _show(plan(
        parameters=parameters, step_s=step_s, ranks=ranks, gradient_bytes=gradient_bytes, sample_bytes=sample_bytes,
        samples=samples, checkpoint_every_s=checkpoint_every_s, measured_link=link, measured_storage=storage,
    ), as_json)  # fmt: skip


def _shape(layers: int | None, hidden: int | None, heads: int | None, vocabulary: int | None, *rest: Any) -> Any:
    from probe.planning.transformer import Shape

    if layers is None or hidden is None or heads is None or vocabulary is None:
        raise UsageError("give --layers, --hidden, --heads and --vocabulary of the transformer, or --step of any model")
    return Shape(layers, hidden, heads, vocabulary, *rest)


def _capacity(device: str | None, memory: str | None) -> float | None:
    from probe.analyzers.projection.devices import target

    size = size_of("--memory", memory)
    if size is not None:
        if size <= 0:
            raise UsageError(f"--memory {memory}: give a size above 0, such as 80GB")
        return float(size)
    if device is None:
        return None
    facts = target(device).facts
    return float(facts.memory_bytes) if facts is not None else None


def _peak(device: str, dtype: str) -> float:
    """The published peak: MFU is a share of it."""
    from probe.machine import datasheets

    sheet = datasheets.find(device)
    rates = sheet.ceilings().flops_per_s if sheet is not None else {}
    if dtype not in rates:
        raise UsageError(f"--dtype {dtype}: no peak of {device} is known for it; there are {', '.join(rates)}")
    return rates[dtype]


def _mfu(given: float | None, run: str | None) -> float:
    if given is not None:
        return given
    if run is None:
        raise UsageError("give --mfu, such as 0.4, or --run of a training whose MFU was measured")
    from probe import api

    found = api.analyze(run).utilisation.mfu_fraction
    if found is None:
        raise UsageError(f"--run {run}: its MFU is not known; give --mfu")
    return found


def _show(plan: Any, as_json: bool) -> None:
    from probe.cli.output import console, print_json
    from probe.report import plan as report

    if as_json:
        print_json(plan.to_json())
    else:
        console().print(report.render(plan))
