"""What scripts of a page ask for beside Dash: an operator's card, tiles of a timeline, a trace to hand on."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import msgspec
from flask import Flask, Response, abort, redirect, request, send_file
from werkzeug.wrappers import Response as AnyResponse

from probe.dashboard import query
from probe.dashboard.catalogue import ID, Entry
from probe.dashboard.loaded import Library
from probe.dashboard.op_card import card
from probe.dashboard.security import plain
from probe.dashboard.timeline import ask
from probe.errors import ProbeError
from probe.examine.sources import files_of
from probe.report import html
from probe.report.timeline.index import Index
from probe.report.timeline.tiles import Tiles, Window

LONGEST_WAIT_S = 25.0
MOST_PIXELS, MOST_LANES = 16_000, 4_000
HELD_TILES = 3  # timelines whose tiles are held
LEAST_COMPRESSED = 1024
CATCH_ALL = ("/", "/<path:path>", "None")  # with which Dash serves its page for whatever else is asked
TEXT = ("text/", "application/json", "application/javascript", "image/svg")


def add(server: Flask, library: Library, pages: frozenset[str]) -> None:
    """Put the routes on the server; `pages`: the paths that Dash serves."""
    tiles = lru_cache(HELD_TILES)(lambda index: Tiles(index))

    @server.before_request
    def check() -> AnyResponse | None:
        return _checked(library, pages)

    @server.get("/api/run/<identity>/op/<int:number>")
    def operator(identity: str, number: int) -> Response:
        analysis = library.analysis(_entry(library, identity).id, LONGEST_WAIT_S).result().analysis
        if number >= len(analysis.ops):
            abort(404)
        return _json(card(analysis, number))

    @server.get("/api/timeline/<identity>/meta")
    def meta(identity: str) -> Response:
        reading = library.timeline(_entry(library, identity).id, LONGEST_WAIT_S)
        if not reading.done.is_set():
            return _json({"waiting": reading.progress})
        try:
            return _json(ask.meta(reading.result()))
        except ProbeError as error:
            return _json({"error": str(error)})

    @server.get("/api/timeline/<identity>/tile")
    def tile(identity: str) -> Response:
        index = _index(library, identity)
        return _binary(tiles(index).of(_window(request.args)))

    @server.get("/api/timeline/<identity>/find")
    def find(identity: str) -> Response:
        words = query.text(request.args, "q")
        after = query.number(request.args, "after") or 0.0
        if not words:
            raise query.QueryError("q is empty")
        return _json(ask.occurrence(_index(library, identity), words, after, request.args.get("back") == "1"))

    @server.get("/api/timeline/<identity>/statistics")
    def statistics(identity: str) -> Response:
        begin, end = _stretch(request.args)
        return _json(ask.statistics(_index(library, identity), begin, end))

    @server.get("/api/run/<identity>/report")
    def report(identity: str) -> Response:
        entry = _entry(library, identity)
        page = _report(library, entry)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in entry.name)[:80]
        head = {"Content-Disposition": f'attachment; filename="{name}.html"'}
        return Response(page, mimetype="text/html", headers=head)

    @server.get("/api/trace/<identity>")
    def trace(identity: str) -> AnyResponse:
        file = Path(files_of(_entry(library, identity).source)[0])
        if not file.name.endswith((".json", ".json.gz")) or not file.is_file():
            abort(404)
        return send_file(file, "application/octet-stream", as_attachment=True, download_name=file.name)

    @server.errorhandler(query.QueryError)
    def bad(error: query.QueryError) -> Response:
        return plain(str(error), 400)

    @server.errorhandler(ProbeError)
    def unreadable(error: ProbeError) -> Response:
        return plain(str(error), 404)

    @server.after_request
    def compressed(response: Response) -> Response:
        return _compressed(response)


def _checked(library: Library, pages: frozenset[str]) -> AnyResponse | None:
    """Pages: a known path, a query that can be, a run that is there. None for everything that is served."""
    path = request.path
    if path == "/":
        return redirect("/overview")
    if path.removeprefix("/") not in pages:
        rule = str(request.url_rule)
        return plain("no such page", 404) if rule in CATCH_ALL else None
    asked = query.of(request.args)
    for identity in (asked.run, asked.base):
        if identity is not None and library.catalogue.find(identity) is None:
            return plain("no such run", 404)
    return None


def _entry(library: Library, identity: str) -> Entry:
    entry = library.catalogue.find(identity) if ID.fullmatch(identity) else None
    if entry is None or entry.kind == "microbench":
        abort(404)
    return entry


def _index(library: Library, identity: str) -> Index:
    return library.timeline(_entry(library, identity).id).result()


def _report(library: Library, entry: Entry) -> str:
    """The run's page, with its timeline where it has one."""
    analysis = library.analysis(entry.id).result().analysis
    try:
        return html.render(analysis, timeline=library.timeline(entry.id).result())
    except ProbeError as error:
        return html.render(analysis, notes=(f"the timeline is left out: {error}",))


def _stretch(given: Mapping[str, str]) -> tuple[float, float]:
    begin, end = query.number(given, "from"), query.number(given, "to")
    if begin is None or end is None or not begin < end:
        raise query.QueryError("from and to are the ends of a stretch of time, in nanoseconds")
    return begin, end


def _window(given: Mapping[str, str]) -> Window:
    begin, end = _stretch(given)
    counts = {name: query.number(given, name) for name in ("pixels", "first", "last")}
    pixels, first, last = (int(value) if value is not None else -1 for value in counts.values())
    if not 1 <= pixels <= MOST_PIXELS or not 0 <= first < last <= MOST_LANES:
        raise query.QueryError(f"pixels is up to {MOST_PIXELS}, first and last are lanes")
    return Window(begin, end, pixels, first, last)


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), mimetype="application/json", headers={"Cache-Control": "no-store"})


def _binary(content: bytes) -> Response:
    packed = gzip.compress(content, 1)
    head = {"Content-Encoding": "gzip", "Cache-Control": "no-store"}
    return Response(packed, mimetype="application/octet-stream", headers=head)


_packed: dict[str, tuple[int, bytes]] = {}  # by path: what was packed, as a checksum, and what came of it


def _packed_file(path: str, content: bytes) -> bytes:
    """A file of a page's own, packed once; only packed is it held."""
    checksum = crc32(content)
    if path not in _packed or _packed[path][0] != checksum:
        _packed[path] = (checksum, gzip.compress(content, 6))
    return _packed[path][1]


def _compressed(response: Response) -> Response:
    """Text packed for browsers that take it; scripts and styles only once."""
    wanted = (response.mimetype or "").startswith(TEXT) and "gzip" in request.headers.get("Accept-Encoding", "")
    if not wanted or response.status_code != 200 or "Content-Encoding" in response.headers:
        return response
    response.direct_passthrough = False
    content = response.get_data()
    if len(content) < LEAST_COMPRESSED:
        return response
    still = request.path.startswith(("/_dash-component-suites/", "/assets/"))
    response.set_data(_packed_file(request.path, content) if still else gzip.compress(content, 1))
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    return response
