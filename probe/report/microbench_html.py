"""The result of `probe run microbench` as one self-contained page: no scripts, no requests, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from probe.report import microbench_svg, register_banks
from probe.report.curves import COUNTED, Figure, arrange, split, word
from probe.report.html import PAGE_STYLE, STYLE
from probe.report.microbench import facts
from probe.report.microbench_rows import published, sections, span, spread, summary
from probe.report.roofline import svg
from probe.report.text import printable
from probe.results.measurement import Measurement, MicrobenchResult
from probe.units import format_bytes, format_bytes_per_s, format_flops_per_s, format_time, format_value

MORE_STYLE = """
.probe .lead{color:var(--soft);margin:-14px 0 20px} .probe figure{margin:0;min-width:0}
.probe .figures{display:grid;gap:22px 24px;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr))}
.probe figcaption{font-weight:600;margin:0 0 2px} .probe figcaption li{font-weight:400}
.probe figcaption ul{display:inline-flex;flex-wrap:wrap;margin:0 0 0 10px;gap:2px 12px}
.probe figcaption i{background:var(--c)}
.probe svg{width:100%;display:block} .probe .good{color:#12805c} .probe .bad{color:#c93a3a}
.probe .flag{background:var(--card);border:1px solid var(--line);border-radius:4px;padding:0 5px;font-size:12px}
.probe .flag+.flag{margin-left:4px} .probe .flag.implausible{color:#c93a3a;border-color:#c93a3a}
.probe td.soft,.probe .key{color:var(--soft)} .probe .key{font-size:13px;margin:8px 0 0}
.probe th{vertical-align:bottom} .probe th.group{padding-top:16px;font-weight:600;color:var(--ink)}
.probe ol{color:var(--soft);font-size:13px;padding-left:22px;margin:0}
.probe sup{line-height:0} .probe sup a{color:inherit;text-decoration:none}
.probe details td.why{white-space:nowrap} .probe summary{cursor:pointer;color:var(--soft)}
.probe .warning{padding-left:14px;text-indent:-14px}
@media (prefers-color-scheme:dark){.probe .good{color:#4cc38a} .probe .bad,.probe .flag.implausible{color:#ff7b7b}}
"""
KEY = (
    "Dots are the best of many short windows; hollow ones were disturbed (by neighbours, or the median is more than "
    "5 % worse). Dashed lines or thin strokes lead to the median, shaded bands are published values, fields the levels "
    "of the memory hierarchy."
)


def render(result: MicrobenchResult) -> str:
    """A whole page that opens from disk with no network."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>probe: {_text(result.device.name)}</title>"
        f"<style>{PAGE_STYLE}{STYLE}{microbench_svg.STYLE}{register_banks.STYLE}{MORE_STYLE}</style></head>"
        f'<body><main class="probe">{"".join(_sections(result))}</main></body></html>\n'
    )


def _sections(result: MicrobenchResult) -> Iterator[str]:
    sources = _sources(result.measurements)
    yield f"<h1>{_text(' · '.join([result.device.name, *facts(result)]))}</h1>"
    yield f'<p class="verdict">{_text(_headline(result))}</p>'
    if compared := summary(result):
        yield f'<p class="lead">Compared with published values: {_text(compared)}</p>'
    yield from _notes(result)
    yield "<h2>Results</h2>" + _results(result, sources)
    yield from _curves(result)
    if drawing := svg.draw(result.ceilings, (), {}):
        yield f"<h2>Roofs</h2>{drawing}"
    yield f"<h2>What the figures stand on</h2><dl>{_facts(result)}</dl>"
    if sources:
        entries = "".join(f'<li id="source{number}">{_text(source)}</li>' for source, number in sources.items())
        yield f"<h2>Published values are from</h2><ol>{entries}</ol>"
    count = len(result.measurements)
    yield f"<h2>All measurements</h2><details open><summary>{count} rows</summary>{_raw(result.measurements)}</details>"


def _headline(result: MicrobenchResult) -> str:
    """The ceilings in a sentence."""
    ceilings = result.ceilings
    best = max(ceilings.flops_per_s.items(), key=lambda item: item[1], default=None)
    parts = [
        f"{format_bytes_per_s(ceilings.dram_bytes_per_s)} from memory" if ceilings.dram_bytes_per_s else None,
        f"{format_flops_per_s(best[1])} in {best[0]}" if best else None,
        f"{format_time(ceilings.launch_s)} to dispatch an operator" if ceilings.launch_s else None,
    ]
    return " · ".join(part for part in parts if part) or "No ceiling was measured."


def _sources(measurements: Sequence[Measurement]) -> dict[str, int]:
    """The sources of published values, numbered in the order in which they occur."""
    found = dict.fromkeys(m.reference.source for m in measurements if m.reference)
    return {source: number for number, source in enumerate(found, 1)}


def _notes(result: MicrobenchResult) -> Iterator[str]:
    """Warnings, and the suites that were not measured by reason."""
    yield from (f'<p class="warning">! {_text(warning)}</p>' for warning in result.warnings)
    reasons: dict[str, list[str]] = {}
    for entry in result.unsupported:
        reasons.setdefault(entry.reason, []).append(entry.suite)
    for reason, suites in reasons.items():
        yield f'<p class="warning">– not measured ({_text(reason)}): {_text(", ".join(suites))}</p>'


def _results(result: MicrobenchResult, sources: dict[str, int]) -> str:
    """The same rows as in the terminal, with verdicts."""
    heads = ("best", True), ("median", True), ("±95 %", True), ("published", True), ("verdict and flags", False)
    rows = []
    for section in sections(result):
        titles = "".join(f"<th{' class=n' if numeric else ''}>{label}</th>" for label, numeric in heads)
        rows.append(f'<tr><th class="group">{_text(section.title)}</th>{titles}</tr>')
        rows += [_result(name, m, sources) for name, m in section.rows]
        if section.more:
            rows.append(f'<tr><td class="soft" colspan="6">{section.more} more below</td></tr>')
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _result(name: str, measurement: Measurement, sources: dict[str, int]) -> str:
    m = measurement
    numbers = (f"<b>{_value(m.value, m)}</b>", _value(m.median, m), _text(spread(m)), _published(m, sources))
    cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
    return f"<tr><td>{_text(name)}</td>{cells}<td>{_verdict(m)} {_flags(m)}</td></tr>"


def _value(value: float, measurement: Measurement) -> str:
    return _text(format_value(value, measurement.unit))


def _published(measurement: Measurement, sources: dict[str, int]) -> str:
    """The published range with the number of its source."""
    reference = measurement.reference
    if reference is None:
        return ""
    number = sources[reference.source]
    link = f'<sup><a href="#source{number}">{number}</a></sup>'
    return f'<span title="{_text(reference.source)}">{_text(published(measurement))}</span>&hairsp;{link}'


def _verdict(measurement: Measurement) -> str:
    """The verdict and why; where there is none, why not."""
    m = measurement
    reason = f' <span class="key">{_text(m.because)}</span>' if m.because else ""
    if m.verdict is None:
        return reason.strip()
    return f'<span class="{"bad" if m.verdict == "worse" else "good"}">{_text(m.verdict)}</span>{reason}'


def _flags(measurement: Measurement) -> str:
    return "".join(
        f'<span class="flag{" implausible" if flag == "implausible" else ""}">{_text(flag)}</span>'
        for flag in measurement.flags
    )


def _curves(result: MicrobenchResult) -> Iterator[str]:
    """Every curve, split where it has too many series, then the bars of what makes none."""
    figures, alone = arrange(register_banks.without(result.measurements))
    parts = [_figure(part) for figure in figures for part in split(figure)]
    parts += _banks(result)
    parts += [
        f"<figure><figcaption>{_text(group.title)}</figcaption>{microbench_svg.bars(group)}</figure>"
        for group in alone
        if len(group.measurements) > 1
    ]
    if parts:
        yield f'<h2>Curves</h2><div class="figures">{"".join(parts)}</div><p class="key">{KEY}</p>'


def _banks(result: MicrobenchResult) -> Iterator[str]:
    """The pictures of the register banks."""
    curve, grid = register_banks.curve(result.measurements), register_banks.pattern_map(result.measurements)
    if curve is not None:
        yield _figure(curve)
    if grid:
        caption = "register banks: cycles of an FFMA by its sources (first down, second and third across)"
        yield f"<figure><figcaption>{caption}</figcaption>{grid}</figure>"


def _figure(figure: Figure) -> str:
    legend = "".join(
        f'<li class="s{i % microbench_svg.COLOURS}"><i></i>{_text(series.name)}</li>'
        for i, series in enumerate(figure.series)
        if series.name
    )
    caption = _text(figure.title) + (f"<ul>{legend}</ul>" if legend else "")
    return f"<figure><figcaption>{caption}</figcaption>{microbench_svg.figure(figure)}</figure>"


def _facts(result: MicrobenchResult) -> str:
    """Device and environment, what is not known left out."""
    pairs = [*_of_device(result), *_of_environment(result)]
    return "".join(f"<dt>{_text(key)}</dt><dd>{_text(text)}</dd>" for key, text in pairs)


def _of_device(result: MicrobenchResult) -> Iterator[tuple[str, str]]:
    device = result.device
    yield "device", device.name
    if device.isa:
        yield "instruction sets", " ".join(device.isa)
    for cache in device.caches:
        yield f"L{cache.level} as reported", f"{format_bytes(cache.bytes)}, shared by {cache.shared_by}"
    for level, found in result.ceilings.levels.items():
        seen = (format_bytes(found.capacity_bytes) if found.capacity_bytes else None, _latency(found.latency_s),
                format_bytes_per_s(found.bytes_per_s) if found.bytes_per_s else None)  # fmt: skip
        yield f"{level} as measured", ", ".join(part for part in seen if part)
    if device.compute_capability:
        yield "compute capability", device.compute_capability
    if device.memory_bytes:
        yield "memory", format_bytes(device.memory_bytes)
    if result.ceilings.measured_at:
        yield "measured at", result.ceilings.measured_at + (" (quick run)" if result.ceilings.quick else "")


def _latency(seconds: float | None) -> str | None:
    return f"{format_time(seconds)} a load" if seconds else None


def _of_environment(result: MicrobenchResult) -> Iterator[tuple[str, str]]:
    for key, value in result.environment.items():
        if text := _plain(value):
            yield key.replace("_", " "), text


def _plain(value: object) -> str:
    """A value of the environment in words; empty where nothing is known."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if _plain(inner))
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _raw(measurements: Iterable[Measurement]) -> str:
    """One row a measurement, grouped by suite, with its parameters and proof."""
    heads = "".join(
        f"<th{' class=n' if numeric else ''}>{label}</th>"
        for label, numeric in (
            ("suite", False), ("measurement", False), ("best", True), ("median", True), ("95 % interval", True),
            ("n", True), ("published", True), ("verdict and flags", False), ("parameters and proof", False),
        )
    )  # fmt: skip
    rows = "".join(_raw_row(m) for m in measurements)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _raw_row(measurement: Measurement) -> str:
    m = measurement
    numbers = (_value(m.value, m), _value(m.median, m), _text(span(*m.interval, m.unit)), str(m.n), _text(published(m)))
    cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
    details = ", ".join(_detail(key, value) for key, value in (m.params | (m.proof or {})).items() if value is not None)
    return (
        f'<tr><td class="soft">{_text(m.suite)}</td><td>{_text(m.name)}</td>{cells}'
        f'<td>{_verdict(m)} {_flags(m)}</td><td class="why">{_text(details)}</td></tr>'
    )


def _detail(key: str, value: object) -> str:
    """A parameter or proof with its name."""
    if isinstance(value, float):
        return f"{key} {value:.4g}"
    return word(key, value) if key in COUNTED else f"{key} {_plain(value)}"


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
