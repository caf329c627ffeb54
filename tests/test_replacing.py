"""Files that appear whole or not at all."""

from __future__ import annotations

import threading

import pytest

from mim_jax.replacing import alone, replacing


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_went_wrong_is_what_is_said(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "no" / "file") as temporary:
        temporary.write_text("x")


def test_one_at_a_time_in_a_folder(tmp_path):
    order = []

    def other():
        with alone(tmp_path):
            order.append("other")

    with alone(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"] and list(tmp_path.iterdir()) == []
