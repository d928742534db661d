"""The Workflow Run RO-Crate of a study: valid, complete, and without patients, paths and secrets."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import yaml

from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, sha256
from workflow_scripts.study.config import load_config
from workflow_scripts.study.config.base import FilePath, Settings
from workflow_scripts.study.config.study import Study
from workflow_scripts.tools.write_provenance import public, write_crate

SECRETS = ("P017", "Anna_Muster", "mueller", "hunter2", "token123", "patient.key", "clinic-server", "frame_0001")


@pytest.fixture
def study(tmp_path: Path) -> tuple[dict, Path]:
    """A configuration and results in which names, paths and passwords are planted."""
    home = tmp_path / "clinic-server" / "mueller"
    home.mkdir(parents=True)
    manifest = home / "Anna_Muster.csv"
    manifest.write_text("image_id,path,patient_id\nframe_0001,P017/frame_0001.png,P017\n")
    weights = home / "hunter2.pth"
    weights.write_bytes(b"weights")
    decisions = home / "decisions_of_mueller.csv"
    decisions.write_text("view_id\nframe_0001#a\n")
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    results = home / "results"
    config["results"] = str(results)
    config["data"] |= {"manifest": str(manifest), "root": str(home), "patient_key": str(home / "patient.key")}
    config["initialisations"]["imagenet"] |= {
        "file": str(weights),
        "url": "https://host.org/w.pth?key=token123",
    }
    config["audit"]["decisions"] = str(decisions)
    config["diffusion"]["model"] = str(home / "model")
    for name in ("tables", "views", "logs/crop_views"):
        (results / name).mkdir(parents=True)
    (results / "tables" / "table2.csv").write_text("name,accuracy_mean\nscratch,91\n")
    np.save(results / "views" / "labelled.npy", np.zeros((3, 4, 4), np.uint8))
    (results / "views" / "labelled.csv").write_text("view_id,patient_id\nframe_0001#a,P017\n")
    rows = [
        {"started": 1000.0, "gpus": 0},
        {"finished": True, "seconds": 2.5, "gpus": 0, "device": "CPU", "peak_mib": 70},
    ]
    (results / "logs" / "crop_views" / "labelled.cost.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    return load_config(config, []), results


def test_the_crate_is_valid(study, monkeypatch: pytest.MonkeyPatch):
    import rocrate
    from rocrate_validator import models, services
    from rocrate_validator.utils.http import HttpRequester

    # The terms come from the copy that the library brings, so that no network is needed. It is of RO-Crate 1.3; in 1.1, the
    # version of the profile, Bioschemas had other addresses.
    terms = Path(rocrate.__file__).with_name("data").joinpath("ro-crate.jsonld").read_text(encoding="utf-8")
    terms = terms.replace("https://bioschemas.org/terms/", "https://bioschemas.org/")

    def get(_: object, address: str, **__: object) -> SimpleNamespace:
        assert address == "https://w3id.org/ro/crate/1.1/context"
        about = {"Content-Type": "application/ld+json"}
        return SimpleNamespace(status_code=200, headers=about, text=terms, json=lambda: json.loads(terms))

    monkeypatch.setattr(HttpRequester, "get", get, raising=False)
    crate = write_crate(*study)
    result = services.validate(
        services.ValidationSettings(
            rocrate_uri=str(crate), profile_identifier="workflow-run-crate-0.5",
            requirement_severity=models.Severity.REQUIRED, disable_remote_crate_download=True,
        )
    )  # fmt: skip
    assert [issue.message for issue in result.get_issues()] == []
    assert len(result.executed_checks) > 40


def test_no_patient_path_or_secret_is_in_the_crate(study):
    crate = write_crate(*study)
    files = [file for file in crate.rglob("*") if file.is_file()]
    assert len(files) > 10
    for file in files:
        text = file.read_text(encoding="utf-8")
        found = [secret for secret in (*SECRETS, str(study[1].parent)) if secret in text]
        assert found == [], file.name


def path_settings(model: type[Settings]) -> Iterator[str]:
    """Names of the settings of a model, and of those below it, whose values are paths."""
    is_path = get_args(FilePath)[-1]

    def parts(hint: Any) -> Iterator[Any]:
        yield hint
        for argument in get_args(hint):
            yield from parts(argument)

    for name, hint in get_type_hints(model, include_extras=True).items():
        for part in parts(hint):
            if part == is_path:
                yield name
            elif isinstance(part, type) and issubclass(part, Settings):
                yield from path_settings(part)


def test_no_setting_that_is_a_path_is_shown_even_without_a_slash():
    names = set(path_settings(Study))
    assert names >= {"manifest", "root", "file", "model", "published_activations", "masks", "folder"}
    for name in names:
        assert public({"section": {name: "Anna_Muster"}}) == {"section": {}}, name
    assert public({"model": {"backbone": "resnet18"}}) == {"model": {"backbone": "resnet18"}}


def test_inputs_settings_versions_code_tables_costs_and_authors_are_in_it(study):
    config, results = study
    crate = write_crate(config, results)
    graph = json.loads((crate / "ro-crate-metadata.json").read_text(encoding="utf-8"))["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    action = entities["#run"]
    inputs = [entities[each["@id"]] for each in action["object"]]
    hashes = {each["name"]: each.get("sha256") for each in inputs}
    assert hashes["manifest"] == sha256(config["data"]["manifest"])
    assert hashes["views, labelled"] == sha256(results / "views" / "labelled.npy")
    assert hashes["weights, imagenet"] == sha256(config["initialisations"]["imagenet"]["file"])
    assert {each["@id"] for each in action["result"]} == {"tables/table2.csv", "costs.csv"}
    assert (action["startTime"], action["instrument"]["@id"]) == ("1970-01-01T00:16:40+00:00", "workflow/Snakefile")
    workflow = entities["workflow/Snakefile"]
    assert "code " in workflow["version"]
    assert entities[workflow["author"][0]["@id"]]["name"] == "The tusflow developers"
    assert entities["#numpy"]["softwareVersion"] == np.__version__
    settings = json.loads((crate / "settings.json").read_text())
    assert settings["seeds"] == [0, 1, 2, 3]
    assert settings["initialisations"]["imagenet"]["url"] == "https://host.org/w.pth"
    assert settings["finetuning"]["recipe"]["backbone_lr"] == 1.0e-5
    (cost,) = read_rows(crate / "costs.csv")
    assert (cost["stage"], cost["seconds"], cost["peak_mib"]) == ("crop_views", "2.5", "70")


def test_a_study_without_tables_is_refused(study):
    config, results = study
    (results / "tables" / "table2.csv").unlink()
    with pytest.raises(UserError, match="holds no table yet"):
        write_crate(config, results)
