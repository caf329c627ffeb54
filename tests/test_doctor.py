"""The doctor: each fault is found and comes with its mend."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from mim_jax import doctor
from mim_jax.doctor import hosts, machine
from mim_jax.doctor.hosts import Expected
from mim_jax.doctor.meeting import GIVEN, Meeting, Missing, Place, expand, place
from mim_jax.errors import ConfigError


def test_lower_bounds_are_those_of_the_package_without_its_extras(monkeypatch):
    lines = ["jax>=0.10.2", "etils[epath]>=1.15", "rich", 'torch>=2.13; extra == "interop"', "a_b.c >= 1.2"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert machine.lower_bounds() == {"jax": "0.10.2", "etils": "1.15", "a_b.c": "1.2"}


@pytest.mark.parametrize(
    ("version", "bound", "old"),
    [
        ("0.9.9", "0.10.2", True),
        ("0.10.2", "0.10.2", False),
        ("0.12.0.1", "0.10.2", False),
        ("2.13.0+cpu", "2.13", False),
    ],
)
def test_library_compares_numbers_not_text(monkeypatch, version, bound, old):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    finding = machine.library("jax", bound)
    assert bool(finding.fault) is old and version in finding.text
    assert ("pip install 'jax>=0.10.2'" in finding.fault) is old


def test_a_library_that_is_not_there():
    finding = machine.library("no-such-distribution", "1.0")
    assert finding.text == "not installed" and "pip install 'no-such-distribution>=1.0'" in finding.fault


def test_the_run_directory_is_tried_and_not_created(tmp_path):
    finding = machine.writable(tmp_path / "runs" / "x")
    assert not finding.fault and str(tmp_path) in finding.text
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in machine.writable(tmp_path / "file" / "runs").fault


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert "less than 1 GiB free" in machine.writable(tmp_path).fault


def test_decoding_is_measured():
    finding = machine.decoding(seconds=0.01)
    assert not finding.fault and "640 x 427" in finding.text


def test_devices_answer():
    found = list(machine.devices(timeout=120))
    assert [finding.name for finding in found] == ["devices", "matrix product"]
    assert not any(finding.fault for finding in found) and "cpu" in found[0].text


def test_a_backend_that_hangs():
    (finding,) = machine.devices(timeout=0.01)
    assert "did not answer in 0.01 s" in finding.fault and "JAX_PLATFORMS=cpu" in finding.fault


def test_a_backend_that_does_not_start(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    (finding,) = machine.devices(timeout=120)
    assert "JAX_PLATFORMS=abacus asks for a backend that does not start" in finding.fault


@pytest.mark.parametrize("fault", ["", "mend it so"])
def test_the_report_names_the_mend_and_the_verdict(monkeypatch, capsys, fault):
    monkeypatch.setattr(doctor, "examine", lambda *a: iter([doctor.Finding("memory", "1 GiB", fault)]))
    assert doctor.doctor() is (not fault)
    shown = capsys.readouterr().out
    assert "memory" in shown and fault in shown
    assert shown.splitlines()[-1].startswith("1 fault" if fault else "all is well")


# ---- Several hosts: who has come -------------------------------------------------------------------------------------


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture
def meet(port):
    """Calls a function of a meeting for each of `present` processes of `count`, all at once; {number: what it gave}."""

    def run(act, count, present, timeout=20.0):
        found = {}

        def one(number):
            try:
                with Meeting(Place(f"localhost:{port}", count, number), timeout) as meeting:
                    found[number] = act(meeting)
            except Exception as error:
                found[number] = error

        threads = [threading.Thread(target=one, args=(number,)) for number in present]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    return run


def test_all_meet_and_tell_each_other(meet):
    def act(meeting):
        meeting.gather()
        return meeting.exchange({"of": meeting.here.number}, 20)

    assert meet(act, 3, [2, 0, 1]) == dict.fromkeys(range(3), [{"of": 0}, {"of": 1}, {"of": 2}])


@pytest.mark.parametrize(("present", "missing"), [([0, 2], [1]), ([1, 2], [0])])
def test_who_has_not_come_is_named(meet, present, missing):
    start = time.monotonic()
    found = meet(Meeting.gather, 3, present, timeout=1.0)
    assert {type(one) for one in found.values()} == {Missing}
    assert [one.numbers for one in found.values()] == [missing] * 2
    assert time.monotonic() - start < 60


def test_who_leaves_is_named(meet):
    def act(meeting):
        meeting.gather()
        return None if meeting.here.number == 1 else meeting.exchange({}, 20)

    found = meet(act, 3, [0, 1, 2])
    assert found[0].numbers == found[2].numbers == [1]


def test_strangers_at_the_door_are_sent_away(meet, port):
    def stranger():
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"greeting": "x", "number": 1}\n'):
            end = time.monotonic() + 20
            while time.monotonic() < end:
                try:
                    with socket.create_connection(("localhost", port), 1) as call:
                        call.sendall(words)
                    break
                except OSError:
                    time.sleep(0.01)

    def act(meeting):
        if meeting.here.number == 1:
            stranger()
        meeting.gather()
        return meeting.here.number

    assert meet(act, 2, [0, 1]) == {0: 0, 1: 1}


def test_a_port_that_is_taken(meet, port):
    with socket.create_server(("", port)):
        found = meet(Meeting.gather, 2, [0])
    assert isinstance(found[0], ConfigError) and f"port {port}" in str(found[0])


def test_where_this_process_stands(monkeypatch):
    for name, value in zip(GIVEN, ("", "", ""), strict=True):
        monkeypatch.setenv(name, value)
    assert place(1) is None
    for name, value in zip(GIVEN, ("host-a:1234", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host-a,host-b")
    assert place(1) == Place("host-a:1234", 2, 1, ("host-a", "host-b"))
    assert place(1).name(1) == "process 1 (host-b)"
    monkeypatch.setenv("JAX_PROCESS_ID", "2")
    with pytest.raises(ConfigError, match="do not agree"):
        place(1)


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("", []),
        ("node7", ["node7"]),
        ("a[08-10],b,c[1,3]", ["a08", "a09", "a10", "b", "c1", "c3"]),
    ],
)
def test_slurms_lists_of_nodes(nodes, names):
    assert expand(nodes) == names


# ---- What they find together -----------------------------------------------------------------------------------------

WELL = {
    "count": 4, "devices": 8, "kind": "TPU v4", "platform": "tpu", "memory": 0, "right": True, "bytes": 4e6,
    "seconds": 1e-3,
}  # fmt: skip
EXPECTED = Expected(8, 2)


@pytest.fixture
def examined(meet, monkeypatch, tmp_path):
    """Findings of process 0 of two, whose devices are not asked. changed: of what process 1 says; workdirs: of both."""
    monkeypatch.setattr(hosts, "examine_alone", lambda workdir: [])

    def run(*, facts=None, probed=None, workdirs=(tmp_path, tmp_path), expected=EXPECTED):
        real = hosts.facts
        monkeypatch.setattr(
            hosts, "facts", lambda m, *a: real(m, *a) | ((facts or {}) if m.here.number else {"host": "other"})
        )
        monkeypatch.setattr(hosts, "probe", lambda *a, processes: WELL)

        def act(meeting):
            here = meeting.here.number
            if here and probed:
                exchange = meeting.exchange
                meeting.exchange = lambda values, s: exchange(values | probed if "devices" in values else values, s)
            return list(hosts.together(meeting, str(workdirs[here]), 20.0, expected, ""))

        return {finding.name: finding for finding in meet(act, 2, [0, 1])[0]}

    return run


def test_two_hosts_that_are_well(examined):
    found = examined()
    assert not [finding for finding in found.values() if finding.fault], found
    assert list(found) == ["hosts", "versions", "clocks", "run directory", "devices", "all-reduce", "time"]
    assert "2 hosts" in found["run directory"].text and "8 x TPU v4" in found["devices"].text


def test_versions_that_differ_are_told_with_their_hosts(examined):
    found = examined(facts={"versions": hosts.versions() | {"jax": "0.9.9", "libtpu": "0.0.1"}})
    now = importlib.metadata.version("jax")
    assert f"{now} on process 0 on other" in found["jax"].fault and "0.9.9 on process 1" in found["jax"].fault
    assert "none on process 0" in found["libtpu"].fault or "0.0.1 on process 1" in found["libtpu"].fault
    assert "numpy" not in found and "versions" not in found


def test_a_workdir_that_is_not_shared(examined, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts.time, "sleep", lambda seconds: None)
    apart = [tmp_path / "a", tmp_path / "b"]
    for folder in apart:
        folder.mkdir()
    fault = examined(workdirs=apart)["run directory"].fault
    assert "process 0 on other does not see there what process 1" in fault and "can write and share" in fault
    assert not any(list(folder.iterdir()) for folder in apart)


def test_a_workdir_that_one_host_cannot_write(examined, tmp_path):
    (tmp_path / "file").write_text("")
    fault = examined(workdirs=(tmp_path, tmp_path / "file"))["run directory"].fault
    assert "process 1" in fault and "cannot write there" in fault


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        ({"facts": {"offset": 60.0}}, "clocks", "60.0 s ahead of process 0"),
        ({"facts": {"faults": [("memory", "1 GiB", "too little")]}}, "memory", "too little"),
        ({"probed": {"count": 3}}, "devices", "the hosts differ: 3 on process 1"),
        ({"probed": {"count": 3}, "expected": Expected(9)}, "devices", "9 were expected: 3 on process 1"),
        ({"expected": Expected(8, 4)}, "hosts", "4 were expected"),
        ({"probed": {"error": "no answer"}}, "devices", "no answer"),
        ({"probed": {"right": False}}, "all-reduce", "wrong on process 1"),
    ],
)
def test_faults_name_the_host(examined, change, name, said):
    assert said in examined(**change)[name].fault


def test_data_that_hosts_read(tmp_path):
    found = hosts.read_rate("digits", seconds=0.05)
    assert found["records"] > 1000 and found["rate"] > 0
    (finding,) = hosts.reading([found, found | {"records": 3}], ["a", "b"])
    assert "different numbers of records" in finding.fault
    (finding,) = hosts.reading([found, hosts.read_rate(f"folder:{tmp_path}/none")], ["a", "b"])
    assert "cannot be read on b" in finding.text and str(tmp_path) in finding.fault


def test_a_host_that_should_have_company():
    (finding,) = hosts.alone(Expected(0, 4), "", 1)
    assert "stands alone" in finding.fault


# ---- For real: two processes -----------------------------------------------------------------------------------------


def two(port, root, tmp_path, *words, before=("", ""), present=(0, 1)):
    """The doctor in two processes of one device each: [(exit code, output), ...]. before: code that each runs first."""
    env = os.environ | {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": ""}
    started = []
    for number in present:
        code = f"{before[number]}\nimport sys; from mim_jax.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "doctor", "--workdir", str(tmp_path), *words]
        started.append(
            subprocess.Popen(
                command,
                env=env | {"JAX_PROCESS_ID": str(number)},
                cwd=root,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    said = [one.communicate(timeout=300)[0] for one in started]
    return [(one.returncode, text) for one, text in zip(started, said, strict=True)]


def test_two_processes(port, root, tmp_path):
    (code, said), (other, quiet) = two(
        port, root, tmp_path, "--expect-devices", "2", "--expect-hosts", "2", "--data", "digits"
    )
    assert (code, other) == (0, 0), said + quiet
    for words in (
        "2 of 2 came",
        "the same on all hosts",
        "written and read by 2 hosts",
        "2 x cpu",
        "4 MB over 2 devices",
    ):
        assert words in said
    assert quiet == "all is well\n" and not list(tmp_path.iterdir())


def test_two_processes_of_which_one_is_missing(port, root, tmp_path):
    ((code, said),) = two(port, root, tmp_path, "--timeout", "2", present=[0])
    assert code == 1 and "process 1 did not come" in said and "within 2 s" in said


@pytest.mark.slow
def test_two_processes_that_are_not_alike(port, root, tmp_path):
    older = (
        "from mim_jax.doctor import hosts; real = hosts.versions; hosts.versions = lambda: real() | {'jax': '0.9.9'}"
    )
    (code, said), (other, _) = two(port, root, tmp_path / "none", "--expect-devices", "4", before=("", older))
    assert (code, other) == (1, 1)
    assert "jax" in said and "0.9.9 on process 1" in said and "4 were expected" in said
