"""The two cluster profiles ask for the same, each in the words of its kind of site."""

import yaml

from tests.shared import REPOSITORY

SITE = ("slurm_partition", "gpu_model", "constraint")


def test_both_profiles_ask_for_the_same_times_memory_and_gpus():
    models, features = (
        yaml.safe_load((REPOSITORY / name / "config.yaml").read_text()) for name in ("slurm", "slurm-constraint")
    )
    asked = [
        {rule: {key: value for key, value in each.items() if key not in SITE} for rule, each in profile.items()}
        for profile in (models["set-resources"], features["set-resources"])
    ]
    assert asked[0] == asked[1]
    for rule, each in features["set-resources"].items():
        # A GPU is asked for by a feature of its node, on the GPU partition; everything else is on the CPU partition.
        assert ("gpu" in each) == ("constraint" in each) == (each.get("slurm_partition") == "gpu"), rule
        assert "gpu_model" not in each
    kept = {key: value for key, value in models.items() if key not in ("set-resources", "default-resources")}
    assert {key: features[key] for key in kept} == kept
    assert features["default-resources"]["slurm_partition"] == "cpu"


def test_four_shards_of_samples_in_turn_ask_for_hours_not_half_a_day():
    profile = yaml.safe_load((REPOSITORY / "slurm" / "config.yaml").read_text())
    assert "sample=4" in profile["group-components"]
    assert 4 * profile["set-resources"]["sample_shard"]["runtime"] <= 240
