"""The smallest study, run once for all tests that look at its results."""

from pathlib import Path

import pytest

from tests.workflow.study import Study, smallest_study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The smallest study, run to its end; tests must not change its files."""
    study = smallest_study(tmp_path_factory.mktemp("smallest") / "study")
    study.snakemake("--cores", "2")
    return study


@pytest.fixture
def fresh(tmp_path: Path) -> Study:
    """The smallest study, nothing run."""
    return smallest_study(tmp_path / "study")
