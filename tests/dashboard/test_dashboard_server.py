"""The dashboard through Flask's client: who is let in, what is refused and how, every page, hostile names as text."""

import gzip
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_runs import ESCAPES, HOSTILE_FILE, MARKUP, SAMPLES, SCRIPT, hostile_trace, id_of, library
from flask.testing import FlaskClient
from places import ROOT

from probe.cli import main
from probe.dashboard import kept_memory, security
from probe.dashboard.app import PAGES, PLOTLY, WITH_FIGURES, create_app, grouped, shown
from probe.dashboard.catalogue import Catalogue
from probe.dashboard.loaded import Library
from probe.dashboard.pages import operators
from probe.dashboard.pieces import waiting
from probe.dashboard.security import access
from probe.dashboard.server import Server
from probe.dashboard.shelf import Shelf
from probe.errors import ProbeError

HERE = "http://127.0.0.1:8050"
LONGEST_NAME = 5000  # characters of one text on a page; the name has 10 000


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("dashboard")
    hostile_trace(folder)
    (folder / "broken.json").write_text('{"traceEvents": [')
    with library(SAMPLES, folder, cache=folder / "cache") as found:
        yield found


@pytest.fixture(scope="module")
def client(held: Library) -> FlaskClient:
    return create_app(held, access("127.0.0.1")).server.test_client()


@pytest.fixture(scope="module")
def run(held: Library) -> str:
    return id_of(held, "transformer_step")


@pytest.fixture(scope="module")
def hostile(held: Library) -> str:
    return id_of(held, HOSTILE_FILE)


def texts(node: Any) -> Iterator[str]:
    """Every text in a component or a figure as it is sent."""
    if hasattr(node, "to_plotly_json"):
        node = node.to_plotly_json()
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from texts(value)


def page(held: Library, name: str, run: str, **more: str) -> tuple[Any, ...]:
    """A page once its run is read."""
    held.analysis(run).done.wait(60)
    search = "&".join([f"run={run}", *(f"{key}={value}" for key, value in more.items())])
    return shown(held, f"/{name}", f"?{search}", "/icon.svg")


@pytest.mark.parametrize("host", ["127.0.0.1:8050", "localhost:8050", "[::1]:8050"])
def test_loopback_is_served(client: FlaskClient, host: str) -> None:
    assert client.get("/runs", headers={"Host": host}, buffered=True).status_code == 200


@pytest.mark.parametrize("host", ["evil.com", "evil.com:8050", "127.0.0.1.evil.com", "0.0.0.0", "[::1", "", "a b"])
@pytest.mark.parametrize("path", ["/runs", "/assets/probe.css", "/_dash-layout", "/api/run/0/op/0"])
def test_other_host_names_are_refused(client: FlaskClient, host: str, path: str) -> None:
    assert client.get(path, headers={"Host": host}, buffered=True).status_code in (400, 403)


def test_requests_of_other_sites_are_refused(client: FlaskClient) -> None:
    there = {"Origin": "https://evil.com"}
    assert (
        client.post("/_dash-update-component", base_url=HERE, buffered=True, headers=there, json={}).status_code == 403
    )
    own = client.get("/_dash-layout", base_url=HERE, buffered=True, headers={"Origin": HERE})
    assert own.status_code == 200


def test_every_answer_names_its_policy(client: FlaskClient) -> None:
    for path in ("/runs", "/assets/probe.js", "/nowhere", "/runs?run=x"):
        head = client.get(path, base_url=HERE, buffered=True).headers
        policy = head["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "http" not in policy
        assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
        assert head["X-Content-Type-Options"] == "nosniff" and head["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in head


def test_no_page_names_another_host(client: FlaskClient) -> None:
    text = client.get("/runs", base_url=HERE, buffered=True).get_data(as_text=True)
    assert "http://" not in text.replace(HERE, "") and "https://" not in text


def test_nothing_is_in_debug_mode(client: FlaskClient) -> None:
    assert not client.application.debug
    config = json.loads(
        client.get("/runs", base_url=HERE, buffered=True)
        .get_data(as_text=True)
        .split('"application/json">')[1]
        .split("<")[0]
    )
    assert not config.get("ui") and not config.get("hot_reload")


def test_another_address_demands_a_token(held: Library) -> None:
    rules = access("0.0.0.0")
    assert rules.token is not None and len(rules.token) > 24
    outside = create_app(held, rules).server.test_client()
    assert outside.get("/runs", base_url=HERE, buffered=True).status_code == 401
    assert outside.get("/runs?token=guess", base_url=HERE, buffered=True).status_code == 401
    assert outside.get("/_dash-layout", base_url=HERE, buffered=True).status_code == 401
    welcome = outside.get(f"/?token={rules.token}", base_url=HERE, buffered=True)
    assert welcome.status_code == 302 and rules.token not in welcome.headers["Location"]
    cookie = welcome.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert outside.get("/runs", base_url=HERE, buffered=True).status_code == 200


def test_memory_is_given_back_where_the_system_can() -> None:
    kept_memory.give_back()
    assert kept_memory._of_libc("no_such_function") is None


def test_loopback_demands_none_and_tokens_differ() -> None:
    assert access("127.0.0.1").token is None
    assert access("0.0.0.0").token != access("0.0.0.0").token


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404), ("/overview/deeper", 404), ("/overview?run=x", 400), ("/overview?run=000000000000", 404),
        ("/compare?base=000000000000", 404), ("/overview?op=x", 400), ("/timeline?from=nan", 400),
        ("/overview?by=x", 400), ("/operators?sort=time", 400), ("/operators?sort=x:asc", 400),
        ("/roofline?zoom=1,2,3", 400), ("/roofline?zoom=2,1,3,4", 400), ("/roofline?zoom=a,b,c,d", 400),
        ("/roofline?zoom=nan,1,1,2", 400), ("/roofline?zoom=0,1e9,0,1", 400), ("/roofline?hide=idle,x", 400),
        ("/assets/../app.py", 404), ("/assets/%2e%2e/app.py", 404), ("/assets/none.js", 404),
        ("/_dash-component-suites/dash/../../app.py", 404), ("/_dash-component-suites/none/x.js", 404),
        ("/api/run/../op/1", 404), ("/api/run/000000000000/op/0", 404), ("/api/run/RUN/op/x", 404),
        ("/api/run/RUN/op/99999", 404), ("/api/timeline/RUN/tile", 400), ("/api/timeline/RUN/find", 400),
        ("/api/timeline/RUN/tile?from=0&to=9&pixels=1e9&first=0&last=9", 400),
        ("/api/timeline/RUN/tile?from=9&to=0&pixels=100&first=0&last=9", 400),
        ("/api/timeline/RUN/tile?from=0&to=9&pixels=100&first=-1&last=9", 400),
        ("/api/timeline/RUN/statistics?from=0&to=inf", 400), ("/api/trace/..%2f..%2fetc%2fpasswd", 404),
        ("/api/trace/000000000000", 404), ("/api/none", 404), ("/_dash-none", 404),
    ],
)  # fmt: skip
def test_what_is_malformed_or_unknown_is_said_so(client: FlaskClient, run: str, path: str, status: int) -> None:
    answer = client.get(path.replace("RUN", run), base_url=HERE, buffered=True)
    assert answer.status_code == status
    assert "Traceback" not in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"{}", b'{"output": "page.children"}', b'{"output": "x.y", "inputs": []}',
     b'{"output": "__class__", "outputs": 1, "inputs": 1, "changedPropIds": 1}', b"\xff\xfe"],
)  # fmt: skip
def test_malformed_calls_of_callbacks_are_400(client: FlaskClient, body: bytes) -> None:
    answer = client.post(
        "/_dash-update-component", base_url=HERE, buffered=True, data=body, content_type="application/json"
    )
    assert answer.status_code in (400, 415)


@pytest.mark.parametrize("method", ["put", "delete", "patch", "post"])
def test_pages_are_read_only(client: FlaskClient, method: str) -> None:
    assert getattr(client, method)("/api/none", base_url=HERE, buffered=True).status_code in (404, 405)


def test_a_request_that_is_too_large_is_refused(client: FlaskClient) -> None:
    body = b'{"x":"' + b"x" * (security.LARGEST_REQUEST_BYTES + 10) + b'"}'
    answer = client.post(
        "/_dash-update-component", base_url=HERE, buffered=True, data=body, content_type="application/json"
    )
    assert answer.status_code in (400, 413)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_of_a_run_can_be_made(held: Library, run: str, name: str) -> None:
    made = page(held, name, run)
    said = " ".join(texts(made[0]))
    assert "defect" not in said and said.strip()
    assert "transformer_step" in " ".join(texts(made))


@pytest.mark.parametrize("name", PAGES)
def test_names_of_a_trace_are_text_on_every_page(held: Library, hostile: str, name: str) -> None:
    """Components carry names as text; figures, whose texts may hold markup, carry them escaped; none without end."""
    made = page(held, name, hostile)
    figures = [node for node in _nodes(made[0]) if type(node).__name__ == "Graph"]
    for figure in figures:
        assert "<img" not in json.dumps(figure.figure.to_plotly_json(), default=str)
    for said in texts(made):
        assert len(said) < LONGEST_NAME
        assert "\x1b" not in said and "\u202e" not in said
    assert not [node for node in _nodes(made[0]) if type(node).__name__ in ("Markdown", "DangerouslySetInnerHTML")]
    for node in _nodes(made[0]):
        assert not str(getattr(node, "href", "")).lower().startswith("javascript:")


def _nodes(node: Any) -> Iterator[Any]:
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _nodes(child)
    elif node is not None:
        yield node
        yield from _nodes(getattr(node, "children", None))


def test_hostile_names_arrive_as_they_are(client: FlaskClient, held: Library, hostile: str) -> None:
    held.analysis(hostile).done.wait(60)
    names = [
        client.get(f"/api/run/{hostile}/op/{i}", base_url=HERE, buffered=True).get_json()["name"] for i in range(6)
    ]
    assert MARKUP in names and SCRIPT in names
    assert ESCAPES not in names and any("evil" in name for name in names)
    assert max(map(len, names)) < 1000


def test_the_exported_page_shows_hostile_names_as_text(client: FlaskClient, held: Library, hostile: str) -> None:
    held.analysis(hostile).done.wait(60)
    answer = client.get(f"/api/run/{hostile}/report", base_url=HERE, buffered=True)
    text = answer.get_data(as_text=True)
    assert "<img src=x" not in text and text.count("<script") == text.count("</script") == 2 and "\x1b" not in text
    assert '<div class="timeline">' in text and len(answer.data) < 1_500_000
    assert "attachment" in answer.headers["Content-Disposition"] and "<" not in answer.headers["Content-Disposition"]


def test_tiles_search_and_statistics_are_served(client: FlaskClient, held: Library, run: str) -> None:
    held.timeline(run).done.wait(60)
    told = client.get(f"/api/timeline/{run}/meta", base_url=HERE, buffered=True).get_json()
    query = f"from={told['begin']}&to={told['end']}"
    tile = client.get(f"/api/timeline/{run}/tile?{query}&pixels=800&first=0&last=40", base_url=HERE, buffered=True)
    assert tile.status_code == 200 and len(gzip.decompress(tile.data)) % 24 == 16
    found = client.get(f"/api/timeline/{run}/find?q=addmm&after=0", base_url=HERE, buffered=True).get_json()
    assert found["total"] > 0 and "addmm" in found["at"]["name"]
    stretch = client.get(f"/api/timeline/{run}/statistics?{query}", base_url=HERE, buffered=True).get_json()
    assert stretch["rows"] and stretch["events"] > 100
    assert client.get(f"/api/trace/{run}", base_url=HERE, buffered=True).data[:2] == b"\x1f\x8b"


def test_a_trace_that_cannot_be_read_is_said_on_the_page(held: Library) -> None:
    made = page(held, "overview", id_of(held, "broken.json"))
    assert any("broken.json" in said for said in texts(made[0]))


def test_a_run_that_went_away_has_a_page_of_its_own(held: Library) -> None:
    assert any("No such run" in said for said in texts(shown(held, "/overview", "?run=000000000000", "")[0]))
    assert any("hexadecimal" in said for said in texts(shown(held, "/overview", "?run=zz", "")[0]))


def test_a_comparison_takes_the_analyses_that_are_there(held: Library, run: str, monkeypatch: Any) -> None:
    base = id_of(held, "starved_loader")
    for identity in (run, base):
        held.analysis(identity).done.wait(60)
    monkeypatch.setattr("probe.examine.sides.examine", lambda *_: pytest.fail("a run was analysed again"))
    assert held.comparison(base, run, 60).result().rows


def test_two_runs_are_compared(held: Library, run: str) -> None:
    base = id_of(held, "resnet_step")
    held.comparison(base, run).done.wait(60)
    held.analysis(base).done.wait(60)
    said = " ".join(texts(page(held, "compare", run, base=base)[0]))
    assert "Parts of the step" in said


def test_grouping_answers_only_what_it_can(held: Library, run: str) -> None:
    held.analysis(run).done.wait(60)
    rows, columns = grouped(held, "name", run)
    assert len({row["id"] for row in rows}) == len(rows) and columns
    assert not isinstance(grouped(held, "__class__", run)[0], list)
    assert not isinstance(grouped(held, "name", "000000000000")[0], list)


def test_a_run_is_read_once_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    given_back = threading.Semaphore(0)
    monkeypatch.setattr("probe.dashboard.shelf.give_back", given_back.release)

    def make(key: str, told: Any) -> str:
        made.append(key)
        told("half")
        return key

    shelf = Shelf(make, most=2)
    readings = [shelf.ask("a") for _ in range(10)]
    assert {reading.result() for reading in readings} == {"a"} and made == ["a"]
    for key in ("b", "c"):
        shelf.ask(key).result()
    shelf.ask("a").result()
    assert made == ["a", "b", "c", "a"]  # two are held
    assert all(given_back.acquire(timeout=60) for _ in made)  # after each reading


def test_a_reading_that_failed_says_why() -> None:
    def make(key: str, told: Any) -> str:
        raise ProbeError("what is wrong")

    with pytest.raises(ProbeError, match="what is wrong"):
        Shelf(make, most=1).ask("a").result()


def test_a_taken_port_is_left_alone(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        server = Server([str(SAMPLES)], port=taken)
        try:
            assert server.port != taken and str(server.port) in server.address and "token" not in server.address
        finally:
            server.close()


def test_the_command_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["dashboard", "--no-browser"]) == 2
    assert main(["dashboard", "nothing_here", "--no-browser"]) == 2
    assert "nothing_here" in capsys.readouterr().err


def test_pages_that_plotly_draws_on_ask_for_it_with_the_first_scripts(client: FlaskClient) -> None:
    """And no others; the address is the one that Dash would ask for later."""
    drawing = {path.stem for path in (ROOT / "dashboard" / "pages").glob("*.py") if "graph(" in path.read_text()}
    assert drawing == set(WITH_FIGURES)
    for page in PAGES:
        text = client.get(f"/{page}", base_url=HERE, buffered=True).get_data(as_text=True)
        assert (PLOTLY in text) == (page in WITH_FIGURES), page
        assert f'name="figures" content="{" ".join(WITH_FIGURES)}"' in text
    address = PLOTLY.split('href="')[1].split('"')[0]
    assert client.get(address, base_url=HERE, buffered=True).status_code == 200
    assert f'"{address}"' in (ROOT / "dashboard" / "assets" / "figures.js").read_text()


def test_a_run_recorded_meanwhile_is_there_when_the_page_is_asked_for_again(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "resnet_step", tmp_path / "first")
    found = Library(Catalogue([str(tmp_path)]))
    assert "second" not in set(texts(shown(found, "/runs", "", "")))
    shutil.copytree(SAMPLES / "transformer_step", tmp_path / "second")
    assert {"first", "second"} <= set(texts(shown(found, "/runs", "", "")))


def test_what_was_not_recorded_is_named_with_its_option(
    held: Library, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.analysis(run).result()
    said = " ".join(texts(shown(held, "/timeline", f"?run={run}", "")))
    assert "Not recorded: " in said and "stacks=True" in said
    monkeypatch.setattr(operators, "_modules", lambda analysis: None)
    assert "probe.profile(model=model)" in set(texts(shown(held, "/operators", f"?run={run}", "")))


def test_a_page_that_waits_long_asks_less_often() -> None:
    """An answer that comes after the next question is dropped."""
    asked = [waiting("reading", waited_s).children[-1].interval for waited_s in (0.0, 5.0, 10.0, 20.0, 500.0)]
    assert asked == sorted(asked) and asked[0] == asked[1] == 400 and asked[-1] > 3000
