"""The table of faults: what was tried, what survived, what was lost; printed after the tests, written by --faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = ("fault", "times tried", "times survived", "what was lost", "test")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", metavar="FILE", help="write the table of faults to this JSON file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


ROWS: pytest.StashKey[list[dict]] = pytest.StashKey()


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[..., None]:
    """fault(name, tried=, survived=, lost=): a row of the table; to be called before the test's last assertion."""

    def record(name: str, *, tried: int, survived: int, lost: str) -> None:
        values = (name, tried, survived, lost, request.node.nodeid)
        request.config.stash[ROWS].append(dict(zip(HEAD, values, strict=True)))

    return record


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("faults")
    for row in rows:
        name, tried, survived, lost, _ = row.values()
        terminalreporter.write_line(f"{name}: tried {tried}, survived {survived}, lost: {lost}")
    if target := config.getoption("--faults", None):
        Path(target).write_text(json.dumps(rows, indent=1) + "\n")
