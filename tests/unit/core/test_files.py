"""Atomic writes and exact reads."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflow_scripts.core import files
from workflow_scripts.core.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path):
    target = tmp_path / "a.csv"
    files.write_text("old", target)

    def write_half() -> None:
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_csv_keeps_names_as_text_and_floats_to_the_bit(tmp_path: Path):
    table = pd.DataFrame({"view_id": ["007", "NA"], "label": ["", "x"], "loss": [1 / 3, np.pi]})
    files.write_csv(table, tmp_path / "a.csv")
    back = files.read_csv(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(back, table)


def test_npy_refuses_pickles(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="Python objects"):
        files.read_npy(tmp_path / "a.npy")


def test_digest_of_a_folder_sees_names_and_bytes(tmp_path: Path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("1")
    before = files.sha256(tmp_path / "x")
    (tmp_path / "x" / "a").rename(tmp_path / "x" / "b")
    assert files.sha256(tmp_path / "x") != before
    with pytest.raises(UserError, match="does not exist"):
        files.sha256(tmp_path / "nothing")


def test_blocks_become_one_array_or_nothing(tmp_path: Path):
    whole = np.arange(70, dtype=np.float32).reshape(10, 7)
    path = tmp_path / "features.npy"
    files.write_npy_blocks(iter([whole[:4], whole[4:8], whole[8:]]), 10, path)
    np.save(tmp_path / "other.npy", whole)
    assert path.read_bytes() == (tmp_path / "other.npy").read_bytes()
    with pytest.raises(AssertionError, match="8 rows came, 10"):
        files.write_npy_blocks(iter([whole[:8]]), 10, path)
    assert np.array_equal(np.load(path), whole)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
