"""The validated manifest of a study: one row per raw frame."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from workflow_scripts.core.errors import UserError, listed, names, short
from workflow_scripts.core.text import name_problem
from workflow_scripts.study.config.names import GROUPS, LABELLED_SET
from workflow_scripts.study.pseudonyms import ID_COLUMNS, hide_ids, read_key

# The columns (docs/data.md explains them) and what their cells must match. Extra columns are ignored.
REQUIRED = ("image_id", "path", "patient_id", "organ", "label", "device", "side")
PATTERNS = {
    "image_id": re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"),
    "path": re.compile(r"^.+$"),
    "patient_id": re.compile(r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$"),
    "organ": re.compile(r"^.+$"),
    "device": re.compile(r"^.+$"),
    "side": re.compile(r"^(|left|right)$"),
    "frames": re.compile(r"^(|first|all|every [1-9][0-9]{0,8})$"),
}


def read_manifest(path: str | Path, key: Path | None = None) -> list[dict[str, str]]:
    """The rows of a manifest (comma or semicolon separated, UTF-8, with or without a byte-order mark), cells stripped.

    With `key`, a file that holds a secret key, patient and image ids are replaced by pseudonyms; every stage that writes
    ids, or puts them in messages, reads the manifest this way. Raises `UserError` when the file is missing or not
    UTF-8, or has a ragged row.
    """
    path = Path(path)
    if path.is_fifo():
        raise UserError(f"the manifest {path} is a pipe, not a regular file; data.manifest in the config names it")
    try:
        # Line ends inside a cell stay as they are: the rules for cells refuse them, whatever they are.
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise UserError(f"the manifest {path} does not exist; the config names it (data.manifest, external)") from None
    except OSError as error:
        raise UserError(f"the manifest {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the manifest {path} is not UTF-8; save it as CSV UTF-8") from None
    header = text.partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if header.count(";") > header.count(",") else ","
    )
    secret = read_key(key) if key else b""
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{path} line {reader.line_num}: the row has another number of cells than the header")
            cells = {column.strip(): cell.strip() for column, cell in row.items()}
            rows.append(hide_ids(cells, secret) if secret else cells)
    except csv.Error as error:
        raise UserError(
            f"{path} line {reader.line_num}: not a CSV row ({error}); look for a quote that is not closed"
        ) from None
    return rows


def own_ids(path: str | Path, key: str | Path) -> dict[str, str]:
    """The manifest's own ids by their pseudonyms, patients' and images': for whoever holds the key."""
    pairs = zip(read_manifest(path, Path(key)), read_manifest(path), strict=True)
    return {hidden[column]: own[column] for hidden, own in pairs for column in ID_COLUMNS if own[column]}


def telling_ids(rows: Iterable[Mapping[str, str]]) -> str:
    """A warning where image ids contain the id of their patient, in upper or lower case, or ""."""
    telling = [row for row in rows if row["patient_id"] and row["patient_id"].lower() in row["image_id"].lower()]
    if not telling:
        return ""
    return (
        f"warning: {len(telling)} image ids contain their patient id (for example {telling[0]['image_id']}), and views are "
        "named after images in every artefact; data.patient_key replaces both by keyed hashes (docs/data.md)"
    )


def load_manifest(path: str | Path, data: Mapping[str, Any]) -> list[dict[str, str]]:
    """Read and validate a manifest against the config's section `data`.

    Raises `UserError` that lists every problem with its line and column.
    """
    rows = read_manifest(path)
    problems = list(_problems(rows, data))
    if problems:
        raise UserError("the manifest has mistakes:\n" + listed([f"{path} {text}" for text in problems]))
    return rows


def load_external(name: str, config: Mapping[str, Any], study: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Read and validate the manifest of the external set `name` of a config, given the study's own rows.

    Raises `UserError` as `load_manifest` does, where no row carries a label, and where a patient of the study appears (with
    `seen_without_labels`: one whom the study labels); the message names a line, since ids may be secret.
    """
    path = config["external"][name]["manifest"]
    rows = load_manifest(path, {**config["data"], **config["external"][name]})
    if not any(row["label"] for row in rows):
        raise UserError(f"external.{name}: {path} labels no frame; an external test needs labels")
    seen = config["external"][name]["seen_without_labels"]
    known = {row["patient_id"] for row in study if row["label"] or not seen} - {""}
    shared = [(line, row["patient_id"]) for line, row in enumerate(rows, start=2) if row["patient_id"] in known]
    if shared:
        count = len({patient for _, patient in shared})
        raise UserError(
            f"external.{name}: {count} patients of {path} also appear in {config['data']['manifest']}, the first on line "
            f"{shared[0][0]}{', with a label' if seen else ''}. An external test needs patients whom the study has never seen: "
            "take their rows out of one of the manifests, or, if they are other people, give them other ids"
            + ("" if seen else "; where the study has no label of them, seen_without_labels: true allows it")
        )
    return rows


def _problems(rows: list[dict[str, str]], data: Mapping[str, Any]) -> Iterator[str]:
    if not rows:
        yield "holds no row"
        return
    missing = [column for column in REQUIRED if column not in rows[0]]
    if missing:
        yield f"line 1: missing column {', '.join(missing)}"
        return
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        for column, pattern in PATTERNS.items():
            if column in row and not pattern.match(row[column]):
                yield f"line {line}, column {column}: {short(row[column])} is not allowed (must match {pattern.pattern})"
        for column in GROUPS:
            if problem := name_problem(row.get(column, "")):
                yield f"line {line}, column {column}: {short(row[column])} {problem}"
        image_id = row["image_id"]
        if image_id in seen:
            yield f"line {line}, column image_id: {short(image_id)} already appears on line {seen[image_id]}"
        seen.setdefault(image_id, line)
        if row["organ"] not in data["organs"]:
            yield f"line {line}, column organ: {short(row['organ'])} is not one of data.organs ({names(data['organs'])})"
        if row["label"] and row["label"] not in data["classes"]:
            yield f"line {line}, column label: {short(row['label'])} is not one of data.classes ({names(data['classes'])})"
        if row["label"] and row["organ"] != data["target_organ"]:
            yield f"line {line}, column label: only {data['target_organ']} frames carry labels; empty it"
        if row["label"] and not row["patient_id"]:
            yield f"line {line}, column patient_id: a labelled frame needs its patient, or folds would leak"
        if row["device"] not in data["crop_profiles"]:
            known = names(data["crop_profiles"])
            yield f"line {line}, column device: no crop profile {short(row['device'])} in data.crop_profiles ({known})"
        elif data["crop_profiles"][row["device"]]["kind"] == "masks" and not row.get("mask"):
            yield f"line {line}, column mask: the crop profile {short(row['device'])} needs the path of the frame's mask"
        for column in ("path", "mask"):
            cell = row.get(column, "")
            path = PurePosixPath(cell.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or re.match(r"^[A-Za-z]:", cell):
                yield f"line {line}, column {column}: {short(cell)} leaves data.root ({data['root']})"
        if data["source"] == "phantoms" and row.get("truth") not in data["classes"]:
            yield f"line {line}, column truth: a phantom needs the class to draw ({', '.join(data['classes'])})"


def told_apart(rows: Iterable[Mapping[str, str]], config: Mapping[str, Any]) -> list[str]:
    """The columns of `GROUPS` by which a study's labelled frames differ.

    Raises `UserError` where `split_by` names a column that the manifest lacks or leaves empty, or whose values are not as
    many as the folds.
    """
    labelled = [row for row in rows if row["label"]]
    values = {column: sorted({row.get(column, "") for row in labelled}) for column in GROUPS}
    if (column := config["split_by"]) in GROUPS:
        found = values[column]
        if "" in found:
            raise UserError(
                f"split_by: {column} needs the column {column} of {config['data']['manifest']} filled for every labelled frame"
            )
        if len(found) != config["folds"]:
            raise UserError(
                f"split_by: {column} makes one fold for each {column} of the labelled frames, and there are {len(found)} "
                f"({names(found)}), but folds is {config['folds']}; set folds: {len(found)}"
            )
    return [column for column, found in values.items() if len(found) > 1]


def require_patients(rows: list[Mapping[str, str]], config: Mapping[str, Any]) -> None:
    """Raise `UserError` where fewer patients than folds have frames of a class; `rows` as `load_manifest` returns them.

    Folds of views are left to the stage that draws them, since crops decide how many views a frame has, and folds of
    scanners or centres are what they are.
    """
    if config["split_by"] != "patient":
        return
    for name in config["data"]["classes"]:
        patients = len({row["patient_id"] for row in rows if row["label"] == name})
        if patients < config["folds"]:
            raise UserError(
                f"folds: {config['folds']}, but {config['data']['manifest']} has only {patients} patients with the label "
                f"{name!r}, and every fold needs one; use fewer folds or label more patients"
            )


def true_classes(path: str | Path, images: Iterable[str], key: Path | None = None) -> dict[str, str]:
    """The class that each of the phantoms `images` was drawn with, by image id; with `key`, ids are pseudonyms.

    Raises `UserError` where the manifest does not say.
    """
    truth = {row["image_id"]: row.get("truth", "") for row in read_manifest(path, key)}
    missing = sorted({image for image in images if not truth.get(image)})
    if missing:
        raise UserError(
            f"{path}: the column truth is missing or empty for {len(missing)} labelled frames, for example {missing[0]}; "
            "only phantoms know it"
        )
    return truth


def filled_sets(rows: list[dict[str, str]], config: Mapping[str, Any], runs: Iterable[str]) -> list[str]:
    """The names of the real view sets that have a frame, `labelled` first.

    Raises `UserError` when no frame is labelled, or when one of the pretraining `runs` lists a set without any frame.
    """
    data = config["data"]
    organs = {row["organ"] for row in rows if not row["label"]}
    sets = [LABELLED_SET] * any(row["label"] for row in rows) + [organ for organ in data["organs"] if organ in organs]
    if LABELLED_SET not in sets:
        raise UserError(f"the manifest {data['manifest']} labels no frame; classification needs labels")
    for run in runs:
        for name in config["pretraining"]["runs"][run]["sets"]:
            if name in data["organs"] and name not in sets:
                raise UserError(
                    f"pretraining.runs.{run} lists the set {name!r}, but {data['manifest']} has no {name} frame without a "
                    "label; take the set out of the run"
                )
    return sets


def require_held_out(rows: Iterable[Mapping[str, str]], config: Mapping[str, Any]) -> None:
    """Raise `UserError` where a share of held-out patients is asked for and too few patients are labelled to give two."""
    share = config["diffusion"]["holdout_patients"]
    patients = {row["patient_id"] for row in rows if row["label"]}
    # A cohort lacks the patients of one fold.
    known = len(patients) if config["holdout"] == "none" else len(patients) * (config["folds"] - 1) // config["folds"]
    if share and math.floor(share * known + 0.5) < 2:
        raise UserError(
            f"diffusion.holdout_patients: {share} of {known} labelled patients is fewer than two, and the privacy audit needs"
            " at least two; raise the share, or set it to 0 and release.without_audit: true"
        )
