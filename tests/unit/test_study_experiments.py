"""Table rows become experiments, each trained once."""

import yaml

from tests.shared import REPOSITORY
from workflow_scripts.study import experiments as study
from workflow_scripts.study.config import load_config

CONFIG = load_config(yaml.safe_load((REPOSITORY / "config.yaml").read_text()), [])


def test_rows_that_mean_the_same_are_one_experiment():
    rows = [row for table in study.TABLES for row in CONFIG["tables"][table]["rows"]]
    names = [study.experiment_of(row, CONFIG).name for row in rows]
    assert names.count("ud-flipped") == 3
    assert len(study.experiments(CONFIG)) == len({*names, "ud-flipped-unaugmented"})


def test_a_label_policy_of_its_own_is_an_experiment_of_its_own():
    row = {"name": "x", "init": "ud", "labels": "complete", "variant": ""}
    assert study.experiment_of(row, CONFIG) == study.Experiment("ud", "complete")
    assert study.experiment_of({**row, "labels": "flipped"}, CONFIG).name == "ud-flipped"


def test_the_unaugmented_variant_switches_every_augmentation_off():
    recipe = study.finetuning_recipe(study.Experiment("ud", "flipped", "unaugmented"), CONFIG)
    assert set(recipe["augmentation"].values()) == {0.0}
    assert recipe["epochs"] == 30


def test_a_run_changes_only_what_it_names():
    common, ablated = study.pretraining_recipe("ud", CONFIG), study.pretraining_recipe("ud_lambda_0_3", CONFIG)
    assert {key for key in common if common[key] != ablated[key]} == {"organ_weight"}


def test_switches_follow_from_the_mix():
    assert study.switches("thyroid_xgf", "table3", CONFIG) == {
        "real testicle": "no",
        "real thyroid": "yes",
        "synthetic testicle": "Xgf",
    }
    assert study.switches("ud", "table3", CONFIG)["real testicle"] == "yes"
    assert study.switches("ud_organ_only", "table4", CONFIG) == {"L_con": "no", "L_sup": "yes", "lambda": "1.0"}
    assert study.switches("ud_lambda_0_0", "table4", CONFIG) == {"L_con": "yes", "L_sup": "no", "lambda": "0.0"}
