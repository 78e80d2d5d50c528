"""What does a page of metrics say? Reads Prometheus's text format, of any server, and fetches it without being held up.

One expression a line, and labels that are read once: pages are read once a second beside a training, and a general
parser takes tens of milliseconds of the GIL for a page of eight GPUs.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.parse
from dataclasses import dataclass, field

TIMEOUT_S = 0.3  # for the whole answer: a server that drips cannot hold us
MOST_BYTES = 4 << 20

_LINE = re.compile(
    r"(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)\s*"
    r"(?:\{(?P<labels>(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*)\})?\s*"
    r"(?P<value>[^\s#{}]+)"
)
_LABEL = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=\s*\"((?:[^\"\\]|\\.)*)\"")
_ESCAPE = re.compile(r"\\(.)")
_ABOUT = re.compile(r"#\s*(HELP|TYPE|UNIT)\s+(\S+)\s*(.*)")


class PageError(Exception):
    """A page that cannot be had or is no page of metrics; the message says why."""


@dataclass(frozen=True)
class Metric:
    """One line of a page."""

    name: str
    labels: dict[str, str]
    text: str  # the value as it stands there: an integer beyond 2^53 is lost in `value`
    value: float


@dataclass(frozen=True)
class Page:
    """A page of metrics, in its order."""

    metrics: tuple[Metric, ...]
    help: dict[str, str] = field(default_factory=dict)  # by metric
    type: dict[str, str] = field(default_factory=dict)
    skipped: int = 0  # lines that are none of the format's


def parse(text: str, known: dict[str, dict[str, str]] | None = None) -> Page:
    """The page in `text`. `known` remembers labels between pages of one server; give the same dictionary again."""
    known = {} if known is None else known
    metrics: list[Metric] = []
    about: dict[str, dict[str, str]] = {"HELP": {}, "TYPE": {}, "UNIT": {}}
    skipped = 0
    for line in text.split("\n"):
        line = line.strip()
        if line.startswith("#"):
            told = _ABOUT.match(line)
            if told is not None:
                about[told[1]][told[2]] = told[3]
            continue
        metric = _metric(line, known) if line else None
        if metric is not None:
            metrics.append(metric)
        elif line:
            skipped += 1
    return Page(tuple(metrics), about["HELP"], about["TYPE"], skipped)


def _metric(line: str, known: dict[str, dict[str, str]]) -> Metric | None:
    match = _LINE.match(line)
    if match is None:
        return None
    name, written, text = match.groups()
    written = written or ""
    labels = known.get(written)
    if labels is None:
        if len(known) > 10_000:  # a server whose labels change with every page
            known.clear()
        labels = known[written] = {key: _unescaped(value) for key, value in _LABEL.findall(written)}
    try:
        return Metric(name, labels, text, float(text))
    except ValueError:
        return None


def _unescaped(value: str) -> str:
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], value) if "\\" in value else value


def fetch(url: str, timeout_s: float = TIMEOUT_S, most_bytes: int = MOST_BYTES) -> str:
    """The text at an http:// or https:// address. Raises PageError, after at most about `timeout_s`."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise PageError(f"not an http:// address ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PageError("not an http:// address")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    deadline = time.monotonic() + timeout_s
    connection = kind(parts.hostname, port, timeout=timeout_s)
    path = (parts.path or "/metrics") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", path, headers={"Accept": "text/plain"})
        return _body(connection, deadline, most_bytes)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise PageError(" ".join(str(error).split()) or type(error).__name__) from error
    finally:
        connection.close()


def _body(connection: http.client.HTTPConnection, deadline: float, most_bytes: int) -> str:
    sock = connection.sock  # getresponse() takes it away where the server closes
    response = connection.getresponse()
    if response.status != 200:
        raise PageError(f"answers {response.status} {response.reason}")
    pieces: list[bytes] = []
    size = 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise PageError("too slow: the page had not ended in time")
        sock.settimeout(left)
        piece = response.read1(1 << 16)
        if not piece:
            return b"".join(pieces).decode("utf-8", "replace")
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise PageError(f"more than {most_bytes} bytes; that is no page of metrics of one machine")
