"""`mim-jax serve`: the runs of a folder as live pages, to this machine alone unless told otherwise."""

from __future__ import annotations

import http.server
import ipaddress
import os
import socket
import sys
import traceback
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mim_jax.errors import ConfigError
from mim_jax.report import html
from mim_jax.report.folder import LIST, Folder
from mim_jax.report.style import policy

HOST, PORT = "127.0.0.1", 6460
RUN, STAMP = "/run/", "stamp"
LONGEST = 4096  # characters of an address


class Server(http.server.ThreadingHTTPServer):
    """Answers with the pages of `folder` and with nothing else."""

    daemon_threads = True
    folder: Folder
    local: bool


class Server6(Server):
    """The same at an address with colons."""

    address_family = socket.AF_INET6


class Handler(http.server.BaseHTTPRequestHandler):
    """GET and HEAD of the list, of a run's page, and of their stamps."""

    server: Server
    server_version, sys_version = "mim-jax", ""
    timeout = 30  # seconds for a request to arrive

    def do_GET(self) -> None:
        if self.server.local and not is_local(self.headers.get("Host", "")):
            # Another site may have let its name point here, to read what only this machine may see.
            self._answer(HTTPStatus.FORBIDDEN, "this page is served to localhost alone", "text/plain")
            return
        try:
            found = self._find()
        except Exception:  # a fault of ours in one page must not end the others
            traceback.print_exc()
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the page could not be made; the terminal says why")
            return
        if found is None:
            text = html.document("not here", [html.header("There is no such page", html.link("/", "all runs"))])
            self._answer(HTTPStatus.NOT_FOUND, text, "text/html")
        else:
            self._answer(HTTPStatus.OK, *found)

    do_HEAD = do_GET

    def _find(self) -> tuple[str, str] | None:
        """(text, its type) of the address."""
        path = unquote(urlsplit(self.path).path) if len(self.path) <= LONGEST else ""
        if path in (LIST, f"/{STAMP}"):
            name, wanted = LIST, path.removeprefix("/")
        elif path.startswith(RUN):
            name, _, wanted = path.removeprefix(RUN).rpartition("/")
        else:
            return None
        if wanted not in ("", STAMP) or not name:
            return None
        text = self.server.folder.stamp(name) if wanted else self.server.folder.page(name)
        return None if text is None else (text, "text/plain" if wanted else "text/html")

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", f"{policy(live=True)}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line every ten seconds for each open page would bury what matters."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the browser went away
            return


def is_local(host: str) -> bool:
    """Whether the Host header of a request names this machine as such, with any port (a tunnel may change it)."""
    try:
        name = urlsplit(f"//{host}").hostname if "@" not in host else None
    except ValueError:  # a bracket alone
        return False
    return name is not None and is_loopback(name)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make(root: str | os.PathLike[str], host: str = HOST, port: int = PORT) -> Server:
    """A server that listens; port 0 takes a free one.

    Raises:
        ConfigError: no such folder, or an address that cannot be listened on.
    """
    if not Path(root).is_dir():
        raise ConfigError(f"{root} is no folder: name the folder that the runs are in")
    kind = Server6 if ":" in host else Server
    try:
        server = kind((host, port), Handler)
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{host}, port {port} cannot be listened on ({why}); give another --port or --host"
        ) from error
    server.folder, server.local = Folder(root), is_loopback(host)
    return server


def serve(root: str | os.PathLike[str], host: str = HOST, port: int = PORT) -> None:
    """Serves until control-C.

    Raises:
        ConfigError: as `make`.
    """
    with make(root, host, port) as server:
        name = f"[{host}]" if ":" in host else host
        print(f"runs in {server.folder.root}: http://{name}:{server.server_port}/   (control-C ends it)", flush=True)
        if not server.local:
            print(
                f"warning: whoever reaches {host} from elsewhere can read these pages; there is no password",
                file=sys.stderr,
                flush=True,
            )
        try:
            server.serve_forever(poll_interval=0.25)
        except KeyboardInterrupt:
            print("\nended", flush=True)
