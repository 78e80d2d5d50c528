"""`probe whatif`: what the recorded step would take on another device, with other work, or on many ranks."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from probe.cli.options import AsJson, CeilingsFile, Price, SourceArgument
from probe.errors import UsageError


def command(
    source: SourceArgument = None,
    onto: Annotated[
        Optional[list[str]],
        typer.Option("--onto", help="A device (H200, 'A100 80GB SXM'), a file of measured ceilings, or all."),
    ] = None,
    ranks: Annotated[
        Optional[int], typer.Option("--ranks", min=1, help="On so many ranks, each with its own device.")
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Over so many nodes.")] = 1,
    tensor: Annotated[int, typer.Option("--tensor", min=1, help="Ranks that share each layer.")] = 1,
    pipeline: Annotated[int, typer.Option("--pipeline", min=1, help="Stages of the pipeline.")] = 1,
    expert: Annotated[int, typer.Option("--expert", min=1, help="Ranks that share the experts.")] = 1,
    zero: Annotated[int, typer.Option("--zero", min=0, max=3, help="ZeRO stage, 0 to 3; 3 is FSDP.")] = 0,
    micro_batches: Annotated[int, typer.Option("--micro-batches", min=1, help="Of a step, for the pipeline.")] = 1,
    interleave: Annotated[int, typer.Option("--interleave", min=1, help="Model chunks a pipeline stage holds.")] = 1,
    parameters: Annotated[
        Optional[float], typer.Option("--parameters", help="Of the model, where the run recorded no memory: 7e9.")
    ] = None,
    layers: Annotated[Optional[int], typer.Option("--layers", help="Layers of the model.")] = None,
    hidden: Annotated[Optional[int], typer.Option("--hidden", help="Width of the residual stream.")] = None,
    heads: Annotated[Optional[int], typer.Option("--heads", help="Attention heads.")] = None,
    tokens: Annotated[Optional[int], typer.Option("--tokens", help="Of one rank's step.")] = None,
    moe_layers: Annotated[Optional[int], typer.Option("--moe-layers", help="Layers with experts.")] = None,
    gradient_bytes: Annotated[float, typer.Option("--gradient-bytes", help="Of one parameter's gradient.")] = 4.0,
    link: Annotated[
        Optional[str], typer.Option("--link", help="Within a node: 'NVLink 4', or a file of measured collectives.")
    ] = None,
    network: Annotated[
        Optional[str], typer.Option("--network", help="Between nodes; by default InfiniBand NDR.")
    ] = None,
    dtype: Annotated[Optional[str], typer.Option("--dtype", help="All floating tensors in this type.")] = None,
    batch: Annotated[Optional[float], typer.Option("--batch", help="The batch so many times as large.")] = None,
    batch_size: Annotated[Optional[int], typer.Option("--batch-size", help="The recorded batch size.")] = None,
    roof: Annotated[
        Optional[list[str]], typer.Option("--roof", help="An operator, by index or name, as fast as its roof lets it.")
    ] = None,
    remove: Annotated[Optional[list[str]], typer.Option("--remove", help="Without an operator.")] = None,
    replace: Annotated[
        Optional[list[str]],
        typer.Option("--replace", help="An operator by a faster one: OP=2x, or OP=120us for each call."),
    ] = None,
    fuse: Annotated[
        Optional[list[str]], typer.Option("--fuse", help="A chain of operators as one, in their order: OP,OP.")
    ] = None,
    graph: Annotated[bool, typer.Option("--graph", help="The kernels of a step launched as a CUDA graph.")] = False,
    ceilings: CeilingsFile = None,
    price: Price = None,
    top: Annotated[int, typer.Option(min=0, help="How many operators to list.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Project the recorded step elsewhere, and say how far off such projections were where they could be measured."""
    from probe.analyzers.projection.layout import Layout, Model
    from probe.cli.output import console, print_json
    from probe.projecting.question import Wish
    from probe.projecting.whatif import what_if
    from probe.report import whatif as report

    if not any((onto, ranks is not None, dtype, batch is not None, roof, remove, replace, fuse, graph)):
        raise UsageError(
            "nothing is asked: give --onto DEVICE, --ranks, --dtype, --batch, --roof, --remove, --replace, --fuse or"
            " --graph"
        )
    shared = (nodes, tensor, pipeline, expert, zero, micro_batches, interleave)
    if ranks is None and shared != (1, 1, 1, 1, 0, 1, 1):
        raise UsageError(
            "--nodes, --tensor, --pipeline, --expert, --zero, --micro-batches and --interleave divide ranks:"
            " give --ranks too"
        )
    layout = Layout(ranks, *shared) if ranks is not None else None
    model = Model(parameters, gradient_bytes, layers, hidden, heads, tokens, moe_layers=moe_layers)
    wish = Wish(
        tuple(onto or ()), tuple(roof or ()), tuple(remove or ()), dtype, batch, batch_size, layout, model, link,
        network, price, str(ceilings) if ceilings is not None else None, tuple(replace or ()), tuple(fuse or ()), graph,
    )  # fmt: skip
    found = what_if(source, wish)
    if as_json:
        print_json(found.to_json())
    else:
        console().print(report.render(found, top))
