"""The quickstart's folder is new each time, and nothing that is there is touched."""

from __future__ import annotations

import pytest

from mim_jax.commands.quickstart import next_workdir
from mim_jax.errors import DataError


def test_each_quickstart_has_its_own_folder(tmp_path):
    runs = tmp_path / "some" / "runs"
    assert next_workdir(runs) == runs / "quickstart-1"
    (runs / "quickstart-3").mkdir()
    (runs / "quickstart-3" / "keep").write_text("")
    names = [next_workdir(runs).name for _ in range(3)]
    assert names == ["quickstart-2", "quickstart-4", "quickstart-5"]
    assert all(not list((runs / name).iterdir()) for name in names)


def test_where_no_folder_can_be_made_it_says_so(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(DataError, match=r"no folder can be made in .*runs: .*; give another by --runs DIR"):
        next_workdir(tmp_path / "runs")
