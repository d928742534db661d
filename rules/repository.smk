# Where the repository is, and its package on Python's path; included before anything else, since reading a config needs it.
import io
import sys
import tarfile
import tempfile
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.sourcecache import HostingProviderFile, LocalSourceFile


def unpacked_commit(git, ref):
    """A folder below .snakemake with the files of a commit, as `git archive` writes them."""
    commit = git.commit(ref)
    folder = Path(".snakemake", "tusflow", commit.hexsha).absolute()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        archive = io.BytesIO()
        git.archive(archive, commit)
        archive.seek(0)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary, tarfile.open(fileobj=archive) as files:
            files.extractall(Path(temporary, "files"), filter="data")
            # Every job of a cluster reads this file, and may do so at once.
            try:
                Path(temporary, "files").rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return folder


def repository():
    """The folder of this repository; of a module that Snakemake reads from a host, the unpacked commit.

    It is neither the working directory nor, for a module, that of the main Snakefile. The stages are programs in it.
    """
    rules = workflow.current_basedir
    if isinstance(rules, LocalSourceFile):
        return Path(rules.get_path_or_uri(secret_free=True)).parent
    if not isinstance(rules, HostingProviderFile):
        raise WorkflowError(
            f"the module's snakefile {rules} is neither a path nor github(...) or gitlab(...); use one of these"
        )
    rules.fetch_if_required()
    return unpacked_commit(rules.hosted_repo.repo, rules.ref)


REPOSITORY = repository()
sys.path.insert(0, str(REPOSITORY))
