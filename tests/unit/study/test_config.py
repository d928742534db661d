"""Config and manifest: every mistake at once, with file, line and key; defaults from the models."""

import copy
import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.study.config import load_config
from workflow_scripts.study.config.base import SOURCES
from workflow_scripts.study.config.schema import SCHEMA_PATH, schema_text
from workflow_scripts.study.config.schema import main as write_schema
from workflow_scripts.study.experiments import backbone_of, pretraining_recipe, pretraining_runs
from workflow_scripts.study.manifest import load_external, load_manifest, told_apart

SHIPPED = REPOSITORY / "config.yaml"


@pytest.fixture
def shipped() -> dict:
    return yaml.safe_load(SHIPPED.read_text())


def test_the_schema_for_editors_is_that_of_the_models_and_describes_every_key():
    assert SCHEMA_PATH.read_text() == schema_text(), "run python -m workflow_scripts.study.config.schema"
    schema = json.loads(SCHEMA_PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    sections = {"": schema, **schema["$defs"]}
    keys = {
        f"{name}.{key}": value for name, section in sections.items() for key, value in section["properties"].items()
    }
    assert len(keys) > 150
    referred = {
        key: schema["$defs"][value["$ref"].rsplit("/")[-1]] if "$ref" in value else {} for key, value in keys.items()
    }
    assert [
        key for key, value in keys.items() if not (value.get("description") or referred[key].get("description"))
    ] == []
    first, *_ = SHIPPED.read_text().splitlines()
    assert (REPOSITORY / first.removeprefix("# yaml-language-server: $schema=")).samefile(SCHEMA_PATH)


def test_the_schema_check_fails_on_an_outdated_or_missing_file_until_it_is_written(tmp_path, monkeypatch):
    file = tmp_path / "config.schema.json"
    monkeypatch.setattr("workflow_scripts.study.config.schema.SCHEMA_PATH", file)
    for outdated in (None, "{}\n"):
        if outdated is not None:
            file.write_text(outdated)
        with pytest.raises(SystemExit, match="run `python -m workflow_scripts.study.config.schema`"):
            write_schema(["--check"])
        assert file.is_file() == (outdated is not None)
    write_schema([])
    write_schema(["--check"])
    assert file.read_text() == SCHEMA_PATH.read_text()


def test_the_schema_for_editors_accepts_the_shipped_config_and_refuses_what_is_wrong_in_it(shipped):
    schema = json.loads(SCHEMA_PATH.read_text())
    jsonschema.validate(shipped, schema)
    jsonschema.validate(load_config(shipped, [SHIPPED]), schema)
    for section, key, value in (
        ("data", "size", 8),
        ("audit", "voted", {}),
        ("manifold", "recipe", {"filter_k": "many"}),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(shipped | {section: shipped.get(section, {}) | {key: value}}, schema)


def test_defaults_fill_a_config_to_a_valid_one(shipped):
    minimal = {"data": {key: shipped["data"][key] for key in ("manifest", "root", "organs", "target_organ", "classes")}}
    filled = load_config({**minimal, "audit": {"initialisations": ["scratch"]}}, [])
    assert filled["finetuning"]["recipe"]["augmentation"]["flip"] == 0.5
    assert filled["initialisations"] == {"scratch": {"layout": "scratch", "url": "", "sha256": "", "samples": "–"}}
    assert load_config(filled, []) == filled


def test_what_a_run_changes_stays_apart_from_the_common_recipe(shipped):
    changed = merge(shipped, {"pretraining": {"runs": {"ud": {"recipe": {"lr": 1, "augmentation": {"flip": 0}}}}}})
    recipe = load_config(changed, [SHIPPED])["pretraining"]["runs"]["ud"]["recipe"]
    assert recipe == {"lr": 1.0, "augmentation": {"flip": 0.0}}


def test_keys_without_a_default_stay_out_when_they_are_left_out(shipped):
    rows = [{"name": "a", "init": "imagenet"}, {"name": "b", "init": "imagenet", "labels": "complete"}]
    config = load_config(merge(shipped, {"tables": {"table1": {"rows": rows}}}), [SHIPPED])
    assert [row.get("labels") for row in config["tables"]["table1"]["rows"]] == [None, "complete"]
    assert "labels" not in config["tables"]["table1"]["rows"][0]


def test_a_row_without_a_name_has_the_title_of_its_start_else_its_key(shipped):
    rows = [{"init": "imagenet"}, {"init": "ud_testicle"}, {"init": "ud_lambda_0_1"}, {"name": "own", "init": "ud"}]
    rows += [{"init": "majority"}, *({"init": "imagenet", "variant": variant} for variant in ("probe", "own_rate"))]
    config = load_config(merge(shipped, {"tables": {"table2": {"rows": rows}}}), [SHIPPED])
    names = [row["name"] for row in config["tables"]["table2"]["rows"]]
    assert names == [
        "ImageNet", "UD testicles only", "ud_lambda_0_1", "own", "majority", "ImageNet, frozen", "ImageNet, own rates",
    ]  # fmt: skip


def test_the_shipped_rows_print_these_names(shipped):
    config = load_config(shipped, [SHIPPED])
    shown = {table: [row["name"] for row in config["tables"][table]["rows"]] for table in ("table2", "table3")}
    assert shown["table2"][:7] == [
        "none (scratch)", "ImageNet", "USCL", "UD testicles only", "UD thyroids only", "UD", "UD, from ImageNet",
    ]  # fmt: skip
    assert shown["table3"][:6] == ["Xg", "Xgf", "testicle", "thyroid + Xg", "thyroid + Xgf", "testicle + thyroid"]


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


def test_rows_that_are_commented_out_can_be_switched_on():
    """Pairs of a frame, and the networks of the paper's third footnote; each tries its forward at the study's size."""
    from workflow_scripts.networks.backbone import require_forward

    lines = SHIPPED.read_text().splitlines()
    text = "\n".join(re.sub(r"^( +)# (?=- \{init: ud_|ud_\w+: \{)", r"\1", line) for line in lines)
    config = load_config(yaml.safe_load(text), [SHIPPED])
    on = {row["init"] for row in config["tables"]["table2"]["rows"]}
    assert {"ud_frames", "ud_resnet50", "ud_vit"} <= on
    networks = {run: backbone_of(run, config) for run in on if run in config["pretraining"]["runs"]}
    assert {networks["ud_resnet50"], networks["ud_vit"]} == {"resnet50", "vit_small_patch16_224"}
    assert networks["ud_frames"] == networks["ud"] == "resnet18"
    for network in set(networks.values()):
        require_forward(network, config["data"]["size"])


def test_demo_config_changes_the_shipped_one_and_stays_valid(shipped):
    demo = yaml.safe_load((REPOSITORY / "studies" / "demo.yaml").read_text())
    merged = merge(shipped, demo)
    assert load_config(merged, [SHIPPED, REPOSITORY / "studies" / "demo.yaml"])["data"]["source"] == "phantoms"


@pytest.mark.parametrize("name", ["paper", "released"])
def test_each_overlay_is_short_changes_what_it_names_and_stays_valid(shipped, name):
    file = REPOSITORY / "studies" / f"{name}.yaml"
    assert len(file.read_text().splitlines()) <= 30
    config = load_config(merge(shipped, yaml.safe_load(file.read_text())), [SHIPPED, file])
    assert config["diffusion"]["holdout_patients"] == 0
    assert config["diffusion"]["select"] == "last"
    assert config["manifold"]["recipe"]["filter_rule"] == "neighbours"
    assert config["embedding"]["inception"]["resize"] == "legacy_tensorflow"
    if name == "paper":
        assert pretraining_recipe("ud_lars_0_001", config)["lr"] == 1e-3
    else:
        assert {config["pretraining"]["runs"][run]["init"] for run in pretraining_runs(config)} == {"imagenet"}


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
        (("tables", "table2", "rows"), [{"init": "ud"}, {"name": "UD", "init": "xg"}], "two rows are named 'UD'"),
        (("tables", "table4", "rows"), [{"init": "ud_lambda_0_0"}] * 2, "two rows are named 'ud_lambda_0_0'"),
        (
            ("tables", "table1", "rows"),
            [{"init": "ud", "paper": "ud"}],
            "the paper's table1 has no row 'ud'; there are complete, filtered, flipped",
        ),
        (
            ("tables", "table2", "rows"),
            [{"init": "ud", "paper": "ud"}, {"init": "xg", "paper": "ud"}],
            "two rows repeat the paper's row 'ud'",
        ),
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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("data", "size"), 256.0, "256.0 is not a whole number; write it without a decimal point"),
        (("data", "size"), True, "True is not a whole number"),
        (("data", "size"), "256", "'256' is not a whole number (it is text; write it without quotes)"),
        (("data", "size"), float("nan"), "nan is not a whole number"),
        (("data", "size"), None, "None is not a whole number"),
        (("data", "size"), 8, "8 is less than the minimum of 16"),
        (("seeds",), [0, 1, 2**70], "is too large: numbers end below 2^63"),
        (("seeds",), [0, 1, 1], "1 appears more than once"),
        (("seeds",), [-1], "-1 is less than the minimum of 0"),
        (("seeds",), [], "[] has 0 entries; there must be at least 1"),
        pytest.param(("seeds",), list(range(200_000)), "has 200000 entries; there must be at most 1000", id="seeds"),
        (("folds",), 10**6, "is greater than the maximum of 1000"),
        (("synthesis", "shards"), 10**6, "is greater than the maximum of 10000"),
        (("pretraining", "recipe", "projection"), [2**62], "is greater than the maximum of 65536"),
        (("pretraining", "recipe", "batch_size"), 2**62, "is greater than the maximum of 65536"),
        (("pretraining", "recipe", "batch_size"), 1, "1 is less than the minimum of 2"),
        (("embedding", "batch_size"), 2**62, "is greater than the maximum of 65536"),
        pytest.param(
            ("tables", "table2", "rows"), [{"init": "ud", "labels": f"filtered_x{'9' * 5000}"}], "match", id="x9"
        ),
        pytest.param(("data", "frames"), f"every {'9' * 5000}", "does not match", id="every 9"),
        (("finetuning", "recipe", "epochs"), 2**70, "is too large: numbers end below 2^63"),
        pytest.param(
            ("finetuning", "recipe", "epochs"), 16**5000, "a very long number is too large", id="more than 4300 digits"
        ),
        (("finetuning", "recipe", "head_lr"), float("nan"), "nan is not a finite number"),
        (("finetuning", "recipe", "head_lr"), float("inf"), "inf is not a finite number"),
        (("finetuning", "recipe", "head_lr"), True, "True is not a number"),
        (("finetuning", "recipe", "head_lr"), 2**70, "is too large"),
        (("finetuning", "recipe", "head_lr"), 0, "0 is not greater than 0"),
        (("finetuning", "recipe", "augmentation", "flip"), float("inf"), "inf is not a finite number"),
        (("finetuning", "recipe", "augmentation", "flip"), 1.5, "1.5 is greater than the maximum of 1"),
        (("pretraining", "runs", "ud", "recipe"), {"lr": float("nan")}, "nan is not a finite number"),
        (("pretraining", "runs", "ud", "weights"), {"labelled": 0}, "0 is not greater than 0"),
        (("diffusion", "recipe"), {"base_channels": 40}, "40 is not a multiple of 32"),
        (("diffusion", "recipe"), {"channel_multipliers": [1, 0]}, "0 is less than the minimum of 1"),
        (("synthesis", "png"), 1, "1 is not true or false"),
        (("manifold", "recipe", "filter_k"), 3.0, "3.0 is not a whole number"),
        (("manifold", "recipe", "filter_k"), 0, "0 is less than the minimum of 1"),
        (("manifold", "recipe", "filter_k"), "many", "'many' is not one of 'auto'"),
        (("model", "backbone"), 18, "18 is not text"),
        (("audit",), None, "None is not a mapping of keys to values"),
        (("data", "organs"), "testicle", "'testicle' is not a list"),
        (("data", "classes"), ["one"], "has 1 entries; there must be at least 2"),
        (("data", "classes"), ["", "two"], "'' is too short"),
        (("data", "crop_profiles"), {"a b": {"kind": "none"}}, "'a b' does not match"),
        (("data", "crop_profiles"), {7: {"kind": "none"}}, "7 is not text"),
        (("data", "crop_profiles"), {"a": {"kind": "boxes"}}, "this key is required with kind: boxes"),
        (("data", "crop_profiles"), {"a": {"kind": "boxes", "views": ["x"], "boxes": [[1, 2, 3]]}}, "has 3 entries"),
        (("data", "crop_profiles"), {"a": {"kind": "boxes", "views": ["x"], "boxes": [[1, 2, 0, 4]]}}, "has no area"),
        (("data", "root"), ..., "this key is required"),
        (("results",), "", "is not a folder for artefacts alone"),
        (("results",), "/", "is not a folder for artefacts alone"),
        (("results",), "data/..", "is not a folder for artefacts alone"),
        (("results",), str(REPOSITORY), "is not a folder for artefacts alone"),
        (("results",), str(REPOSITORY / "rules"), "is not a folder for artefacts alone"),
        (("results",), str(REPOSITORY / "docs" / "results"), "is not a folder for artefacts alone"),
        (("results",), str(SHIPPED), "config.yaml is a file"),
        (("results",), str(SHIPPED / "below"), "config.yaml is a file"),
        (("results",), "results\n", "holds the character '\\n'"),
        (("model", "backbone"), "resnet18\n", "does not match"),
        (("model", "backbone"), "hf-hub:somebody/network", "does not match"),
        (("embedding", "network"), "timm:hf-hub:somebody/network", "does not match"),
        (("data", "target_organ"), "testicle\n", "does not match"),
        (("data", "frames"), "all\n", "does not match"),
        (("embedding", "inception"), {"url": "http://example.org/net.pth"}, "is no URL of a file that can be fetched"),
        (("embedding", "inception"), {"url": "https://[/net.pth"}, "is no URL of a file that can be fetched"),
        (("embedding", "inception"), {"url": "https://a:b/net.pth"}, "is no URL of a file that can be fetched"),
        (("embedding", "inception"), {"url": "https://a:b@example.org/net.pth"}, "holds a user or a password"),
        (("data", "crop_profiles"), {"x" * 61: {"kind": "none"}}, "is longer than 60 characters"),
        (("results",), "~/results", "~ is not replaced by a home folder"),
        (("results",), "x" * 256, "names of at most 255 bytes"),
        (("data", "manifest"), "é" * 128, "names of at most 255 bytes"),
        (("data", "manifest"), "a{b}.csv", "{ in a path would be a wildcard or a variable of Snakemake"),
        (("data", "patient_key"), "<results>/key", "< in a path would be a wildcard or a variable of Snakemake"),
        (("diffusion", "recipe"), {"timesteps": 2**40}, "is greater than the maximum of 100000"),
        (("diffusion", "recipe"), {"heads": 3}, "512 channels of the deepest level do not divide into 3 heads"),
        (("diffusion", "recipe"), {"attention_resolutions": [7]}, "no level has the side 7; there are 256, 128, 64"),
        (("diffusion", "recipe"), {"channel_multipliers": [1] * 20}, "data.size 256 does not allow it"),
        (("synthesis", "images"), 2**62, "is greater than the maximum of 1e+07"),
        (("release", "title"), "=cmd()", "begins with =, which a spreadsheet"),
        (("data", "classes"), ["US$", "EUR$"], "holds $, and figures would take"),
        (("initialisations", "own"), {"layout": "timm"}, "this key is required with layout: timm"),
        (("initialisations", "majority"), {"layout": "scratch"}, "name of a baseline"),
        (("pretraining", "runs", "uscl"), {"sets": ["labelled"]}, "'uscl' is also an initialisation"),
        (("embedding", "network"), "encoder:nothing", "no pretraining run 'nothing'"),
        (
            ("tables", "table1", "rows"),
            [{"name": "a", "init": "texture", "variant": "unaugmented"}],
            "no fine-tuning recipe",
        ),
        (("classifier",), {"init": "nothing"}, "no initialisation or pretraining run 'nothing'"),
        (("finetuning", "own_rate"), {"factors": [10]}, "finetuning.own_rate.factors"),
        (("finetuning", "own_rate"), {"factors": [10, 10.0]}, "finetuning.own_rate.factors"),
        (("finetuning", "own_rate"), {"factors": [0, 1]}, "finetuning.own_rate.factors"),
        (("finetuning", "own_rate"), {"holdout": 1}, "finetuning.own_rate.holdout"),
        (("data", "organs"), ["testicle", "thyroid", "labelled"], "cannot name an organ"),
    ],
)
def test_wrong_values_are_refused_in_words(shipped, path, value, message):
    level = shipped
    for key in path[:-1]:
        level = level.setdefault(key, {})
    if value is ...:
        del level[path[-1]]
    else:
        level[path[-1]] = value
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_config(shipped, [SHIPPED])
    assert ".".join(path) in str(error.value)


def test_no_folder_of_the_repository_takes_results():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert {file.partition("/")[0] for file in tracked.stdout.split("\0") if "/" in file} <= set(SOURCES)


def test_an_unknown_key_names_the_known_ones(shipped):
    shipped["audit"]["reciep"] = {}
    shipped[3] = 4
    with pytest.raises(UserError) as error:
        load_config(shipped, [SHIPPED])
    text = str(error.value)
    assert (
        "audit.reciep: unknown key 'reciep'; known here: decisions, initialisations, recipe, record, review, vote"
        in text
    )
    assert "unknown key 3; known here: audit, classifier, data" in text


def test_wrong_values_do_not_hide_what_disagrees_elsewhere(shipped):
    """Every check between keys runs whose own keys are right; one that needs a wrong key says nothing of it."""
    shipped["data"]["size"] = "big"
    shipped["data"]["organs"] = ["testicle", 5]
    shipped["embedding"] = {"network": "encoder:nothing"}
    shipped["tables"]["table1"]["rows"] = [{"name": 3, "init": "nowhere"}, {"name": "b", "init": "elsewhere"}]
    shipped["tables"]["leak"] = "nothing"
    shipped["synthesis"] |= {"images": 2, "shards": 3, "png": "yes"}
    with pytest.raises(UserError) as error:
        load_config(shipped, [SHIPPED])
    keys = [line.partition(": ")[0].rpartition(", ")[2] for line in str(error.value).splitlines()[1:]]
    assert sorted(keys) == sorted(
        [
            "data.size", "data.organs.1", "tables.table1.rows.0.name", "synthesis.png",
            "embedding.network", "tables.table1.rows.0.init", "tables.table1.rows.1.init", "tables.leak", "synthesis.shards",
        ]
    )  # fmt: skip


def bomb() -> list:
    """What YAML aliases make of a few lines: 10^9 entries by reference."""
    level: list = ["x" * 100] * 10
    for _ in range(8):
        level = [level] * 10
    return level


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("data", "size"), bomb()),
        (("data", "size"), {"k" * 5000: bomb()}),
        (("data", "root"), bomb()),
        (("results",), {i: bomb() for i in range(1000)}),
        (("holdout",), "x" * 10**6),
        (("x" * 10**5,), 1),
        (("data", "target_organ"), "o" * 10**5),
        (("data", "organs"), [f"organ{i}" for i in range(10**4)]),
        (("pretraining", "runs", "ud", "sets"), ["s" * 10**5]),
        (("pretraining", "runs", "ud", "init"), "i" * 10**5),
        (("pretraining", "runs", "ud", "weights"), {"w" * 10**5: 1}),
        (("embedding", "network"), "encoder:" + "e" * 10**5),
        (("tables", "table1", "rows"), [{"name": "n" * 10**5, "init": "ud"}] * 2),
        (("seeds",), ["s" * 10**5]),
        (("seeds",), ["s"] * 10**4),
        (("pretraining", "runs"), {"r" * 300: {"sets": ["labelled"]}}),
    ],
)
def test_a_message_stays_short_whatever_the_config_holds(shipped, path, value):
    level = shipped
    for key in path[:-1]:
        level = level[key]
    level[path[-1]] = value
    with pytest.raises(UserError) as error:
        load_config(shipped, [SHIPPED])
    assert str(error.value).count("\n") > 0
    assert len(str(error.value)) < 2000


def test_an_alias_that_contains_itself_is_refused(shipped):
    loop: list = []
    loop.append(loop)
    shipped["data"]["crop_profiles"] = {"a": {"kind": "boxes", "views": ["x"], "boxes": loop}}
    shipped["seeds"] = loop
    with pytest.raises(UserError, match="is not a whole number"):
        load_config(shipped, [SHIPPED])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("directory", "not a regular file"),
        ("pipe", "not a regular file"),
        ("latin-1", "not UTF-8"),
        ("broken", "not YAML"),
    ],
)
def test_mistakes_are_listed_though_a_config_file_cannot_be_read_again(tmp_path, shipped, kind, reason):
    file = tmp_path / "study.yaml"
    if kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(b"results: \xe9" if kind == "latin-1" else b"results: [")
    shipped["folds"] = 1
    with pytest.raises(UserError, match=rf"{SHIPPED} line \d+, folds: 1 is less than (?s:.*){file}.*{reason}"):
        load_config(shipped, [SHIPPED, file])


HEADER = "image_id,path,patient_id,organ,label,device,side"
GOOD = "a,a.png,p1,testicle,homogeneous,esaote_mylab,left"


@pytest.fixture
def data(shipped) -> dict:
    data = load_config(shipped, [SHIPPED])["data"]
    return {**data, "source": "files", "crop_profiles": {**data["crop_profiles"], "segmented": {"kind": "masks"}}}


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
        ("a,b.png,p1,testicle,,esaote_mylab,left", "'a' already appears on line 2"),
        ("b/c,b.png,p1,testicle,,esaote_mylab,left", "line 3, column image_id"),
        ('"b,c",b.png,p1,testicle,,esaote_mylab,left', "line 3, column image_id"),
        ('b,b.png,"p1,p2",testicle,,esaote_mylab,left', "line 3, column patient_id"),
        ("b,b.png,p1,testicle,,esaote_mylab,MARIO ROSSI", "line 3, column side"),
        ("b,b.png,p1,testicle,,esaote_mylab", "another number of cells"),
        ("b,b.png,p1,testicle,,segmented,left", "line 3, column mask: the crop profile 'segmented' needs the path"),
    ],
)
def test_bad_rows_are_refused_with_line_and_column(tmp_path, data, row, message):
    with pytest.raises(UserError, match=message):
        load_manifest(manifest(tmp_path, f"{HEADER}\n{GOOD}\n{row}\n"), data)


@pytest.mark.parametrize("column", ["scanner", "centre"])
@pytest.mark.parametrize("cell", ["A$", "=cmd()", "+1", "@x", "-x", "\x1b[31mred", "\u202egpj"])
def test_groups_have_names_that_tables_and_figures_can_show(tmp_path, data, column, cell):
    with pytest.raises(UserError, match=f"line 2, column {column}: .*(holds|begins with)"):
        load_manifest(manifest(tmp_path, f"{HEADER},{column}\n{GOOD},{cell}\n"), data)


def test_all_bad_rows_are_reported_together(tmp_path, data):
    text = f"{HEADER}\nb,b.png,p1,kidney,,esaote_mylab,left\nc,c.png,,testicle,homogeneous,nothing,left\n"
    with pytest.raises(UserError) as error:
        load_manifest(manifest(tmp_path, text), data)
    assert str(error.value).count("line 2") == 1
    assert str(error.value).count("line 3") == 2


@pytest.mark.parametrize(
    "row",
    [
        "{i},{i}.png,p{i},{long},,esaote_mylab,left", "{i},{long},p{i},kidney,,esaote_mylab,left",
        "{i},{i}.png,p{i},testicle,{long},esaote_mylab,left", "{i},{i}.png,p{i},testicle,,{long},left",
        "{long}!,{i}.png,p{i},testicle,,esaote_mylab,left", "{i},/{long},p{i},testicle,,esaote_mylab,left",
    ],
)  # fmt: skip
def test_a_message_stays_short_whatever_the_manifest_holds(tmp_path, data, row):
    rows = [row.format(i=i, long="x" * 100_000) for i in range(3)] + [row.format(i=i, long="x") for i in range(3, 500)]
    data = {**data, "organs": data["organs"] + [f"organ{i}" for i in range(5000)]}
    with pytest.raises(UserError, match=r"and \d+ more$") as error:
        load_manifest(manifest(tmp_path, "\n".join([HEADER, *rows])), data)
    assert len(str(error.value)) < 2000


def test_external_patients_must_be_labelled_and_unknown_to_the_study(tmp_path, data):
    def external(text: str, seen: bool = False, label: str = "") -> list[dict[str, str]]:
        config = {
            "data": data,
            "external": {
                "b": {
                    "manifest": str(manifest(tmp_path, f"{HEADER}\n{text}\n")),
                    "root": "b",
                    "seen_without_labels": seen,
                }
            },
        }
        return load_external("b", config, [{"patient_id": "p1", "label": label}, {"patient_id": "", "label": ""}])

    own = GOOD.replace("p1", "p2")
    assert [row["patient_id"] for row in external(own)] == ["p2"]
    with pytest.raises(
        UserError, match=r"external\.b: 1 patients of .* also appear in .* line 3\. .*give them other ids"
    ):
        external(f"{own}\n{GOOD.replace('a,a', 'b,b')}")
    assert len(external(f"{own}\n{GOOD.replace('a,a', 'b,b')}", seen=True)) == 2
    with pytest.raises(UserError, match=r"also appear in .* line 3, with a label\."):
        external(f"{own}\n{GOOD.replace('a,a', 'b,b')}", seen=True, label="homogeneous")
    with pytest.raises(UserError, match=r"external\.b: .*labels no frame"):
        external(own.replace("homogeneous", ""))
    with pytest.raises(UserError, match=r"line 2, column path: .* leaves data.root \(b\)"):
        external(own.replace("a.png", "../a.png"))


def test_what_tells_the_labelled_frames_apart_and_makes_the_folds():
    rows = [
        {"label": "x", "device": "box", "scanner": "A", "centre": ""},
        {"label": "x", "device": "box", "scanner": "B", "centre": ""},
        {"label": "", "device": "other", "scanner": "C", "centre": "Pisa"},
    ]  # fmt: skip
    config = {"data": {"manifest": "m.csv"}, "split_by": "scanner", "folds": 2}
    assert told_apart(rows, config) == ["scanner"]
    assert told_apart([{"label": "x", "device": "box"}], {**config, "split_by": "patient"}) == []
    with pytest.raises(UserError, match=r"there are 2 \(A, B\), but folds is 3; set folds: 2"):
        told_apart(rows, {**config, "folds": 3})
    with pytest.raises(UserError, match=r"column centre of m\.csv filled for every labelled frame"):
        told_apart(rows, {**config, "split_by": "centre"})


def test_missing_columns_and_files_are_named(tmp_path, data):
    with pytest.raises(UserError, match="missing column side"):
        load_manifest(
            manifest(tmp_path, "image_id,path,patient_id,organ,label,device\n" + GOOD.rsplit(",", 1)[0]), data
        )
    with pytest.raises(UserError, match="does not exist"):
        load_manifest(tmp_path / "nothing.csv", data)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_manifest(tmp_path, data)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="is a pipe, not a regular file"):
        load_manifest(tmp_path / "pipe.csv", data)


def learnt_from(table: str, init: str = "imagenet", variant: str = "", **training_sets: dict) -> dict:
    """A change of the config: a row that learns from the training set x."""
    row = {"name": "x", "init": init, "variant": variant, "training_set": "x"}
    return {"finetuning": {"training_sets": training_sets}, "tables": {table: {"rows": [row]}}}


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
        ({"audit": {"vote": {"exceedances": 10**18}}}, r"audit.vote.exceedances: a run of \d+ epochs .* can never hold"),
        (
            {"tables": {"table1": {"rows": [{"name": "x", "init": "imagenet", "labels": "flipped_x999"}]}}},
            "rows.0.labels: a run of .* can never hold 999 exceedances",
        ),
        ({"data": {"frames": "every 0"}}, "does not match"),
        ({"diffusion": {"holdout_patients": 0, "select": "last"}}, "release.without_audit: diffusion.holdout_patients is 0"),
        ({"diffusion": {"holdout_patients": 0, "select": "best"}}, "diffusion.select: 'best' judges checkpoints by held-out"),
        (
            {"pretraining": {"runs": {"ud_from_imagenet": {"backbone": "resnet50"}}}},
            "'resnet50' cannot start from 'imagenet', whose weights are of 'resnet18'",
        ),
        ({"manifold": {"recipe": {"filter_rule": "none"}}}, "only images of a folder .* can have been filtered before"),
        (
            {"manifold": {"recipe": {"filter_rule": "none"}}, "synthesis": {"source": "folder", "folder": "x"}},
            r"tables.table3.rows.0.init: 'xg' pretrains on the set `synthetic`",
        ),
        ({"initialisations": {"imagenet": {"normalisation": [0.5, 0.5, 0.5]}}}, "is no mean and deviation: two numbers"),
        ({"initialisations": {"imagenet": {"normalisation": [0.5, 0.0]}}}, "deviations above 0"),
        ({"embedding": {"published_activations": "ref_acts.npz"}}, "features of two networks do not compare"),
        ({"release": {"readings": "r.csv"}, "holdout": "per_fold"}, "release.readings: with holdout: per_fold every fold has"),
        (
            {"release": {"readings": "r.csv"}, "synthesis": {"source": "folder", "folder": "x"}},
            "release.readings: a set that others made",
        ),
        ({"pretraining": {"seeds": 3}, "holdout": "per_fold"}, "pretraining.seeds: 3, but with holdout: per_fold"),
        ({"pretraining": {"seeds": 3}, "seeds": [0, 1, 3, 4]}, "starts from pretraining number 2:"),
        (learnt_from("table5"), r"rows.0.training_set: no training set 'x'; finetuning.training_sets has none"),
        (learnt_from("table5", x={"synthetic_percent": 100}), "this generator is not asked for any; set diffusion.class_condit"),
        (learnt_from("table2", x={"synthetic_percent": 100}), "in the rows of table 5, whose caption says so"),
        (learnt_from("table5", init="majority"), "learnt by networks with the plain recipe; leave out the baseline"),
        (learnt_from("table5", variant="probe"), "learnt by networks with the plain recipe; leave out the baseline"),
        (learnt_from("table5", x={"synthetic_percent": 100, "labels": "shuffled"}), "labels are no control; set it to 0"),
    ],
)  # fmt: skip
def test_choices_that_exclude_each_other(shipped, change, message):
    with pytest.raises(UserError, match=message):
        load_config(merge(shipped, change), [SHIPPED])
