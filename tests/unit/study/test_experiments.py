"""Table rows become experiments, each trained once."""

import pytest
import yaml

from tests.shared import REPOSITORY
from workflow_scripts.study import experiments as study
from workflow_scripts.study.config import TABLES, load_config
from workflow_scripts.study.label_sets import LabelSet, label_set

CONFIG = load_config(yaml.safe_load((REPOSITORY / "config.yaml").read_text()), [])


def test_rows_that_mean_the_same_are_one_experiment():
    rows = [row for table in TABLES for row in CONFIG["tables"][table]["rows"]]
    names = [study.experiment_of(row, CONFIG).name for row in rows]
    assert names.count("ud-flipped") == 3
    assert len(study.experiments(CONFIG)) == len(
        {*names, "ud-flipped-unaugmented", "ud-flipped-markers_only", "imagenet-complete-view_split"}
    )


def test_a_label_policy_of_its_own_is_an_experiment_of_its_own():
    row = {"name": "x", "init": "ud", "labels": "complete", "variant": ""}
    assert study.experiment_of(row, CONFIG) == study.Experiment("ud", "complete")
    assert study.experiment_of({**row, "labels": "flipped"}, CONFIG).name == "ud-flipped"


def test_a_backbone_is_the_runs_that_of_its_start_or_the_studys():
    initialisations = {**CONFIG["initialisations"], "mae": {"layout": "original", "file": "x", "backbone": "vit_tiny"}}
    runs = {**CONFIG["pretraining"]["runs"], "a": {"init": "mae"}, "b": {"init": "scratch", "backbone": "resnet50"}}
    config = {**CONFIG, "initialisations": initialisations, "pretraining": {**CONFIG["pretraining"], "runs": runs}}
    found = [study.backbone_of(start, config) for start in ("scratch", "mae", "a", "b", "ud")]
    assert found == ["resnet18", "vit_tiny", "vit_tiny", "resnet50", "resnet18"]
    assert study.backbones(CONFIG) == ["resnet18"]


def test_an_input_normalisation_is_the_runs_or_that_of_its_start():
    initialisations = {
        **CONFIG["initialisations"],
        "mae": {"layout": "original", "file": "x", "normalisation": [0.4, 0.2]},
    }
    runs = {"a": {"init": "mae"}, "b": {"init": "mae", "normalisation": [0.1, 0.3]}, "c": {"init": "scratch"}}
    config = {**CONFIG, "initialisations": initialisations, "pretraining": {**CONFIG["pretraining"], "runs": runs}}
    found = [study.normalisation_of(start, config) for start in ("mae", "a", "b", "c", "scratch")]
    assert found == [[0.4, 0.2], [0.4, 0.2], [0.1, 0.3], [], []]


def test_a_fused_row_needs_the_networks_of_single_views_and_none_of_its_own():
    config = {**CONFIG, "tables": {**CONFIG["tables"]}}
    config["tables"]["table4"] = {
        "rows": [{"name": "both", "init": "ud", "labels": "complete", "variant": "mean_logits"}]
    }
    found = study.experiments(config)
    assert found["ud-complete-mean_logits"].is_fused
    assert not found["ud-complete-mean_logits"].is_trained
    assert found["ud-complete"].is_trained
    config["tables"]["table4"]["rows"][0]["variant"] = "paired_mean_logits"
    found = study.experiments(config)
    assert found["ud-complete-paired_mean_logits"].is_fused
    assert found["ud-complete-paired"].is_trained
    assert study.finetuning_recipe(found["ud-complete-paired"], CONFIG)["coupled"] == 1


def test_a_row_on_synthetic_views_is_an_experiment_of_its_own_and_relabelling_needs_the_one_on_real_views():
    sets = {
        "half": {"real_percent": 50, "synthetic_percent": 50, "set": "filtered", "labels": "asked"},
        "relabelled": {"real_percent": 0, "synthetic_percent": 100, "set": "synthetic", "labels": "relabelled"},
    }
    rows = [
        {"name": name, "init": "ud_thyroid", "labels": "complete", "variant": "", "training_set": name} for name in sets
    ]
    config = {
        **CONFIG,
        "finetuning": {**CONFIG["finetuning"], "training_sets": sets},
        "tables": {**CONFIG["tables"], "table5": {"rows": rows[:1]}},
    }
    assert "ud_thyroid-complete" not in study.experiments(config)
    config["tables"]["table5"] = {"rows": rows}
    found = study.experiments(config)
    half, relabelled = found["ud_thyroid-complete-on_half"], found["ud_thyroid-complete-on_relabelled"]
    assert study.labeller(half, config) is None
    assert study.labeller(relabelled, config) == found["ud_thyroid-complete"]
    assert (study.training_percent(half, config), study.training_percent(relabelled, config)) == (50, 0)
    assert (study.synthetic_share(half, config), study.synthetic_share(relabelled, config)) == (0.5, 1)
    assert list(study.switches(half, "table5", config).values()) == ["50 %", "50 % Xgf", "asked"]
    assert list(study.switches(found["ud_thyroid-complete"], "table5", config).values()) == ["100 %", "–", "–"]


def test_a_seed_learns_from_the_generators_of_its_own_folds():
    config = {**CONFIG, "holdout": "per_fold", "seeds": [1, 11], "folds": 2}
    assert study.seed_cohorts(1, config) == ["seed1_fold0/", "seed1_fold1/"]
    assert study.seed_cohorts(1, CONFIG) == [""]


def test_the_unaugmented_variant_switches_every_augmentation_off():
    recipe = study.finetuning_recipe(study.Experiment("ud", "flipped", "unaugmented"), CONFIG)
    assert {key for key, value in recipe["augmentation"].items() if value != 0} == {"preset", "outside"}
    assert recipe["epochs"] == 30


def test_markers_alone_are_as_frequent_as_in_the_full_augmentation():
    full, alone = (
        study.finetuning_recipe(study.Experiment("ud", "flipped", variant), CONFIG)["augmentation"]
        for variant in ("", "markers_only")
    )
    assert alone == {key: full[key] if key in ("markers", "preset", "outside") else 0.0 for key in full}


def test_a_variant_mirrors_what_lies_outside_the_view():
    plain, reflected = (
        study.finetuning_recipe(study.Experiment("ud", "flipped", variant), CONFIG) for variant in ("", "reflected")
    )
    assert reflected == {**plain, "augmentation": {**plain["augmentation"], "outside": "reflected"}}
    assert plain["augmentation"]["outside"] == "black"


def test_variants_of_the_released_augmentation_go_by_the_magnitudes():
    recipe = {**CONFIG["finetuning"]["recipe"], "augmentation": {"preset": "released", "markers": 0.3, "flip": 0.5}}
    config = {**CONFIG, "finetuning": {**CONFIG["finetuning"], "recipe": recipe}}
    kept = study.finetuning_recipe(study.Experiment("ud", "flipped", "markers_only"), config)["augmentation"]
    assert kept == {"preset": "paper", "markers": 0.3, "flip": 0.0}
    assert study.finetuning_recipe(study.Experiment("ud", "flipped"), config) == recipe


def test_a_repeated_pretraining_moves_its_seed_on():
    config = {**CONFIG, "pretraining": {**CONFIG["pretraining"], "seeds": 3}}
    assert [study.repeat_of(seed, config) for seed in range(4)] == ["", "repeat1/", "repeat2/", ""]
    recipes = [study.repeated_recipe("ud", repeat, config) for repeat in study.repeats(config)]
    assert [recipe["seed"] for recipe in recipes] == [333, 334, 335]
    assert all({**recipe, "seed": 333} == recipes[0] for recipe in recipes)


def test_a_run_changes_only_what_it_names():
    common, ablated = study.pretraining_recipe("ud", CONFIG), study.pretraining_recipe("ud_lambda_0_3", CONFIG)
    assert {key for key in common if common[key] != ablated[key]} == {"organ_weight"}


def test_switches_follow_from_the_mix():
    assert study.switches(study.Experiment("thyroid_xgf", "flipped"), "table3", CONFIG) == {
        "real testicle": "no",
        "real thyroid": "yes",
        "synthetic testicle": "Xgf",
    }
    assert study.switches(study.Experiment("ud", "flipped"), "table3", CONFIG)["real testicle"] == "yes"
    assert study.switches(study.Experiment("ud_organ_only", "flipped"), "table4", CONFIG) == {
        "L_con": "no",
        "L_sup": "yes",
        "lambda": "1.0",
    }
    assert study.switches(study.Experiment("ud_lambda_0_0", "flipped"), "table4", CONFIG) == {
        "L_con": "yes",
        "L_sup": "no",
        "lambda": "0.0",
    }


def test_protocols_follow_from_the_name_of_the_label_set():
    def cells(labels: str) -> list[str]:
        return list(study.switches(study.Experiment("ud", labels), "table1_protocols", CONFIG).values())

    assert cells("complete") == ["complete", "–", "–"]
    assert cells("reviewed") == ["reviewed", "clinician", "–"]
    assert cells("flipped") == ["flipped", "audit of all views", "3"]
    assert cells("filtered_x5") == ["filtered", "audit of all views", "5"]
    assert cells("flipped_x4_nested") == ["flipped", "audit without the test fold", "4"]
    assert cells("filtered_random") == ["filtered", "chance", "3"]


def test_names_of_label_sets():
    assert label_set("flipped_x4_random") == LabelSet("flipped_x4_random", "flipped", 4, "random")
    assert label_set("complete") == LabelSet("complete", "complete", None, "paper")
    assert [label_set(name).per_seed for name in ("flipped", "flipped_x4", "flipped_nested", "filtered_random")] == [
        False, False, True, True,
    ]  # fmt: skip
    assert label_set("filtered_x5_nested").votes == "_x5"
    with pytest.raises(ValueError, match="no label set"):
        label_set("complete_x")
