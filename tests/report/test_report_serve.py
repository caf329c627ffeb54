"""What `mim-jax serve` shows, and above all what it does not."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from test_report_compare import make
from test_report_page import HOSTILE, Page

from mim_jax import cli
from mim_jax.errors import ConfigError
from mim_jax.report import folder as folders
from mim_jax.report import live, serve
from mim_jax.report.run_files import RunFiles

SECRET = "the secret of another folder"


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET)
    root = tmp_path / "runs"
    make(root / "first")
    make(root / "group" / "a & b", steps=2)
    (root / "first" / "resolved.json").write_text(json.dumps({"steps": {"total": 4}}))
    (root / "first" / "checkpoints").mkdir()
    (root / "first" / "checkpoints" / "notes.txt").write_text(SECRET)
    return root


@pytest.fixture
def served(runs):
    """ask(path, method, **headers) -> (status, headers, text)."""
    server = serve.make(runs, port=0)
    server.folder.every = 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def ask(path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        host = headers.pop("Host", f"127.0.0.1:{server.server_port}")
        connection.putrequest(method, path, skip_host=True)
        if host is not None:
            connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, dict(answer.getheaders()), text

    yield ask
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_list_says_how_each_run_is_doing(served):
    status, _, text = served("/")
    page = Page(text)
    assert status == 200
    assert sorted(page.attributes("a", "href")[1:]) == ["/run/first/", "/run/group/a%20%26%20b/"]
    assert "first mae finished 4 / 4 0.2500 – just now" in page.text
    assert "group/a & b mae stopped 2 0.5000 – just now" in page.text


def test_the_page_of_a_run(served):
    for path, name in (("/run/first/", "mae · first"), ("/run/group/a%20%26%20b/", "mae · a & b")):
        status, headers, text = served(path)
        assert status == 200 and Page(text).text.startswith(name)
        assert headers["Content-Type"] == "text/html; charset=utf-8" and headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_a_page_is_made_anew_when_a_file_changes(served, runs):
    before = served("/run/first/stamp")[2]
    assert served("/run/first/stamp")[2] == before == re.search('data-stamp="([^"]*)"', served("/run/first/")[2])[1]
    with (runs / "first" / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 9, "loss": 0.125}\n')
    assert served("/run/first/stamp")[2] != before
    assert "0.1250" in served("/run/first/")[2] and "0.1250" in served("/")[2]
    make(runs / "second")
    assert "/run/second/" in served("/")[2]
    shutil.rmtree(runs / "first")
    assert served("/run/first/")[0] == 404 and served("/run/first/stamp")[0] == 404


def test_a_page_is_kept_while_nothing_changes(runs, monkeypatch):
    made = []
    monkeypatch.setattr(folders.page, "page", lambda run, **more: made.append(run.name) or "text")
    folder = folders.Folder(runs, every=0)
    for _ in range(3):
        assert folder.page("first") == "text" and folder.page("nowhere") is None
    assert made == ["first"]
    slow = folders.Folder(runs, every=1000)
    slow.page("first")
    (runs / "first" / "eval.json").write_text("[]")
    slow.page("first")
    assert made == ["first", "first"]  # it has not even looked again
    folder.page("first")
    assert made == ["first"] * 3


OUTSIDE = (
    "/secret.txt", "/../secret.txt", "/run/../secret.txt", "/run/../../secret.txt/", "/run/..%2f..%2fsecret.txt/",
    "/run/%2e%2e/%2e%2e/", "/run/first/../../../secret.txt/", "/run/first/config.json", "/run/first/metrics.jsonl",
    "/run/first/checkpoints/notes.txt", "/run/first/checkpoints/", "/run//etc/", "/run//", "/run/", "/run/./",
    "/run/first/%00/", "/run/first%00/", "/run/first\\..\\/", "//evil.example/", "/run/group/", "/run/first",
    "/run/first/pictures/", "/run/" + "a/" * 3000, "/etc/passwd", "/stamp/", "/run/first/stamp/", "/index.html",
    "/run/FIRST/", "/run/%ff/", "/run/link/", "/run/links/outside/", "/favicon.ico",
)  # fmt: skip


def test_no_file_of_the_disk_can_be_had(served, runs, tmp_path):
    make(tmp_path / "outside")
    (tmp_path / "outside" / "resolved.json").write_text(json.dumps({"method": SECRET}))
    (runs / "link").symlink_to(tmp_path / "outside")
    (runs / "links").mkdir()
    (runs / "links" / "outside").symlink_to(tmp_path / "outside")
    (runs / "first" / "resolved.json").unlink()
    (runs / "first" / "resolved.json").symlink_to(tmp_path / "outside" / "resolved.json")
    (runs / "first" / "bad_records.txt").symlink_to(tmp_path / "secret.txt")
    for path in OUTSIDE:
        status, _, text = served(path)
        assert status == 404 and SECRET not in text, path
    for path in ("/", "/run/first/"):
        assert SECRET not in served(path)[2]


def test_a_run_that_is_a_link_to_another_folder_is_not_there(runs, tmp_path):
    make(tmp_path / "outside")
    (runs / "half").mkdir()
    (runs / "half" / "config.json").symlink_to(tmp_path / "outside" / "config.json")
    assert sorted(folders.Folder(runs).runs()) == ["first", "group/a & b"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:6460", 200), ("127.0.0.1:9", 200), ("[::1]:6460", 200), ("127.0.0.2", 200),
        ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("localhost.evil.example:6460", 403), ("", 403),
        ("localhost@evil.example", 403), ("evil.example@localhost", 403), (None, 403), ("10.0.0.1", 403), ("[", 403),
    ],
)  # fmt: skip
def test_only_this_machine_is_answered_by_name(served, host, status):
    """A page of another site whose name was made to point here asks with that name."""
    assert served("/", Host=host)[0] == status


def test_other_hosts_are_answered_where_that_was_asked_for(runs):
    assert not serve.is_loopback("0.0.0.0") and not serve.is_loopback("runs.example")
    with serve.make(runs, "0.0.0.0", 0) as server:
        assert not server.local


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_sent(served, method):
    assert served("/", method)[0] == 501


def test_head_has_no_body(served):
    status, headers, text = served("/", "HEAD")
    assert (status, text) == (200, "") and int(headers["Content-Length"]) > 1000


def test_names_stay_text(served, runs):
    name = HOSTILE.replace("/", "")
    make(runs / name)
    page = Page(served("/")[2])
    assert name in page.text and not [n for _, values in page.tags for n in values if n.startswith("on")]
    address = next(a for a in page.attributes("a", "href") if "script" in a)
    assert not set(address) & set("<>'\" ") and served(address)[0] == 200


def test_a_damaged_run_says_so_and_leaves_the_others(served, runs):
    (runs / "group" / "a & b" / "config.json").write_text("{")
    (runs / "first" / "eval.json").write_text("[{")
    listed = Page(served("/")[2]).text
    assert "damaged" in listed and "first mae finished" in listed
    status, _, text = served("/run/first/")
    assert status == 200 and "eval.json is damaged" in text
    assert "cannot be read as a saved config" in served("/run/group/a%20%26%20b/")[2]


def test_a_fault_of_ours_ends_one_answer_alone(served, monkeypatch, capfd):
    monkeypatch.setattr(folders.page, "page", lambda run, **more: 1 / 0)
    status, _, text = served("/run/first/")
    assert status == 500 and "ZeroDivision" not in text and "ZeroDivision" in capfd.readouterr().err
    assert served("/")[0] == 200


def test_whether_a_run_is_being_written(runs):
    from mim_jax.training.lock import FILE, RunLock

    run = RunFiles(runs / "first")
    assert live.LOCK == FILE and live.state(run) == ("finished", "")
    with RunLock(run.folder):
        assert live.state(run) == ("writing", "good")
    assert live.state(run) == ("finished", "")
    for owner in ('{"host": "another", "pid": 1}', "{", ""):  # another host's, or nobody's that is known
        (run.folder / ".lock").write_text(owner)
        os.utime(run.folder / "metrics.jsonl")
        assert live.is_writing(run.folder)  # its files are fresh
        for path in run.folder.glob("*.json*"):
            os.utime(path, (1, 1))
        assert not live.is_writing(run.folder)


def test_looking_at_a_lock_does_not_get_in_the_way(runs, monkeypatch):
    """A dead owner's lock is never taken, not even for a moment: a run may be about to begin."""
    (runs / "first" / ".lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
    monkeypatch.setattr(live.fcntl, "flock", lambda *args: pytest.fail("the lock was asked"))
    assert not live.is_writing(runs / "first")


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "just now"), (100, "2 min ago"), (9000, "2 h ago"), (4e5, "5 days ago")]
)
def test_ago(seconds, words):
    assert folders.ago(seconds) == words


def test_bad_requests(runs, tmp_path, capsys):
    with pytest.raises(ConfigError, match="is no folder"):
        serve.make(tmp_path / "nowhere")
    with serve.make(runs, port=0) as taken, pytest.raises(ConfigError, match="give another --port or --host"):
        serve.make(runs, port=taken.server_port)
    with pytest.raises(ConfigError, match="cannot be listened on"):
        serve.make(runs, host="no such host.example", port=0)
    assert cli.main(["serve", str(runs), "--port", "70000"]) == 2
    assert "'70000' is not a port" in capsys.readouterr().err


def test_control_c_ends_it_cleanly(runs):
    command = [sys.executable, "-m", "mim_jax", "serve", str(runs), "--port", "0", "--host", "0.0.0.0"]
    # A shell that runs the tests in the background has Ctrl-C ignored by all that they start.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, preexec_fn=heard)
    try:
        assert "http://0.0.0.0:" in process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0 and "ended" in out
    assert err.startswith("warning: whoever reaches 0.0.0.0") and err.count("\n") == 1


def test_a_run_at_an_address_gets_its_page_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MIM_JAX_RUNS", str(tmp_path / "here"))
    make(tmp_path / "there" / "run")
    assert cli.main(["report", f"file://{tmp_path}/there/run"]) == 0
    text = (tmp_path / "there" / "run" / "index.html").read_text()
    assert "<h1>mae · run</h1>" in text and f"mim-jax show file://{tmp_path}/there/run" in text


def test_neither_command_starts_jax(runs, tmp_path):
    """They must not take a device from the run that they look at."""
    code = (
        "import sys; from mim_jax import cli; from mim_jax.report import serve;"
        f"assert cli.main(['report', {str(runs / 'first')!r}, '--out', {str(tmp_path / 'page.html')!r}]) == 0;"
        f"serve.make({str(runs)!r}, port=0).folder.page('/'); assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "page.html: 0." in done.stdout
