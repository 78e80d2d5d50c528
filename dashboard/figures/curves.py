"""Curves of microbenchmarks: measured values along a size, published ranges as fields, several machines together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from probe.dashboard.figures.axes import axis, layout, logarithmic, said
from probe.report.curves import Figure, Series, published, tick
from probe.report.palette import SERIES, SERIES_LIGHT
from probe.report.text import shorten
from probe.units import format_value

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "x", "star", "pentagon")
LINEAR_BELOW = 4.0  # times the least value: closer together, a logarithmic axis would show noise
MOST_TICKS = 7
LONGEST_NAME = 60


@dataclass(frozen=True)
class Machine:
    """One machine's part of a figure."""

    name: str
    figure: Figure


def curves(machines: Sequence[Machine]) -> go.Figure:
    """The series of the machines' figures of one question, a colour and a mark each."""
    figure = go.Figure()
    drawn = [(machine, series) for machine in machines for series in machine.figure.series]
    for number, ((machine, series), name) in enumerate(zip(drawn, names(machines), strict=True)):
        figure.add_trace(_curve(machine.figure, series, number, name))
        if len(machines) == 1:
            for trace in _published(machine.figure, series, number):
                figure.add_trace(trace)
    one = machines[0].figure
    values = [m.value for _, series in drawn for m in series.points if m.value > 0]
    places = sorted({machine.figure.x(m) for machine, series in drawn for m in series.points})
    stride = math.ceil(len(places) / MOST_TICKS)
    figure.update_layout(
        layout(
            margin={"l": 76, "r": 18, "t": 10, "b": 46},
            xaxis=axis(
                one.along.replace("_bytes", "").replace("_", " "), type="log", tickvals=places[::stride],
                ticktext=[one.tick(x) for x in places[::stride]], tickangle=0,
            ),
            yaxis=_vertical(values, one.unit),
        )
    )  # fmt: skip
    return figure


def names(machines: Sequence[Machine]) -> list[str]:
    """What each curve is called, no two the same: its machine where there are several, and what sets it apart."""
    found: list[str] = []
    for machine in machines:
        for series in machine.figure.series:
            words = (machine.name if len(machines) > 1 else "", series.name)
            name = shorten(" · ".join(part for part in words if part), LONGEST_NAME)
            again = sum(1 for other in found if other.rpartition(" #")[0] == name or other == name)
            found.append(f"{name} #{again + 1}" if again else name)
    return found


def _vertical(values: Sequence[float], unit: str) -> dict[str, object]:
    low, high = min(values, default=1.0), max(values, default=1.0)
    if high > LINEAR_BELOW * low:
        return logarithmic("", low / 1.5, high * 1.5, lambda value: tick(value, unit))
    ticks = [high * 1.1 * i / 4 for i in range(5)]
    return axis("", range=[0, high * 1.15], tickvals=ticks, ticktext=[tick(value, unit) for value in ticks])


def _curve(figure: Figure, series: Series, number: int, name: str) -> go.Scatter:
    colour = SERIES_LIGHT[number % SERIES]
    return go.Scatter(
        x=[figure.x(m) for m in series.points], y=[m.value for m in series.points], mode="lines+markers", name=name,
        uid=f"series{number % SERIES}n{number}",
        text=[
            f"<b>{said(name or figure.title)}</b><br>{figure.tick(figure.x(m))}: {format_value(m.value, m.unit)}"
            f"<br>median {format_value(m.median, m.unit)}, n {m.n}{said(_flags(m.flags))}"
            for m in series.points
        ],
        hovertemplate="%{text}<extra></extra>", line={"color": colour, "width": 2},
        marker={"symbol": SYMBOLS[number % SERIES], "size": 7, "color": colour},
    )  # fmt: skip


def _flags(flags: Sequence[str]) -> str:
    return f" ({', '.join(flags)})" if flags else ""


def _published(figure: Figure, series: Series, number: int) -> list[go.Scatter]:
    """The published range along a stretch of a curve, as a field."""
    return [
        go.Scatter(
            x=[span.first, span.last, span.last, span.first], y=[low, low, high, high], fill="toself", mode="lines",
            line={"width": 0}, fillcolor="rgba(120,130,150,.22)", uid=f"published{number}", hoverinfo="text",
            text=f"published: {said(span.name)}", hoveron="fills",
        )
        for span, low, high in published(figure, series)
        if span.last > span.first
    ]  # fmt: skip
