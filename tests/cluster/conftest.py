"""The cluster and the studies that its tests run."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.cluster.slurm import Cluster, wait_until, why_not_here
from tests.shared import REPOSITORY
from tests.workflow.study import ENVIRONMENT, Study, smallest_study

PROFILE = REPOSITORY / "slurm" / "config.yaml"
CHANGES = Path(__file__).with_name("smallest.yaml")
TABLE = "results/tables/table2.csv"
# This machine is small and the jobs are short: few at once, on one thread each, looked after often.
PACE = [
    "--jobs", "3", "--latency-wait", "5", "--seconds-between-status-checks", "2",
    "--slurm-init-seconds-before-status-checks", "2",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a cluster."""
    reason = why_not_here()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.skipif(bool(reason), reason=reason))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running SLURM with nothing queued."""
    # A short path: the sockets below it may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        if not os.environ.get("KEEP_SLURM"):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def threads() -> list[str]:
    """The profile's rules with one thread each."""
    return [f"{rule}=1" for rule in yaml.safe_load(PROFILE.read_text())["set-threads"]]


class Run:
    """One Snakemake with jobs on the cluster."""

    def __init__(self, study: Study, cluster: Cluster, *arguments: str) -> None:
        self.log = study.folder / "snakemake.out"
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                study.command(*arguments), cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**ENVIRONMENT, **cluster.environment},
            )  # fmt: skip

    def finish(self, seconds: float = 900, status: int = 0) -> str:
        """Wait for the end; what Snakemake printed."""
        ended = self.process.wait(seconds)
        output = self.log.read_text()
        assert ended == status, output[-8000:]
        return output

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 300) -> None:
        """Wait until something holds while Snakemake runs."""

        def holds() -> object:
            assert self.process.poll() is None, f"Snakemake ended before {what}: {self.log.read_text()[-8000:]}"
            return condition()

        wait_until(holds, what, seconds)

    def kill(self) -> None:
        """End Snakemake as a lost head node does."""
        for process in [*self.process.children(recursive=True), self.process]:
            process.kill()
        self.process.wait()


@pytest.fixture
def run(cluster: Cluster) -> Iterator[Callable[..., Run]]:
    """Starts Snakemake on the cluster; what still runs when a test fails is ended."""
    runs: list[Run] = []

    def start(study: Study, *arguments: str) -> Run:
        runs.append(Run(study, cluster, *arguments))
        return runs[-1]

    yield start
    for one in runs:
        if one.process.is_running():
            one.kill()


def profile_with(folder: Path, change: Callable[[dict], None]) -> list[str]:
    """Arguments for the shipped profile with changes; the command line would replace its resources as a whole."""
    profile = yaml.safe_load(PROFILE.read_text())
    change(profile)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(profile))
    return ["--profile", str(folder)]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The one-table study with its views cut; its trainings are the cluster's."""
    study = smallest_study(tmp_path_factory.mktemp("cluster") / "study")
    study = Study(study.folder, [*study.changes, CHANGES])
    views = [f"results/views/{name}.npy" for name in ("labelled", "testicle", "thyroid")]
    study.snakemake("--cores", "2", *views, "results/folds/seed0.csv", "results/labels/complete.csv")
    return study


@pytest.fixture(scope="session")
def undisturbed(prepared: Study, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a run on this machine that nothing disturbs."""
    study = copy_of(prepared, tmp_path_factory.mktemp("undisturbed"))
    study.snakemake("--cores", "2", TABLE)
    return (study.folder / TABLE).read_bytes()


@pytest.fixture
def study(prepared: Study, tmp_path: Path) -> Study:
    """A copy of the prepared study."""
    return copy_of(prepared, tmp_path)


def copy_of(study: Study, folder: Path) -> Study:
    """A copy with the same time stamps and Snakemake's records."""
    shutil.copytree(study.folder, folder / "study", symlinks=True)
    return Study(folder / "study", study.changes)
