"""Atomic writes and exact reads."""

import argparse
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.shared import REPOSITORY
from workflow_scripts.core import files
from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.arguments import FILES


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
    with pytest.raises(UserError, match="damaged .*Python objects"):
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


WRITERS = {
    "read_json": lambda path: files.write_json({"key": [1, 2, 3]}, path),
    "read_npy": lambda path: files.write_npy(np.arange(12).reshape(3, 4), path),
    "read_csv": lambda path: files.write_rows([{"a": 1, "b": "x"}], ("a", "b"), path),
    "read_rows": lambda path: files.write_rows([{"a": 1, "b": "x"}], ("a", "b"), path),
}
DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "other bytes": lambda data: bytes(255 - byte for byte in data),
    "zeros": lambda data: bytes(len(data)),
}


# Half a CSV is still a CSV, and so is an empty one to the reader of rows: stages check the columns that they need.
TOLD = [
    *[("read_json", damage) for damage in DAMAGES], *[("read_npy", damage) for damage in DAMAGES],
    ("read_csv", "empty"), ("read_csv", "other bytes"), ("read_rows", "other bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("reader", "damage"), TOLD)
def test_a_damaged_file_is_named_in_one_sentence(tmp_path, reader, damage):
    path = tmp_path / "artefact"
    WRITERS[reader](path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=r"artefact is not .*, or is damaged \(.*\); make it again$"):
        getattr(files, reader)(path)


@pytest.mark.parametrize("reader", WRITERS)
def test_a_missing_file_or_a_folder_is_named(tmp_path, reader):
    with pytest.raises(UserError, match="nothing does not exist"):
        getattr(files, reader)(tmp_path / "nothing")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        getattr(files, reader)(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe, not a regular file"):
        getattr(files, reader)(tmp_path / "pipe")


def written(name: str, folder: Path) -> None:
    """One artefact of each kind of writer."""
    if name == "folder":
        with files.atomic_directory(folder / "folder") as temporary:
            (temporary / "a").write_bytes(bytes(5000))
    elif name == "blocks.npy":
        files.write_npy_blocks((np.zeros((100, 9)) for _ in range(3)), 300, folder / name)
    else:
        files.write_npy(np.zeros(5000), folder / name)


@pytest.mark.parametrize("name", ["views.npy", "blocks.npy", "folder"])
def test_artefacts_are_not_for_others(tmp_path: Path, name: str):
    umask = os.umask(0o002)
    try:
        written(name, tmp_path)
    finally:
        os.umask(umask)
    assert (tmp_path / name).stat().st_mode & 0o777 == (0o770 if name == "folder" else 0o660)


@pytest.mark.parametrize("name", ["views.npy", "blocks.npy"])
def test_a_write_that_does_not_fit_names_the_file_and_leaves_nothing(tmp_path: Path, name: str):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large|No space left") as error:
            written(name, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.filename == str(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_where_a_library_hides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(text: str = "PytorchStreamWriter failed writing file") -> None:
        with files.atomic_path(tmp_path / "model.pt"):
            raise RuntimeError(text)

    with pytest.raises(RuntimeError):
        write()
    with pytest.raises(OSError, match="Read-only file system") as error:
        write("Error while serializing: I/O error: Read-only file system (os error 30)")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: argparse.Namespace(free=1000))
    with pytest.raises(OSError, match="No space left on device") as error:
        write()
    assert error.value.filename == str(tmp_path / "model.pt")


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path):
    with files.atomic_path(tmp_path / "views" / "a.npy") as part:
        kept = tmp_path / "views" / "rest"
        os.link(part, kept)
    with files.atomic_directory(tmp_path / "model") as folder:
        (folder / "b").write_text("b")
        os.rename(folder, tmp_path / folder.name.replace(".model", ".other"))
        folder.mkdir()
    kept.rename(part)
    (tmp_path / ".hidden").write_text("mine")
    assert files.remove_parts(tmp_path) == 2
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        ".hidden", "model", "views", "views/a.npy",
    ]  # fmt: skip


@pytest.mark.parametrize("read", [files.read_csv, files.read_rows])
def test_no_two_rows_share_the_key_of_their_table(tmp_path: Path, read: Callable[..., Any]):
    file = tmp_path / "seed0.csv"
    file.write_text("view_id,fold,epoch,loss\na,0,1,0.5\na,0,2,0.5\na,1,1,0.5\na,0,2,0.7\n")
    with pytest.raises(
        UserError, match=r"seed0.csv, row 4: view_id a, fold 0, epoch 2 has a row before; make it again"
    ):
        read(file, "losses")
    with pytest.raises(UserError, match=r"seed0.csv, row 2: view_id a has a row before"):
        read(file, "oof")
    with pytest.raises(UserError, match=r"seed0.csv has no column 'share'"):
        read(file, "efficiency")
    assert len(read(file)) == 4  # where no key is named, rows may repeat
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    assert len(read(file, "losses")) == 3
    file.write_text("view_id,fold,epoch,loss\n")
    with pytest.raises(UserError, match=r"seed0.csv has no rows; make it again"):
        read(file, "losses")
    file.write_text("set_a,view_a,set_b,view_b\n")
    assert len(read(file, "pairs")) == 0


def test_stages_read_tables_that_have_a_key_by_their_name():
    """A name is the flag's, and no stage reads such a flag's file as a table without one."""
    assert files.KEYS.keys() <= FILES.keys()
    for file in (REPOSITORY / "workflow_scripts").rglob("*.py"):
        nameless = re.findall(r"read_(?:csv|rows)\(arguments\.(\w+)\)", file.read_text())
        assert not set(nameless) & set(files.KEYS), file


def test_a_missing_column_or_key_names_its_file(tmp_path: Path):
    file = tmp_path / "votes.csv"
    file.write_text("view_id,votes\na,1\nb,2\n")
    table = files.read_csv(file)
    for act in (
        lambda: table["label"],
        lambda: table[["votes", "label"]],
        lambda: table[table["votes"] > 1]["label"],
        lambda: table.sort_values(["votes", "label"], kind="stable"),
        lambda: table.set_index(["view_id", "label"]),
        lambda: table.groupby("label", sort=False)["votes"].sum(),
        lambda: table.drop_duplicates("label"),
        lambda: files.read_rows(file)[0]["label"],
    ):
        with pytest.raises(UserError, match=r"votes.csv has no column 'label'; make it again"):
            act()
    assert table.get("label") is None
    file = tmp_path / "facts.json"
    file.write_text('{"views": {"real": 1}}')
    with pytest.raises(UserError, match=r"facts.json has no key 'synthetic'"):
        files.read_json(file)["views"]["synthetic"]
    assert files.read_json(file) == {"views": {"real": 1}}


@pytest.mark.parametrize("cell", ["2", "-1", "0.5"])
@pytest.mark.parametrize(
    ("name", "column"), [("votes", "suspicious"), ("filter", "inside"), ("privacy", "copy"), ("", "kept")]
)
def test_an_answer_is_0_or_1(tmp_path: Path, name: str, column: str, cell: str):
    file, key = tmp_path / "table.csv", (files.KEYS.get(name) or ["view_id"])[0]
    for read in (files.read_csv, *([files.read_rows] if name else [])):
        file.write_text(f"{key},{column}\n1,1\n2,{cell}\n")
        with pytest.raises(UserError, match=rf"table.csv, column {column}, row 2: '{cell}' is neither 0 nor 1"):
            read(file, name)
        file.write_text(f"{key},{column}\n1,1\n2,0\n" + "3,\n" * (column == "copy"))
        assert len(read(file, name)) >= 2


def test_the_curve_counts_what_is_kept(tmp_path: Path):
    file = tmp_path / "curve.csv"
    file.write_text("rule,k,scale,kept\nneighbours,5,1.0,11\n")
    assert files.read_csv(file, "curve")["kept"].tolist() == [11]


@pytest.mark.parametrize("cell", ["", "nan", "word", "-1e400"])
def test_a_probability_is_a_finite_number(tmp_path: Path, cell: str):
    file = tmp_path / "seed0.csv"
    file.write_text(f"view_id,probability\na,0.5\nb,{cell}\n")
    with pytest.raises(UserError, match=r"seed0.csv, column probability, row 2: .* is not a number"):
        files.read_csv(file)


@pytest.mark.parametrize("column", ["votes", "evaluations", "suspicious", "kept", "inside", "score", "copy", "auc_low"])
def test_a_number_is_none_in_words(tmp_path: Path, column: str):
    file = tmp_path / "table.csv"
    file.write_text(f"view_id,{column}\na,1\nb,word\n")
    with pytest.raises(UserError, match=rf"table.csv, column {column}, row 2: 'word' is not a number"):
        files.read_csv(file)
    file.write_text(f"view_id,{column}\na,1\nb,\n")
    if column in ("score", "copy", "auc_low"):
        assert files.read_csv(file)[column].isna().tolist() == [False, True]
    else:
        with pytest.raises(UserError, match="'nan' is not a number"):
            files.read_csv(file)
