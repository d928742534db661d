"""Snakemake's SLURM plugin stays with squeue where the controller is slow."""

import pytest
import snakemake_executor_plugin_slurm as plugin

from workflow_scripts.runtime.cluster import MIN_JOB_AGE, stay_with_squeue


@pytest.mark.parametrize(("said", "used"), [(None, MIN_JOB_AGE), (60, 60)])
def test_a_controller_that_does_not_answer_has_the_default_age(monkeypatch: pytest.MonkeyPatch, said, used):
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: said)
    stay_with_squeue()
    assert plugin.get_min_job_age() == used
