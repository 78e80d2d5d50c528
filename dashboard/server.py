"""The server: where it listens, what it prints, how it ends."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import webbrowser
from collections.abc import Sequence

from waitress import create_server

from probe.dashboard.app import create_app
from probe.dashboard.catalogue import Catalogue
from probe.dashboard.kept_memory import keep_little
from probe.dashboard.loaded import Library
from probe.dashboard.security import LOOPBACK, Access, access
from probe.errors import UsageError

THREADS = 8
PORT = 8050


class Server:
    """A server that is bound and not yet running. Raises UsageError where it cannot be bound."""

    def __init__(self, sources: Sequence[str], host: str = "127.0.0.1", port: int = PORT) -> None:
        self.library = Library(Catalogue(sources))
        self._rules = access(host)
        self._socket = bound(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        app = create_app(self.library, self._rules)
        self._waitress = create_server(app.server, sockets=[self._socket], threads=THREADS, ident="probe")
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # waits of milliseconds are no news

    @property
    def address(self) -> str:
        """What to open: with the token, where one is demanded."""
        return address(self.host, self.port, self._rules)

    def run(self) -> None:
        """Serve until Ctrl-C. The first run is read meanwhile, so that its page is there when it is asked for."""
        keep_little()
        threading.Thread(target=self._first, daemon=True).start()
        try:
            self._waitress.run()
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening and let the threads end, and the processes that read."""
        self.library.readings.end()
        self._waitress.task_dispatcher.shutdown()
        self._waitress.close()
        self._socket.close()

    def _first(self) -> None:
        first = next((entry for entry in self.library.catalogue.entries() if entry.kind != "microbench"), None)
        if first is not None:
            self.library.analysis(first.id)


def bound(host: str, port: int) -> socket.socket:
    """A socket on `port`, or on a free one where that is taken. Raises UsageError for a host that is not this one."""
    try:
        family, _, _, _, place = socket.getaddrinfo("127.0.0.1" if host == "localhost" else host, port)[0]
    except OSError as error:
        raise UsageError(f"--host {host}: no such address: {error.strerror or error}") from None
    for wanted in (port, 0):
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((place[0], wanted, *place[2:]))
            return found
        except OSError as error:
            found.close()
            if error.errno != errno.EADDRINUSE or not wanted:
                raise UsageError(f"--host {host} --port {port}: {error.strerror or error}; choose another") from None
    raise UsageError(f"--host {host}: no port is free")


def address(host: str, port: int, rules: Access) -> str:
    """The address to open."""
    name = "127.0.0.1" if host in (*LOOPBACK, "0.0.0.0", "::") else host
    shown = f"[{name}]" if ":" in name else name
    token = f"?token={rules.token}" if rules.token else ""
    return f"http://{shown}:{port}/{token}"


def open_browser(where: str) -> None:
    """Show the address in the user's browser, if there is one."""
    threading.Thread(target=webbrowser.open, args=(where,), daemon=True).start()
