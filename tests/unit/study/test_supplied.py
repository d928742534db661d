"""What only a person can supply is looked for before anything is planned: files, backbones, enough patients, plain configs."""

import copy
import functools
import os
from pathlib import Path

import pytest
import yaml

from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.study.config import load_config
from workflow_scripts.study.config.templates import ALLOW, refuse_templates
from workflow_scripts.study.manifest import require_patients
from workflow_scripts.study.weights import require_known_backbones, require_supplied


@functools.cache
def shipped() -> dict:
    return load_config(yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8")), [])


def changed(**sections: dict) -> dict:
    config = copy.deepcopy(shipped())
    for name, values in sections.items():
        config[name] |= values
    return config


def test_the_shipped_study_is_planned_without_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    require_supplied(shipped())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"audit": {"decisions": "absent.csv"}}, r"absent\.csv \(audit\.decisions\) does not exist"),
        (
            {"release": {"readings": "absent.csv"}},
            r"absent\.csv \(release\.readings\) does not exist; export it from the reading",
        ),
        ({"diffusion": {"model": "absent"}}, r"absent \(diffusion\.model\) is no Diffusers folder"),
        (
            {"initialisations": {"uscl": {"layout": "uscl", "file": "mine/uscl.pth", "url": "", "sha256": ""}}},
            r"mine/uscl\.pth does not exist and lies outside weights/.*Needed by: audit\.initialisations",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_key(section, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        require_supplied(changed(**section))


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "resnet18.a1_in1k", "adv_inception_v3"])
def test_backbones_of_timm_are_known_without_importing_it(name: str):
    require_known_backbones(changed(model={"backbone": name}))


def test_other_backbones_are_refused_by_key():
    with pytest.raises(UserError, match=r"^model\.backbone: 'resnet' is not a timm model"):
        require_known_backbones(changed(model={"backbone": "resnet"}))
    with pytest.raises(UserError, match=r"^embedding\.network: 'url' is not a timm model"):
        require_known_backbones(changed(embedding={"network": "timm:url"}))


def test_more_folds_than_patients_with_a_label_are_refused():
    rows = [{"patient_id": f"P{i // 2}", "label": "homogeneous" if i < 6 else "inhomogeneous"} for i in range(10)]
    require_patients(rows, {**shipped(), "folds": 2})
    with pytest.raises(UserError, match="folds: 3, but .* has only 2 patients with the label 'inhomogeneous'"):
        require_patients(rows, {**shipped(), "folds": 3})
    require_patients(rows, {**shipped(), "folds": 3, "split_by": "view"})


@pytest.mark.parametrize(
    "text", ["__use_yte__: true", "a: !!python/tuple [1]\n'__use_yte__': 1", "{a: &b {__use_yte__: yes}, <<: *b}"]
)
def test_a_template_is_refused_unless_asked_for(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "plain.yaml").write_text("title: use_yte")
    (tmp_path / "bad.yaml").write_text("{")
    refuse_templates([tmp_path / "plain.yaml", tmp_path / "bad.yaml", tmp_path / "absent.yaml"])
    (tmp_path / "template.yaml").write_text(text)
    with pytest.raises(UserError, match=r"template\.yaml is a YTE template"):
        refuse_templates([tmp_path / "template.yaml"])
    monkeypatch.setenv(ALLOW, "1")
    refuse_templates([tmp_path / "template.yaml"])


def test_a_config_that_snakemake_would_stumble_over_is_refused(tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes("title: Krankenhäuser".encode("latin-1"))
    (tmp_path / "utf16.yaml").write_bytes("folds: 3".encode("utf-16"))
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, problem in (("latin", "is not UTF-8"), ("utf16", "is not UTF-8"), ("pipe", "is not a regular file")):
        with pytest.raises(UserError, match=rf"^the config .*{name}\.yaml {problem}"):
            refuse_templates([tmp_path / f"{name}.yaml"])
    with pytest.raises(UserError, match="is not a regular file"):
        refuse_templates([tmp_path])
