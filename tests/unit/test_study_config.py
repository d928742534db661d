"""Config and manifest: every mistake at once, with file, line and key; defaults from the one schema."""

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml
from workflow_scripts.study.schema import config_schema, with_defaults

from tests.shared import REPOSITORY
from workflow_scripts.errors import UserError
from workflow_scripts.study.config import load_config
from workflow_scripts.study.manifest import load_manifest

SHIPPED = REPOSITORY / "config.yaml"


@pytest.fixture
def shipped() -> dict:
    return yaml.safe_load(SHIPPED.read_text())


def leaves(schema, prefix=""):
    for key, value in schema.get("properties", {}).items():
        yield f"{prefix}{key}", value
        yield from leaves(value, f"{prefix}{key}.")


def test_schema_is_a_schema_and_describes_every_key():
    raw = yaml.safe_load((REPOSITORY / "schemas" / "config.schema.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(raw)
    silent = [key for key, value in leaves(config_schema()) if "description" not in value and "properties" not in value]
    assert silent == []


def test_defaults_fill_a_config_to_a_valid_one(shipped):
    minimal = {"data": {key: shipped["data"][key] for key in ("manifest", "root", "organs", "target_organ", "classes")}}
    filled = with_defaults(minimal, config_schema())
    jsonschema.validate(filled, config_schema())
    assert filled["finetuning"]["recipe"]["augmentation"]["flip"] == 0.5


def test_shipped_config_is_valid_and_is_the_papers(shipped):
    config = load_config(shipped, [SHIPPED])
    assert config["seeds"] == [0, 1, 2, 3]
    assert config["folds"] == 3
    assert config["pretraining"]["recipe"]["batch_size"] == 1024
    assert config["synthesis"]["images"] == 20_000
    assert config["manifold"]["recipe"]["filter_k"] == 50
    assert config["audit"]["vote"] == {
        "method": "votes", "threshold": 1.0, "exceedances": 3, "share": 1.0, "unit": "view",
    }  # fmt: skip
    assert config["finetuning"]["recipe"]["backbone_lr"] == 1e-5


def test_demo_config_changes_the_shipped_one_and_stays_valid(shipped):
    demo = yaml.safe_load((REPOSITORY / "demo" / "config.yaml").read_text())
    merged = merge(shipped, demo)
    assert load_config(merged, [SHIPPED, REPOSITORY / "demo" / "config.yaml"])["data"]["source"] == "phantoms"


def merge(base, change):
    merged = copy.deepcopy(base)
    for key, value in change.items():
        merged[key] = merge(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def test_all_mistakes_are_reported_with_their_lines(tmp_path: Path, shipped):
    file = tmp_path / "study.yaml"
    shipped["seedz"] = [0]
    shipped["data"]["size"] = "big"
    shipped["holdout"] = "sometimes"
    file.write_text(yaml.safe_dump(shipped, sort_keys=False))
    lines = file.read_text().splitlines()
    size_line = next(i for i, line in enumerate(lines, 1) if line.strip().startswith("size: big"))
    with pytest.raises(UserError) as error:
        load_config(shipped, [file])
    text = str(error.value)
    assert "seedz" in text
    assert f"study.yaml line {size_line}, data.size" in text
    assert "'sometimes' is not one of" in text


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("data", "target_organ"), "kidney", "not one of data.organs"),
        (("pretraining", "runs", "ud", "sets"), ["labelled", "kidney"], "no set 'kidney'"),
        (("pretraining", "runs", "ud", "weights"), {"synthetic": 0.5}, "none of the run's sets"),
        (("pretraining", "runs", "ud", "init"), "nowhere", "no initialisation 'nowhere'"),
        (("pretraining", "runs", "ud", "recipe"), {"stepz": 3}, "unknown key 'stepz'"),
        (("pretraining", "runs", "xg", "recipe"), {"loss_con": False}, "needs two organs"),
        (("embedding", "network"), "encoder:xgf", "cannot judge them"),
        (("embedding", "network"), "timm:resnet50", "embedding.timm.file"),
        (("diffusion", "holdout_patients"), 0, "calibrated radii need patients"),
        (("audit", "initialisations"), ["imagenett"], "no initialisation or pretraining run 'imagenett'"),
        (("tables", "table2", "rows"), [{"name": "a", "init": "nowhere"}], "nowhere"),
        (("tables", "table2", "rows"), [{"name": "a", "init": "ud"}] * 2, "two rows are named"),
        (("tables", "table1", "rows"), [{"name": "a", "init": "ud", "labels": "reviewed"}], "audit.decisions"),
        (("data", "crop_profiles", "esaote_mylab", "views"), ["one"], "2 boxes but 1 view names"),
        (("synthesis",), {"images": 2, "shards": 3}, "3 shards of 2 images"),
        (("finetuning", "recipe", "backbone_lr"), "1e-5", "write 1.0e-5"),
    ],
)
def test_inconsistent_configs_are_refused(shipped, path, value, message):
    level = shipped
    for key in path[:-1]:
        level = level[key]
    level[path[-1]] = value
    with pytest.raises(UserError, match=message):
        load_config(shipped, [SHIPPED])


HEADER = "image_id,path,patient_id,organ,label,device,side"
GOOD = "a,a.png,p1,testicle,homogeneous,esaote_mylab,left"


@pytest.fixture
def data(shipped) -> dict:
    return {**load_config(shipped, [SHIPPED])["data"], "source": "files"}


def manifest(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    file = tmp_path / "manifest.csv"
    file.write_text(text, encoding=encoding)
    return file


def test_a_good_manifest_is_read_with_any_separator_and_a_byte_order_mark(tmp_path, data):
    plain = load_manifest(manifest(tmp_path, f"{HEADER}\n{GOOD}\n"), data)
    semicolons = f"{HEADER}\n{GOOD}\n".replace(",", ";")
    assert load_manifest(manifest(tmp_path, semicolons, "utf-8-sig"), data) == plain
    assert plain[0]["patient_id"] == "p1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b,../b.png,p1,testicle,,esaote_mylab,left", "line 3, column path.*leaves data.root"),
        ("b,/etc/b.png,p1,testicle,,esaote_mylab,left", "line 3, column path.*leaves data.root"),
        ("b,b.png,p1,kidney,,esaote_mylab,left", "line 3, column organ"),
        ("b,b.png,p1,testicle,bad,esaote_mylab,left", "line 3, column label"),
        ("b,b.png,p1,thyroid,homogeneous,esaote_mylab,left", "only testicle frames carry labels"),
        ("b,b.png,,testicle,homogeneous,esaote_mylab,left", "line 3, column patient_id.*folds would leak"),
        ("b,b.png,p1,testicle,,philips,left", "no crop profile 'philips'"),
        ("a,b.png,p1,testicle,,esaote_mylab,left", "'a' stands already in line 2"),
        ("b/c,b.png,p1,testicle,,esaote_mylab,left", "line 3, column image_id"),
        ('"b,c",b.png,p1,testicle,,esaote_mylab,left', "line 3, column image_id"),
        ('b,b.png,"p1,p2",testicle,,esaote_mylab,left', "line 3, column patient_id"),
        ("b,b.png,p1,testicle,,esaote_mylab,MARIO ROSSI", "line 3, column side"),
        ("b,b.png,p1,testicle,,esaote_mylab", "another number of cells"),
    ],
)
def test_bad_rows_are_refused_with_line_and_column(tmp_path, data, row, message):
    with pytest.raises(UserError, match=message):
        load_manifest(manifest(tmp_path, f"{HEADER}\n{GOOD}\n{row}\n"), data)


def test_all_bad_rows_are_reported_together(tmp_path, data):
    text = f"{HEADER}\nb,b.png,p1,kidney,,esaote_mylab,left\nc,c.png,,testicle,homogeneous,nothing,left\n"
    with pytest.raises(UserError) as error:
        load_manifest(manifest(tmp_path, text), data)
    assert str(error.value).count("line 2") == 1
    assert str(error.value).count("line 3") == 2


def test_missing_columns_and_files_are_named(tmp_path, data):
    with pytest.raises(UserError, match="missing column side"):
        load_manifest(
            manifest(tmp_path, "image_id,path,patient_id,organ,label,device\n" + GOOD.rsplit(",", 1)[0]), data
        )
    with pytest.raises(UserError, match="does not exist"):
        load_manifest(tmp_path / "nothing.csv", data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": {"leak": "nothing"}}, "tables.leak: no initialisation or pretraining run 'nothing'"),
        ({"split_by": "view", "holdout": "per_fold", "tables": {"leak": ""}}, "folds of views share patients"),
        ({"tables": {"table1": {"rows": [{"name": "x", "init": "imagenet", "labels": "flipped_nest"}]}}}, "does not match"),
        (
            {"audit": {"vote": {"method": "oof_loss"}}},
            "nested labels need a method that scores the training itself",
        ),
        ({"data": {"frames": "every 0"}}, "does not match"),
        ({"diffusion": {"holdout_patients": 0, "select": "best"}}, "diffusion.select: 'best' judges checkpoints by held-out"),
        ({"pretraining": {"seeds": 3}, "holdout": "per_fold"}, "pretraining.seeds: 3, but with holdout: per_fold"),
        ({"pretraining": {"seeds": 3}, "seeds": [0, 1, 3, 4]}, "starts from pretraining number 2:"),
    ],
)  # fmt: skip
def test_choices_that_exclude_each_other(shipped, change, message):
    with pytest.raises(UserError, match=message):
        load_config(merge(shipped, change), [SHIPPED])
