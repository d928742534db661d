"""Reading and writing artefacts. Every write is atomic: a reader sees the old file or the whole new one."""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import Lacking, UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# Columns that hold names, never numbers: "007" must stay "007".
TEXT_COLUMNS = (
    "view_id", "image_id", "patient_id", "organ", "label", "view", "device", "side", "path", "truth",
    "label_original", "label_policy", "set", "metric", "origin", "set_a", "view_a", "patient_a", "set_b", "view_b",
    "patient_b", "nearest_view", "detector", "name", "scanner", "centre",
)  # fmt: skip
# Columns that hold a finite number in every row.
NUMBER_COLUMNS = (
    "probability", "fold", "seed", "epoch", "votes", "evaluations", "suspicious", "kept", "inside", "held_out", "error",
    "keep",
)  # fmt: skip
# Those columns, and others, that answer yes or no: 1 or 0. (In the filter's curve, `kept` counts.)
FLAG_COLUMNS = ("suspicious", "kept", "inside", "held_out", "keep", "copy", "authentic")
# Columns that hold a number, or nothing where there is none; so do those with one of these endings.
MEASURE_ENDINGS = ("_mean", "_std", "_low", "_high")
MEASURE_COLUMNS = (
    "loss", "score", "k", "share", "held_out_share", "real_views", "scale", "precision", "recall", "value", "batch",
    "distance_ratio", "correlation", "feature_distance", "copy", "authentic", "hash_distance", "distance",
    "weights_moved", "loss_before", "loss_last", "rate_factor",
)  # fmt: skip
# What no two rows of a table share, by the name under which stages are given it (runtime/arguments.py).
KEYS = {
    "agreement": ["set", "against"], "claims": ["claim"], "complete": ["view_id"], "curve": ["rule", "k", "scale"],
    "denoising": ["view_id"], "efficiency": ["share", "draw", "seed", "view_id"], "filter": ["index"],
    "flipped": ["view_id"], "folds": ["view_id"], "holdout": ["patient_id"], "index": ["view_id"],
    "losses": ["view_id", "fold", "epoch"], "measures": ["step"], "metrics": ["set", "metric", "batch"],
    "numbers": ["name"], "oof": ["view_id"], "pairs": ["set_a", "view_a", "set_b", "view_b"], "planted": ["canary"],
    "privacy": ["index"], "shares": ["arm", "view_id"], "votes": ["view_id"],
}  # fmt: skip
# Those of them in which there may be nothing to list.
MAY_BE_EMPTY = ("holdout", "pairs")


# What the names of files in the making hold; a killed process leaves them.
PART = ".part-"
# Free bytes below which a failed write is taken to have failed for lack of room.
NO_ROOM = 1 << 20


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and takes `path`'s place, on failure removed.

    Owner and group may read the file as the umask says, others never: most artefacts hold views of patients. An `OSError`
    names `path`, and is raised, too, where a library hid that the disk is full.
    """
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}{PART}", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
    temporary = Path(name)
    try:
        with _naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o660 & ~_umask())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an `OSError` name `path`, not a part of it; within, while the part is still there, a full disk is seen."""
    try:
        yield
    except OSError as error:
        if error.errno is None and " requested and " in str(error):  # NumPy: fewer bytes were written than it asked for
            error.errno, error.strerror = errno.ENOSPC, os.strerror(errno.ENOSPC)
        if error.filename is None or f".{path.name}{PART}" in str(error.filename):
            error.filename = str(path)
        raise
    except Exception as error:
        told = re.search(r"\(os error (\d+)\)", str(error))  # by libraries in Rust, such as safetensors
        full = not isinstance(error, UserError) and shutil.disk_usage(path.parent).free < NO_ROOM
        if not (number := int(told[1]) if told else errno.ENOSPC if full else 0):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def remove_parts(folder: Path) -> int:
    """Remove what killed processes were writing anywhere in `folder`; returns how many files and folders it were.

    Only where no process writes there any more.
    """
    parts = [path for path in folder.rglob(f".*{PART}*") if PART not in str(path.parent.relative_to(folder))]
    for path in parts:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(parts)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes `path`'s place (an old one goes), else it goes."""
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{PART}", dir=path.parent))
    try:
        with _naming(path):
            yield temporary
            temporary.chmod(0o770 & ~_umask())
            if path.is_dir():
                # A folder cannot be replaced in one step unless it is empty: it steps aside first.
                aside = Path(tempfile.mkdtemp(prefix=f".{path.name}{PART}", dir=path.parent))
                os.replace(path, aside)
                os.replace(temporary, path)
                shutil.rmtree(aside)
            else:
                os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turn what goes wrong while a file is read into one sentence for the user; a pipe would be waited for without end."""
    try:
        if Path(path).is_fifo():
            raise UserError(f"{path} is a pipe, not a regular file; name a file")
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make it again, or name another file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, csv.Error, RecursionError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"{path} is not {kind}, or is damaged ({reason}); make it again") from None


class Record(dict[str, Any]):
    """A row or an object of the file `source`: a missing column or key is a `UserError` that names it."""

    def __init__(self, values: Any, source: str | Path, kind: str) -> None:
        super().__init__(values)
        self.source, self.kind = source, kind

    def __missing__(self, key: str) -> Any:
        raise Lacking(f"{self.source} has no {self.kind} {key!r}; make it again")


def write_text(text: str, path: str | Path) -> None:
    """Write UTF-8 text."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: Any, path: str | Path) -> None:
    """Write JSON with sorted keys."""
    write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", path)


def read_json(path: str | Path) -> Any:
    """Read JSON; `UserError` where the file is missing or damaged."""
    with _reading(path, "JSON"):
        return _from_json(Path(path).read_text(encoding="utf-8"), path)


def read_json_lines(path: str | Path) -> list[Any]:
    """Read a file with one JSON object per line; `UserError` where it is missing, damaged or holds anything else."""
    with _reading(path, "JSON, one object per line"):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [_from_json(line, path) for line in lines if line.strip()]
        if any(not isinstance(row, Record) for row in rows):
            raise ValueError("a line is no object")
    return rows


def _from_json(text: str, path: str | Path) -> Any:
    return json.loads(text, object_pairs_hook=lambda pairs: Record(pairs, path, "key"))


def write_npy(array: np.ndarray, path: str | Path) -> None:
    """Write an array as .npy without pickle."""
    import numpy as np

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_npy_blocks(blocks: Iterable[np.ndarray], rows: int, path: str | Path) -> None:
    """Write blocks (n_i, …) of one kind, `rows` in all and at least one, as one array; memory holds a block at a time."""
    import numpy as np

    # Written one after the other: into a mapped file, a full disk would end the process without a word.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        done = 0
        for block in blocks:
            if not done:
                kind = {"descr": np.lib.format.dtype_to_descr(block.dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, {**kind, "shape": (rows, *block.shape[1:])})
            file.write(np.ascontiguousarray(block).data)
            done += len(block)
        assert done == rows, f"{path}: {done} rows came, {rows} were announced"


def read_npy(path: str | Path) -> np.ndarray:
    """Memory-map an .npy array, read-only; nothing is unpickled. `UserError` where the file is missing or damaged."""
    import numpy as np

    with _reading(path, "an array (.npy)"):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def write_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV: UTF-8, header, no index column, floats that read back bit for bit."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_csv(path: str | Path, name: str = "") -> pd.DataFrame:
    """Read a CSV artefact; name columns stay text and an empty cell in them is the empty string.

    `UserError` where the file is missing or damaged, where a column of `NUMBER_COLUMNS`, of `FLAG_COLUMNS` or of measures
    holds anything else, with a `name` in `KEYS`, where two rows share their key or there is no row; and, later, where a
    column is asked for that it lacks.
    """
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.frame import Frame

    # Only an empty cell is missing: a patient may be called NA.
    with _reading(path, "a CSV table"):
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])
    text = [column for column in table.columns if column in TEXT_COLUMNS]
    table[text] = table[text].fillna("")
    measured = [name for name in table if name in MEASURE_COLUMNS or str(name).endswith(MEASURE_ENDINGS)]
    for column in [*(name for name in NUMBER_COLUMNS if name in table), *measured] if len(table) else []:
        numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
        good = (
            np.isfinite(numbers) if column in NUMBER_COLUMNS else ~np.isnan(numbers) | table[column].isna().to_numpy()
        )
        if not good.all() or table[column].dtype.kind not in "iufb":
            row = int((~good).argmax())
            raise _no_number(path, column, row, table[column].iloc[row])
        if column in _flags(name) and (wrong := ~np.isin(numbers, (0, 1)) & ~np.isnan(numbers)).any():
            raise _no_flag(path, column, row := int(wrong.argmax()), table[column].iloc[row])
    _require_rows(len(table), path, name)
    frame = Frame.of(table, path)
    keys = frame[KEYS[name]] if name else None
    if keys is not None and (again := keys.duplicated().to_numpy()).any():
        raise _repeated(path, row := int(again.argmax()), keys.iloc[row])
    return frame


def read_rows(path: str | Path, name: str = "") -> list[dict[str, str]]:
    """Read a CSV as dictionaries of text, without pandas (whose import costs more than most cheap stages).

    `UserError` where the file is missing or damaged; with a `name` in `KEYS`, where two rows share their key, there is no row
    or a column of `NUMBER_COLUMNS` or `FLAG_COLUMNS` holds anything else, too.
    """
    with _reading(path, "a CSV table"), Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not reader.fieldnames:
            raise ValueError("it is empty")
        rows: list[dict[str, str]] = [Record(row, path, "column") for row in reader]
    _require_rows(len(rows), path, name)
    seen: set[tuple[str, ...]] = set()
    for number, row in enumerate(rows if name else []):
        key = {column: row[column] for column in KEYS[name]}
        if (values := tuple(key.values())) in seen:
            raise _repeated(path, number, key)
        seen.add(values)
        for column in row.keys() & set(NUMBER_COLUMNS):
            if not _is_finite(row[column]):
                raise _no_number(path, column, number, row[column])
        for column in row.keys() & set(_flags(name)):
            if row[column] not in ("0", "1") and (row[column] or column not in MEASURE_COLUMNS):
                raise _no_flag(path, column, number, row[column])
    return rows


def _flags(name: str) -> tuple[str, ...]:
    """The columns of the table `name` that answer yes or no, if it has them."""
    return FLAG_COLUMNS if name != "curve" else ()


def _require_rows(count: int, path: str | Path, name: str) -> None:
    if not count and name and name not in MAY_BE_EMPTY:
        raise UserError(f"{path} has no rows; make it again")


def _is_finite(text: str | None) -> bool:
    try:
        return math.isfinite(float(text or ""))
    except ValueError:
        return False


def _no_number(path: str | Path, column: object, row: int, value: object) -> UserError:
    return UserError(f"{path}, column {column}, row {row + 1}: {str(value)!r} is not a number; make it again")


def _no_flag(path: str | Path, column: object, row: int, value: object) -> UserError:
    return UserError(f"{path}, column {column}, row {row + 1}: {str(value)!r} is neither 0 nor 1; make it again")


def _repeated(path: str | Path, row: int, key: Mapping[str, object] | pd.Series) -> UserError:
    """Two rows share their key: whoever joined or appended tables would count one of them twice."""
    told = ", ".join(f"{column} {value}" for column, value in key.items())
    return UserError(f"{path}, row {row + 1}: {told} has a row before; make it again")


def read_spreadsheet(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV that a spreadsheet may have saved: UTF-8, UTF-16 or Latin-1; commas, semicolons or tabs.

    Rows without any value are left out: spreadsheets save what was emptied.
    """
    with _reading(path, "a CSV table"):
        data = Path(path).read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("latin-1")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        return [Record(row, path, "column") for row in rows if any(row.values())]


def write_rows(rows: Sequence[Mapping[str, object]], columns: Sequence[str], path: str | Path) -> None:
    """Write dictionaries as CSV with the given columns, without pandas."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's files (names and bytes, sorted)."""
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path)}\0{sha256(file)}\0".encode())
        return digest.hexdigest()
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_record(path: str | Path) -> Path:
    """The file beside `path` that records its checksum, in the format of sha256sum."""
    return Path(f"{path}.sha256")


def recorded_sha256(path: str | Path) -> str:
    """The checksum that is recorded beside `path`, or "" where none is; `UserError` where the record cannot be read."""
    record = sha256_record(path)
    if not record.exists():
        return ""
    with _reading(record, "the record of a checksum"):
        return record.read_text(encoding="utf-8").partition(" ")[0].strip()


def verify_recorded_sha256(path: str | Path) -> None:
    """Raise `UserError` where a checksum is recorded beside `path` and `path` is another file now."""
    recorded = recorded_sha256(path)
    if recorded and (actual := sha256(path)) != recorded:
        raise UserError(
            f"{path} has the SHA-256 {actual}, but {sha256_record(path)} records {recorded}: the file has changed "
            f"since it was fetched. Fetch it again, or delete {sha256_record(path)} if the change is meant"
        )


def refuse_torchscript(path: str | Path, name: str | Path = "") -> None:
    """Raise `UserError` where `path` (called `name`, if given) is TorchScript: a program, which could do anything."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return
    if "constants.pkl" in names:  # what torch itself tells TorchScript by
        raise UserError(
            f"{name or path} is TorchScript, which is a program and is never run here, whatever its checksum; name a file of "
            "weights alone (a state dictionary) in the config. For embedding.inception that is the default"
        )
