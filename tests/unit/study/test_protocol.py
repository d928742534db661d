"""Captions say what the numbers were made with, and name every choice that is not the paper's."""

import copy

import pytest
import yaml

from tests.shared import REPOSITORY
from tests.unit.study.test_config import merge
from workflow_scripts.study.config import load_config
from workflow_scripts.study.protocol import made_with, metric_facts, not_comparable, table_facts

SHIPPED = REPOSITORY / "config.yaml"
# All as the paper has it, or its code where it says nothing.
TEXT = [yaml.safe_load(file.read_text()) for file in (SHIPPED, REPOSITORY / "studies" / "paper.yaml")]
PAPER = load_config(merge(merge(*TEXT), {"synthesis": {"recipe": {"steps": 1000}}}), [])
VIEWS = [880]

CHANGES = [
    ("manifold.recipe.filter_rule", "calibrated", "filter rule calibrated (the paper: neighbours"),
    ("manifold.recipe.filter_k", 30, "filter k = 30 (the paper: 50)"),
    ("diffusion.holdout_patients", 0.15, "15% of the patients held out from the generator (the paper: none)"),
    ("diffusion.select", "best", "checkpoint: best (the paper: last)"),
    ("diffusion.model", "folder", "checkpoint: a ready model (the paper: last)"),
    ("synthesis.recipe.sampler", "ddim", "sampler ddim (the paper: ancestral)"),
    ("synthesis.recipe.steps", 250, "250 sampling steps (released code: 1000)"),
    ("synthesis.images", 500, "500 generated views (the paper: about 20000)"),
    ("embedding.network", "encoder:ud", "features of encoder:ud (the paper: inception)"),
    ("embedding.inception.resize", "clean", "Inception's input resized by clean (released code: legacy_tensorflow)"),
    ("manifold.recipe.metric_k", 5, "metrics at k = 5 (the paper: 3)"),
    ("manifold.recipe.metric_batches", 2, "2 reference batches (the paper: 3)"),
    ("manifold.recipe.metric_batch_size", 32, "reference batches of 32 views (the paper: 64)"),
]
CLASSIFICATION = [
    ("model.backbone", "resnet50", "backbone resnet50 (the paper: resnet18)"),
    (
        "initialisations.imagenet.normalisation",
        [0.5, 0.5],
        "input normalised by 0.5, 0.25; 0.5, 0.5 (the paper: 0.5, 0.25)",
    ),
    ("holdout", "per_fold", "generator and pretraining see no test patient"),
    ("split_by", "view", "folds that split patients (the paper: none does)"),
    ("folds", 5, "5 folds (the paper: 3)"),
    ("seeds", [0], "1 seeds (the paper: 4)"),
    ("tables.spread", "runs", "tables.spread: runs"),
]


def changed(key: str, value: object) -> dict:
    config = copy.deepcopy(PAPER)
    *sections, last = key.split(".")
    place = config
    for section in sections:
        place = place[section]
    place[last] = value
    return config


def test_what_is_the_papers_is_not_called_incomparable():
    assert not_comparable(metric_facts(PAPER), VIEWS) == ""
    assert all(not_comparable(table_facts(table, PAPER), VIEWS) == "" for table in ("table1", "table2", "table3"))


@pytest.mark.parametrize(("key", "value", "sentence"), CHANGES)
def test_each_change_of_the_generation_is_named(key, value, sentence):
    config = changed(key, value)
    assert sentence in not_comparable(metric_facts(config), VIEWS)
    # Table 3 pretrains on the filtered set, table 2 does not.
    assert (sentence in not_comparable(table_facts("table3", config), VIEWS)) == ("metric" not in key)
    assert not_comparable(table_facts("table2", config)) == ""


@pytest.mark.parametrize(("key", "value", "sentence"), CLASSIFICATION)
def test_each_change_of_the_classification_is_named(key, value, sentence):
    assert sentence in not_comparable(table_facts("table2", changed(key, value)))


def test_another_manifold_is_named():
    facts = metric_facts(PAPER)
    assert "a manifold of 748 views (the paper: 880)" in not_comparable(facts, [748])
    assert "a manifold of 490 to 500 views" in not_comparable(facts, [500, 490, 495])


def test_images_that_were_filtered_before_are_said_to_be():
    changes = {
        "synthesis": {"source": "folder", "folder": "published"},
        "manifold": {"recipe": {"filter_rule": "none"}},
        "tables": {"table3": {"rows": [{"init": "xgf"}]}},
    }
    facts = metric_facts(load_config(merge(merge(*TEXT), changes), []))
    assert "Filter: none here, they were filtered before." in made_with(facts, VIEWS)
    assert "filter rule none (the paper: neighbours, Algorithm 1)" in not_comparable(facts, VIEWS)


def test_the_sentence_holds_every_choice():
    config = load_config(yaml.safe_load(SHIPPED.read_text()), [SHIPPED])
    assert made_with(metric_facts(config), [748]) == (
        "Synthetic views: ancestral sampler, 250 steps; checkpoint: best; 15% of the patients held out from the generator."
        " Filter: rule calibrated, k = 50 of 748 real views, features of inception (input resized by clean)."
    )
