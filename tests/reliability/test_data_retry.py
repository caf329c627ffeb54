"""Sources on other machines that stumble: bounded attempts, then a sentence; nothing half-fetched remains."""

from __future__ import annotations

import contextlib
import errno
import http.server
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mim_jax.data import remote, retry
from mim_jax.data.remote import numbered
from mim_jax.data.retry import ATTEMPTS, retried
from mim_jax.data.sources import open_source
from mim_jax.data.sources.files import Reader, read_image
from mim_jax.errors import DataError

sys.path.insert(0, str(Path(__file__).resolve().parent))
import mutations  # noqa: E402

HICCUPS = ("503", "429", "reset", "truncated", "slow", "closed")


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; before that what `script` says, one answer a request. Counts requests."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.script, self.requests = files, [], 0
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.free = threading.Event()

    def handle_error(self, request, client_address) -> None:
        """Lost connections are what this server is for."""


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # noqa: N802  the library's name
        server: Server = self.server  # type: ignore[assignment]
        server.requests += 1
        trouble = server.script.pop(0) if server.script else ""
        body = server.files.get(self.path)
        if trouble == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif trouble == "closed":
            self.close_connection = True
        elif trouble == "slow":
            server.free.wait(30)
        elif trouble.isdigit() or body is None:
            self.send_error(int(trouble or 404))
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if trouble == "truncated" else body)

    def log_message(self, *args) -> None:
        """Nothing to standard error."""


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    with Server(files) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.free.set()
            server.shutdown()


@pytest.fixture
def waits(monkeypatch, tmp_path):
    """The waits instead of waiting; local copies go below tmp_path, and a silent server is given up soon."""
    found: list[float] = []
    monkeypatch.setattr(retry, "pause", found.append)
    monkeypatch.setattr(remote, "SECONDS", 0.3)
    monkeypatch.setenv("MIM_JAX_DATA", str(tmp_path / "copies"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return found


def copies(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "copies")) if (tmp_path / "copies").exists() else []


def test_hiccups_of_a_web_server_are_outlasted(tmp_path, waits, fault):
    data = mutations.tar()
    survived = 0
    with serving({"/a.tar": data, "/1.tar": data, "/2.tar": data}) as server:
        for number, trouble in enumerate(HICCUPS):
            os.environ["MIM_JAX_DATA"] = str(tmp_path / "copies" / str(number))
            server.script = [trouble] * (ATTEMPTS - 1)
            before = server.requests
            source = open_source(f"wds:{server.address}/a.tar")
            survived += len(source) == 4 and server.requests == before + ATTEMPTS
            assert source[0]["image"].startswith(b"\xff\xd8")
        assert len(open_source(f"wds:{server.address}/{{1..2}}.tar")) == 8
    fault(
        f"a remote shard that fails {ATTEMPTS - 1} times ({', '.join(HICCUPS)})",
        tried=6,
        survived=survived,
        lost="time",
    )
    assert survived == len(HICCUPS)
    assert waits[: ATTEMPTS - 1] == [0.5, 1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("trouble", "last"),
    [("503", "HTTPError HTTP Error 503"), ("reset", "reset"), ("truncated", "bytes came"), ("slow", "timed out")],
)
def test_one_that_never_works_is_named(tmp_path, waits, trouble, last):
    with serving({"/a.tar": mutations.tar()}) as server:
        server.script = [trouble] * 100
        address = f"{server.address}/a.tar"
        with pytest.raises(
            DataError, match=rf"data source 'wds:{address}': '{address}' .* in {ATTEMPTS} attempts"
        ) as caught:
            open_source(f"wds:{address}")
    assert last in str(caught.value) and "\n" not in str(caught.value)
    assert server.requests == ATTEMPTS and len(waits) == ATTEMPTS - 1
    assert copies(tmp_path) == []


@pytest.mark.parametrize("status", ["404", "403", "401"])
def test_what_will_not_pass_is_tried_once(tmp_path, waits, status):
    with serving({"/a.tar": b""}) as server:
        server.script = [status] * 100
        with pytest.raises(DataError, match=f"a.tar' cannot be read: HTTPError HTTP Error {status}"):
            open_source(f"wds:{server.address}/a.tar")
    assert (server.requests, waits, copies(tmp_path)) == (1, [], [])


def test_a_shard_is_fetched_once(tmp_path, waits):
    with serving({"/x.npy": mutations.npy(np.zeros((3, 4, 4), np.uint8))}) as server:
        first = open_source(f"npy:{server.address}/x.npy")
        assert server.requests == 2  # there are no labels beside it
        open_source(f"npy:{server.address}/x.npy")
        assert server.requests == 3  # and still none
        server.files["/x_labels.npy"] = mutations.npy(np.arange(3))
        second = open_source(f"npy:{server.address}/x.npy")
    assert (first.labelled, second.labelled, len(copies(tmp_path))) == (False, True, 2)


def test_numbered_shards(waits):
    assert numbered("x-{08..11}.tar") == ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]
    with pytest.raises(DataError, match="not a range"):
        numbered("{3..1}")
    with pytest.raises(DataError, match="does not say which files it has; number them"):
        open_source("wds:http://127.0.0.1:9/x-*.tar")
    with pytest.raises(DataError, match="does not say which files it has; pack them"):
        open_source("folder:http://127.0.0.1:9/photos")


@pytest.fixture
def flaky(waits):
    """An fsspec file system in memory whose calls fail as often as `failures` says, with what `error` makes."""
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Flaky(MemoryFileSystem):
        protocol, failures, cachable = "flaky", 0, False
        error = staticmethod(lambda: ConnectionResetError("Connection reset by peer"))

        def _stumble(self) -> None:
            if Flaky.failures:
                Flaky.failures -= 1
                raise Flaky.error()

        def _open(self, *args, **kwargs):
            self._stumble()
            return super()._open(*args, **kwargs)

        def ls(self, *args, **kwargs):
            self._stumble()
            return super().ls(*args, **kwargs)

        def unstrip_protocol(self, name: str) -> str:
            return f"flaky://{name.lstrip('/')}"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.replace("flaky://", "memory://"))

    fsspec.register_implementation("flaky", Flaky, clobber=True)
    MemoryFileSystem.store.clear()
    yield Flaky
    MemoryFileSystem.store.clear()


def test_a_bucket_that_stumbles(flaky, waits, tmp_path, fault):
    files = flaky()
    for i, image in enumerate(mutations.images()[:3]):
        files.pipe(f"/bucket/photos/{'cat' if i else 'dog'}/{i}.png", image)
    for i in range(2):
        files.pipe(f"/bucket/shards/x-{i}.tar", mutations.tar())
    survived = 0
    for failures in range(ATTEMPTS):
        flaky.failures = failures
        survived += len(open_source("folder:flaky://bucket/photos")) == 3
    source = open_source("folder:flaky://bucket/photos")
    flaky.failures = ATTEMPTS - 1
    assert source[1]["image"] == mutations.images()[2] and source.labels().tolist() == [0, 0, 1]
    flaky.failures = ATTEMPTS - 1
    assert len(open_source("wds:flaky://bucket/shards/x-*.tar")) == 8
    fault("a bucket that fails up to 5 times in a row", tried=ATTEMPTS + 2, survived=survived + 2, lost="time")
    assert survived == ATTEMPTS
    flaky.failures = 100
    with pytest.raises(
        DataError, match=rf"'flaky://bucket/photos/cat/1.png' .* in {ATTEMPTS} attempts, the last: Conn"
    ):
        source[0]
    assert flaky.failures == 100 - ATTEMPTS
    flaky.error = staticmethod(lambda: PermissionError("no"))
    with pytest.raises(DataError, match="cannot be read: PermissionError no"):
        source[0]
    assert flaky.failures == 100 - ATTEMPTS - 1


def test_a_bucket_without_its_package_says_so(waits):
    for address, package in (("gs://bucket/x.tar", "gcsfs"), ("s3://bucket/x.tar", "s3fs")):
        try:
            __import__(package)
        except ImportError:
            with pytest.raises(DataError, match=f"'{address}' cannot be opened: .*{package}"):
                open_source(f"wds:{address}")


def test_a_network_disk_that_is_away_for_a_moment(tmp_path, waits, monkeypatch):
    (tmp_path / "x").write_bytes(b"0123456789")
    real, failures = os.pread, [errno.ESTALE, errno.EIO]

    def pread(handle: int, size: int, offset: int) -> bytes:
        if failures:
            raise OSError(failures.pop(), "Stale file handle")
        return real(handle, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    assert Reader().read(str(tmp_path / "x"), 2, 3) == b"234"
    real_open = os.open

    def refuse(path, *args, **kwargs):
        if failures:
            raise OSError(failures.pop(), "Input/output error")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    failures[:] = [errno.EIO] * 3
    assert read_image(str(tmp_path / "x")) == b"0123456789"
    failures[:] = [errno.EIO] * 100
    with pytest.raises(DataError, match=f"x' could not be read in {ATTEMPTS} attempts, the last: OSError"):
        read_image(str(tmp_path / "x"))


def test_errors_that_say_their_status_are_judged_by_it(waits):
    class Client(Exception):
        def __init__(self, status: int):
            super().__init__("from a client library")
            self.status = status

    def fail(error: Exception):
        raise error

    for error in (Client(403), Client(404), ValueError("a bug of ours")):
        with pytest.raises(DataError, match="cannot be read"):
            retried(lambda error=error: fail(error), "x")
        assert waits == []
    with pytest.raises(DataError, match="attempts"):
        retried(lambda: fail(Client(503)), "x")
    assert len(waits) == ATTEMPTS - 1
