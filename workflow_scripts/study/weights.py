"""What the workflow does not make itself: networks (which files, from where, which rows need them), models, decisions."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import recorded_sha256, refuse_torchscript, sha256
from workflow_scripts.study.config.names import BASELINES, SCHEMES, TABLES

# A rule downloads into this folder only; a file elsewhere is supplied manually.
FOLDER = "weights/"
CONNECT_SECONDS = 5


@dataclass
class WeightFile:
    """A file of weights, where it comes from, and what asks for it."""

    file: str
    url: str
    sha256: str
    used_by: list[str] = field(default_factory=list)


def weight_files(config: Mapping[str, Any]) -> dict[str, WeightFile]:
    """Every file of weights that the config names, by path."""
    found: dict[str, WeightFile] = {}
    for name, start in config["initialisations"].items():
        if start["layout"].startswith("scratch"):
            continue
        weight = found.setdefault(start["file"], WeightFile(start["file"], start["url"], start["sha256"]))
        if name in config["audit"]["initialisations"]:
            weight.used_by.append("audit.initialisations")
        runs = [run for run, entry in config["pretraining"]["runs"].items() if entry["init"] == name]
        if config["classifier"]["init"] in (name, *runs):
            weight.used_by.append("classifier.init")
        if config["tables"]["leak"] in (name, *runs):
            weight.used_by.append("tables.leak")
        for table in TABLES:
            for row in config["tables"][table]["rows"]:
                if row["init"] not in BASELINES and row["init"] in (name, *runs):
                    weight.used_by.append(f"{table} row {row['name']!r}")
    if config["embedding"]["network"] == "inception":
        inception = config["embedding"]["inception"]
        weight = WeightFile(inception["file"], inception["url"], inception["sha256"])
        found.setdefault(inception["file"], weight).used_by.append("embedding.network (filter, metrics, privacy)")
    if config["embedding"]["network"].startswith("timm:"):
        file = config["embedding"]["timm"]["file"]
        found.setdefault(file, WeightFile(file, "", "")).used_by.append("embedding.network (filter, metrics, privacy)")
    return found


def require_supplied(config: Mapping[str, Any]) -> None:
    """Raise `UserError` where a file that only a person can supply is missing: looked for before anything is planned.

    Files of weights below `FOLDER` are not looked for; a rule fetches them, and `require_files` knows which are needed.
    """
    model = config["diffusion"]["model"]
    activations = config["embedding"]["published_activations"]
    if activations and not Path(activations).is_file():
        raise UserError(f"{activations} (embedding.published_activations) does not exist; supply it, or empty the key")
    for section, key, page in (("audit", "decisions", "review"), ("release", "readings", "reading")):
        file = config[section][key]
        if file and not Path(file).is_file():
            raise UserError(
                f"{file} ({section}.{key}) does not exist; export it from the {page} page, or empty the key"
            )
    if model and not Path(model, "model_index.json").is_file():
        raise UserError(f"{model} (diffusion.model) is no Diffusers folder: it holds no model_index.json; name another")
    for weight in weight_files(config).values():
        if weight.used_by and not weight.file.startswith(FOLDER) and not Path(weight.file).is_file():
            raise UserError(
                f"{weight.file} does not exist and lies outside {FOLDER}, into which files are fetched; supply it, or correct "
                f"its path in the config. Needed by: {'; '.join(weight.used_by)}"
            )


def require_known_backbones(config: Mapping[str, Any]) -> None:
    """Raise `UserError` where a backbone is none of timm's, whose sources are searched: to import it takes seconds.

    Names of hubs (`hf-hub:…`) are refused by the models of the config.
    """
    kind, _, embedding = config["embedding"]["network"].partition(":")
    asked = {"model.backbone": config["model"]["backbone"]} | (
        {"embedding.network": embedding} if kind == "timm" else {}
    )
    timm = find_spec("timm")
    if timm is None or timm.origin is None:  # the stages have an environment of their own
        return
    known: set[str] = set()
    for file in Path(timm.origin).with_name("models").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        known |= set(re.findall(r"^@register_model\n(?:@.*\n)*def (\w+)\(", text, re.MULTILINE))
        for renamed in re.findall(r"^register_model_deprecations\((.*?)^\}", text, re.MULTILINE | re.DOTALL):
            known |= set(re.findall(r"""["'](\w+)["']:""", renamed))
    for key, name in asked.items():
        if name.partition(".")[0] not in known:
            raise UserError(f"{key}: {name!r} is not a timm model; timm.list_models() in Python lists them all")


def require_files(config: Mapping[str, Any], needed: Collection[str]) -> None:
    """Raise `UserError` unless every needed file of weights is present with the expected checksum, or its URL answers.

    `needed` are the paths that the planned jobs read or make; files of weights among them are looked at, others ignored.
    """
    problems = []
    for weight in weight_files(config).values():
        if weight.file not in needed:
            continue
        if Path(weight.file).is_file():
            _require_meant(weight)
            continue
        reason = _unreachable(weight.url) if weight.file.startswith(FOLDER) else f"it lies outside {FOLDER}"
        if reason:
            rows = "; ".join(weight.used_by) or "no table row"
            source = (
                f"download it from {weight.url} on a machine with network" if weight.url else "get it from its authors"
            )
            problems.append(
                f"  {weight.file} is missing and cannot be fetched ({reason}). Needed by: {rows}. {source} and put it there"
            )
    if problems:
        raise UserError("networks that this run needs are missing:\n" + "\n".join(problems))


def _require_meant(weight: WeightFile) -> None:
    refuse_torchscript(weight.file)
    # Stages compare the file with the record; it is read here only where the record does not say what the config does.
    if weight.sha256 in ("", recorded_sha256(weight.file)):
        return
    if (digest := sha256(weight.file)) != weight.sha256:
        raise UserError(
            f"{weight.file} has the SHA-256 {digest}, but the config expects {weight.sha256}: it is another file, or "
            "damaged; replace it, or correct the checksum in the config if this file is meant"
        )


def _unreachable(url: str) -> str:
    if not url:
        return "the config gives no url"
    try:
        if urlsplit(url).scheme not in SCHEMES:
            return f"only {' and '.join(SCHEMES)} URLs are fetched"
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=CONNECT_SECONDS):
            return ""
    except (HTTPException, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
