"""Who may ask, and what may a page do? Checked before every request, said with every answer.

Without --host only this machine can connect. Any other address demands a token that nobody can guess; the first request
brings it in its address, later ones in a cookie. A host that is not on the list is refused whatever it asks, so that no
page of another site reaches the server under a name of its own (DNS rebinding).
"""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Flask, Response, redirect, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "probe_token"
LARGEST_REQUEST_BYTES = 4 << 20
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """Under which names the server answers, and the token that it then demands; None on loopback."""

    hosts: frozenset[str]
    token: str | None = None


def access(host: str) -> Access:
    """The rules for a server that listens on `host`."""
    if host in LOOPBACK:
        return Access(frozenset(LOOPBACK))
    return Access(frozenset((*LOOPBACK, host.lower(), *_own_names())), secrets.token_urlsafe(24))


def _own_names() -> Iterable[str]:
    """What this machine is called, and its addresses."""
    name = socket.gethostname()
    yield from (name.lower(), socket.getfqdn().lower())
    try:
        yield from (str(found[4][0]) for found in socket.getaddrinfo(name, None))
    except OSError:
        return  # a machine without a resolvable name is reached by the address that --host names


def guard(server: Flask, rules: Access, script_hashes: Callable[[], Iterable[str]]) -> None:
    """Have every request checked and every answer marked."""
    server.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST_BYTES
    policy: list[str] = []

    @server.before_request
    def refuse() -> AnyResponse | None:
        return _refusal(rules)

    @server.after_request
    def mark(response: Response) -> Response:
        if not policy:
            policy.append(content_policy(script_hashes()))
        response.headers.update(HEADERS)
        response.headers["Content-Security-Policy"] = policy[0]
        return response

    @server.errorhandler(Exception)
    def answer(error: Exception) -> AnyResponse | HTTPException:
        return _answer(error)


def content_policy(script_hashes: Iterable[str]) -> str:
    """Nothing but what this server sends: no other origin, no inline script but those Dash itself writes."""
    scripts = " ".join(("'self'", *script_hashes))
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _refusal(rules: Access) -> AnyResponse | None:
    """The answer to a request that may not be served; None for others."""
    if host_of(request.host) not in rules.hosts:
        return plain("this host name is not served here", 403)
    origin = request.headers.get("Origin")
    if origin and (urlsplit(origin).hostname or "") not in rules.hosts:
        return plain("requests of other sites are refused", 403)
    if rules.token is None:
        return None
    if _same(request.args.get("token", ""), rules.token) and request.method == "GET":
        welcome = redirect(request.path)
        welcome.set_cookie(COOKIE, rules.token, httponly=True, samesite="Strict")
        return welcome
    if not _same(request.cookies.get(COOKIE, ""), rules.token):
        return plain("open the address that `probe dashboard` printed: it holds the token", 401)
    return None


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    return (urlsplit(f"//{header}").hostname or "").lower() if header.count("[") < 2 else ""


def _answer(error: Exception) -> AnyResponse | HTTPException:
    """What a request gets that raised: what it did wrong, in one line. Pages catch what goes wrong within them."""
    if isinstance(error, HTTPException):
        return plain(error.description or error.name, error.code or 400)
    if request.path.startswith("/_dash-component-suites/"):
        return plain("no such file", 404)
    logger.info("refused %s: %s", request.path, type(error).__name__)
    return plain("a request that no page of the dashboard makes", 400)


def plain(message: str, status: int) -> Response:
    """One line of text."""
    return Response(message + "\n", status, mimetype="text/plain")
