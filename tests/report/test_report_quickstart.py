"""The quickstart's folder is new each time, and nothing that is there is touched."""

from __future__ import annotations

import importlib.util


def test_each_quickstart_has_its_own_folder(root, tmp_path):
    spec = importlib.util.spec_from_file_location("quickstart", root / "tools" / "quickstart.py")
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    runs = tmp_path / "runs"
    assert quickstart.next_workdir(runs) == runs / "quickstart-1"
    (runs / "quickstart-3").mkdir()
    (runs / "quickstart-3" / "keep").write_text("")
    names = [quickstart.next_workdir(runs).name for _ in range(3)]
    assert names == ["quickstart-2", "quickstart-4", "quickstart-5"]
    assert all(not list((runs / name).iterdir()) for name in names)
