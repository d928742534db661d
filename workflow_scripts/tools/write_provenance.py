"""Write a Workflow Run RO-Crate of a finished study: what was run, on what, with which settings, at what cost.

python -m workflow_scripts.tools.write_provenance --results results --configfile config.yaml

The folder `provenance` of the study can be shared. It holds the tables, the workflow's rules, settings.json and costs.csv,
and describes them in ro-crate-metadata.json (Workflow Run Crate 0.5). Files of patients are named by the SHA-256 of their
content only. No path and no address with a password or a query is copied from the configuration, and of the manifest
nothing but its hash and its number of frames.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import atomic_directory, read_rows, sha256, write_json, write_rows
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.runtime.code_version import code_version
from workflow_scripts.runtime.costs import read_costs

REPOSITORY = Path(__file__).parents[2]
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
PACKAGES = (
    "snakemake",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "torch",
    "torchvision",
    "timm",
    "diffusers",
    "clean-fid",
)
# Settings whose values are paths; what they name is in the crate by its hash where it is a file.
PATHS = {
    "results", "manifest", "root", "patient_key", "decisions", "file", "external", "published_activations", "masks", "folder",
}  # fmt: skip
COSTS = ("stage", "jobs", "attempts", "seconds", "gpu_seconds", "watt_hours", "peak_mib", "device")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="the study's folder (default: results)")
    parser.add_argument(
        "--configfile", type=Path, nargs="+", default=[Path("config.yaml")], help="the study's configuration, in order"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the configuration, write the crate."""
    from workflow_scripts.tools.plan import read_config

    write_crate(read_config(arguments.configfile), arguments.results)


def write_crate(config: Mapping[str, Any], results: Path) -> Path:
    """Write `provenance` below `results` for a validated configuration, and return it; a former one is replaced."""
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    tables = sorted((results / "tables").glob("*.csv"))
    if not tables:
        raise UserError(f"{results}/tables holds no table yet; run the workflow first")
    crate = ROCrate(version="1.1")  # what Workflow Run Crate 0.5 is based on
    crate.metadata.extra_terms["sha256"] = "https://w3id.org/ro/terms/workflow-run#sha256"
    author = _authors()
    crate.name = "A study with tusflow"
    crate.description = "Tables of a study, and the workflow, settings, versions and costs that they were made with."
    crate.root_dataset["license"] = (
        "The tables belong to the authors of the study; the workflow is under the MIT licence."
    )
    crate.root_dataset["conformsTo"] = [
        crate.add(
            ContextEntity(
                crate, address, {"@type": "CreativeWork", "name": name, "version": address.rpartition("/")[2]}
            )
        )
        for address, name in PROFILES.items()
    ]
    with atomic_directory(results / "provenance") as folder:
        (folder / "workflow" / "rules").mkdir(parents=True)
        (folder / "tables").mkdir()
        for source in (REPOSITORY / "Snakefile", *sorted((REPOSITORY / "rules").glob("*.smk"))):
            shutil.copyfile(source, folder / "workflow" / source.relative_to(REPOSITORY))
        for table in tables:
            shutil.copyfile(table, folder / "tables" / table.name)
        write_json(public(config), folder / "settings.json")
        write_rows(costs(results), COSTS, folder / "costs.csv")
        workflow = crate.add_workflow(
            folder / "workflow" / "Snakefile", "workflow/Snakefile", main=True, lang="snakemake",
            lang_version=version("snakemake"),
            properties={"name": "tusflow", "version": code_state(), "description": "From raw ultrasound frames to tables."},
        )  # fmt: skip
        people = [crate.add(ContextEntity(crate, f"#author-{i}", each)) for i, each in enumerate(author)]
        workflow["author"] = people
        workflow["softwareRequirements"] = [
            crate.add(
                ContextEntity(
                    crate, f"#{name}", {"@type": "SoftwareApplication", "name": name, "softwareVersion": installed}
                )
            )
            for name, installed in versions().items()
        ]
        inputs = [
            crate.add(ContextEntity(crate, f"urn:sha256:{row['sha256']}", {"@type": "CreativeWork", **row}))
            for row in hashed_inputs(config, results)
        ]
        settings = crate.add_file(
            folder / "settings.json", "settings.json", properties=_described("The settings, without paths")
        )
        outputs = [
            crate.add_file(
                folder / "tables" / table.name, f"tables/{table.name}", properties=_described(f"Table {table.stem}")
            )
            for table in tables
        ]
        outputs.append(
            crate.add_file(
                folder / "costs.csv", "costs.csv", properties=_described("Time, memory and energy of each stage")
            )
        )
        for source in sorted((folder / "workflow" / "rules").glob("*.smk")):
            crate.add_file(source, f"workflow/rules/{source.name}", properties=_described(f"Rules: {source.stem}"))
        action = crate.add_action(
            workflow, "#run", object=[*inputs, settings], result=outputs,
            properties={
                "name": "The study",
                "startTime": _instant(min(started(results), default=time.time())),
                "endTime": _instant(max(table.stat().st_mtime for table in tables)),
                "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
            },
        )  # fmt: skip
        action["agent"] = people
        crate.root_dataset["author"] = people
        crate.metadata.write(folder)
    return results / "provenance"


def _described(text: str) -> dict[str, str]:
    return {"name": text, "encodingFormat": "application/json" if "settings" in text else "text/plain"}


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def public(section: Any, key: str = "") -> Any:
    """The settings without paths, passwords and queries of addresses."""
    if isinstance(section, Mapping):
        return {name: public(value, name) for name, value in section.items() if not _is_path(name, value)}
    if isinstance(section, Sequence) and not isinstance(section, str):
        return [public(value, key) for value in section]
    if isinstance(section, str) and "://" in section:
        parts = urlsplit(section)
        return urlunsplit((parts.scheme, parts.hostname or "", parts.path, "", ""))
    if isinstance(section, str) and ("/" in section or "\\" in section):
        return "(path)"
    return section


def _is_path(name: str, value: Any) -> bool:
    # `model` is a section, but in `diffusion` a folder.
    return name in PATHS or (name == "model" and isinstance(value, str))


def hashed_inputs(config: Mapping[str, Any], results: Path) -> list[dict[str, str]]:
    """Name, SHA-256 and extent of the manifest, the view stores, the clinician's decisions and the weights that are here."""
    from workflow_scripts.core.files import read_npy

    manifest = Path(config["data"]["manifest"])
    rows = [{"name": "manifest", "sha256": sha256(manifest), "description": f"{len(read_rows(manifest))} frames"}]
    for store in sorted((results / "views").glob("*.npy")):
        extent = " x ".join(map(str, read_npy(store).shape))
        rows.append({"name": f"views, {store.stem}", "sha256": sha256(store), "description": f"uint8, {extent}"})
    others = {"decisions of the clinician": config["audit"]["decisions"]}
    others |= {f"weights, {name}": start.get("file") or "" for name, start in config["initialisations"].items()}
    others |= {"weights, inception": config["embedding"]["inception"]["file"]}
    others |= {"published activations": config["embedding"]["published_activations"]}
    rows += [
        {"name": name, "sha256": sha256(Path(file)), "description": f"{Path(file).stat().st_size} bytes"}
        for name, file in others.items()
        if file and Path(file).is_file()
    ]
    return rows


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def code_state() -> str:
    """The commit and whether files differ from it, and the fingerprint of the code behind the tables."""
    asked = [["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]]
    answers = [
        subprocess.run(
            ["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=False
        ).stdout.strip()
        if shutil.which("git") and (REPOSITORY / ".git").exists()
        else ""
        for words in asked
    ]
    commit = f"commit {answers[0]}{', changed' if answers[1] else ''}" if answers[0] else "no commit"
    return f"{commit}, code {code_version('tables.make_table')}"


def costs(results: Path) -> list[dict[str, Any]]:
    """What each stage has taken."""
    found = read_costs(results / "logs")
    rows = []
    for stage in sorted({cost.stage for cost in found}):
        group = [cost for cost in found if cost.stage == stage]
        energy = [cost.watt_hours for cost in group if cost.watt_hours == cost.watt_hours]
        rows.append(
            {
                "stage": stage, "jobs": len(group), "attempts": sum(cost.tries for cost in group),
                "seconds": round(sum(cost.seconds for cost in group), 2),
                "gpu_seconds": round(sum(cost.gpu_seconds for cost in group), 2),
                "watt_hours": round(sum(energy), 4) if energy else "",
                "peak_mib": max(cost.peak_mib for cost in group), "device": ", ".join(sorted({cost.device for cost in group})),
            }
        )  # fmt: skip
    return rows


def started(results: Path) -> list[float]:
    """When stages of the study first started, in seconds since 1970."""
    first = []
    for file in (results / "logs").rglob("*.cost.jsonl"):
        row = json.loads(file.read_text(encoding="utf-8").partition("\n")[0] or "{}")
        if "started" in row:
            first.append(row["started"])
    return first


def _authors() -> list[dict[str, str]]:
    """The authors of the workflow, from CITATION.cff."""
    import yaml

    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    return [
        {"@type": "Organization" if "name" in each else "Person",
         "name": each.get("name") or " ".join(filter(None, (each.get("given-names"), each.get("family-names"))))}
        for each in citation["authors"]
    ]  # fmt: skip


if __name__ == "__main__":
    run(main, parser())
