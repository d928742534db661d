"""How long a newcomer waits, and how many megabytes: set-up, message of a wrong config, first picture, first table.

    python -m benchmarks.newcomer                              # in a bare clone; writes the table of the README
    python -m benchmarks.newcomer --environment .venv --configfile tests/workflow/smallest.yaml --no-page     # a try

Without --environment it sets one up as `make` does, which needs the package index. Nothing else is fetched.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import write_result

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "README.md"
MIB = 2**20


def main() -> None:
    """Clone, set up, run; write benchmarks/results/newcomer.json and the README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="an environment to use instead of setting one up")
    parser.add_argument(
        "--configfile", default="studies/demo.yaml", help="changes to config.yaml (default: the demo's)"
    )
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="CPU cores (default: all)")
    parser.add_argument("--no-page", action="store_true", help="print the rows, and write neither result nor README")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder, "tusflow"), arguments.environment, arguments.configfile, arguments.cores)
    if not arguments.no_page:
        print(write_result("newcomer", rows, cores=arguments.cores, configfile=arguments.configfile))
        write_page(rows)


def measure(clone: Path, environment: Path | None, configfile: str, cores: int) -> list[dict]:
    """Seconds of each wait, and MiB on the disk after it that were not there before."""
    rows: list[dict] = []

    def waited(what: str, command: list[str], programs: Path | None = None, status: int = 0) -> str:
        before, start = size(clone), time.perf_counter()
        found = {**os.environ, "OMP_NUM_THREADS": "1"}
        if programs:
            found["PATH"] = f"{programs}{os.pathsep}{found['PATH']}"
        done = subprocess.run(command, cwd=clone if clone.exists() else None, env=found, capture_output=True, text=True)
        if done.returncode != status:
            sys.exit(f"error: {' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
        rows.append({"what": what, "seconds": time.perf_counter() - start, "mib": (size(clone) - before) / MIB})
        print(f"{what:30}{rows[-1]['seconds']:9.1f} s{rows[-1]['mib']:9.0f} MB", flush=True)
        return done.stdout + done.stderr

    waited("clone", ["git", "clone", "--quiet", f"file://{REPOSITORY}", str(clone)])
    if environment is None:
        waited("environment", ["make", f"PYTHON={sys.executable}", ".venv/ready"])
        environment = clone / ".venv"
    programs = environment.absolute() / "bin"
    (clone / "wrong.yaml").write_text("finetuning: {recipe: {epoch: 3}}\n", encoding="utf-8")
    message = waited(
        "message of a wrong key",
        ["snakemake", "--dry-run", "--configfile", configfile, "wrong.yaml"],
        programs,
        status=1,
    )
    if "wrong.yaml line 1, finetuning.recipe.epoch: unknown key 'epoch'" not in message:
        sys.exit(f"error: another message than expected:\n{message}")
    run = ["snakemake", "--configfile", configfile, "--cores", str(cores)]
    results = subprocess.run(
        ["python", "-c", RESULTS, configfile], cwd=clone, env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    waited("first picture", [*run, "--", f"{results}/figures/figure1.png"], programs)
    waited("first table", [*run, "--", f"{results}/tables/table2.csv"], programs)
    waited("everything", run, programs)
    return rows


RESULTS = """
import sys
from pathlib import Path
from workflow_scripts.tools.plan import read_config
print(read_config([Path("config.yaml"), Path(sys.argv[1])])["results"])
"""


def size(folder: Path) -> int:
    """Bytes of a folder's files, each once."""
    found = {}
    for file in folder.rglob("*"):
        if not file.is_symlink() and file.is_file():
            stat = file.stat()
            found[stat.st_ino] = stat.st_size
    return sum(found.values())


def write_page(rows: list[Mapping]) -> None:
    """Put the table between the markers of the README; each row counts from the one before."""
    lines = ["| from the command to | seconds | MB |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['seconds']:.0f} | {row['mib']:.0f} |" for row in rows]
    begin, end = "<!-- newcomer -->\n", "<!-- end -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(begin)
    note = "Measured in a bare clone by `python -m benchmarks.newcomer`; each row counts from the one before."
    PAGE.write_text(f"{head}{begin}{note}\n\n" + "\n".join(lines) + "\n" + rest[rest.index(end) :], encoding="utf-8")


if __name__ == "__main__":
    main()
