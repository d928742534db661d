"""How long a newcomer waits, and how many megabytes: set-up, message of a wrong config, first picture, first table.

    python -m benchmarks.newcomer                              # in a bare clone; writes the sentence of the README
    python -m benchmarks.newcomer --environment .venv --configfile tests/workflow/smallest.yaml --no-page     # a try

Without --environment it sets one up as `make` does, which needs the package index. Nothing else is fetched. Result and
sentence are written after each wait. Processor seconds, of a command and its children, tell how much other programs slowed
the clock.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import write_result

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "README.md"
MIB = 2**20


def main() -> None:
    """Clone, set up, run; write benchmarks/results/newcomer.json and the README's sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="an environment to use instead of setting one up")
    parser.add_argument(
        "--configfile", default="studies/demo.yaml", help="changes to config.yaml (default: the demo's)"
    )
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="CPU cores (default: all)")
    parser.add_argument("--no-page", action="store_true", help="print the rows, and write neither result nor README")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows: list[dict] = []
        for row in measure(Path(folder, "tusflow"), arguments.environment, arguments.configfile, arguments.cores):
            rows.append(row)
            print(f"{row['what']:30}{row['seconds']:9.1f} s{row['mib']:9.0f} MB", flush=True)
            if not arguments.no_page:
                write_result("newcomer", rows, cores=arguments.cores, configfile=arguments.configfile)
                write_page(rows, arguments.cores)


def measure(clone: Path, environment: Path | None, configfile: str, cores: int) -> Iterator[dict]:
    """Seconds of each wait, and MiB on the disk after it that were not there before; the machine's load as it begins."""

    def waited(what: str, command: list[str], programs: Path | None = None, status: int = 0) -> tuple[dict, str]:
        before, load, start = size(clone), os.getloadavg()[0], time.perf_counter()
        found = {**os.environ, "OMP_NUM_THREADS": "1"}
        if programs:
            found["PATH"] = f"{programs}{os.pathsep}{found['PATH']}"
        spent_before = processor_seconds()
        done = subprocess.run(command, cwd=clone if clone.exists() else None, env=found, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode != status:
            sys.exit(f"error: {' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
        row = {
            "what": what, "seconds": seconds, "cpu_seconds": processor_seconds() - spent_before,
            "mib": (size(clone) - before) / MIB, "load": load,
        }  # fmt: skip
        return row, done.stdout + done.stderr

    yield waited("clone", ["git", "clone", "--quiet", f"file://{REPOSITORY}", str(clone)])[0]
    if environment is None:
        yield waited("environment", ["make", f"PYTHON={sys.executable}", ".venv/ready"])[0]
        environment = clone / ".venv"
    programs = environment.absolute() / "bin"
    (clone / "wrong.yaml").write_text("finetuning: {recipe: {epoch: 3}}\n", encoding="utf-8")
    row, message = waited(
        "message of a wrong key",
        ["snakemake", "--dry-run", "--configfile", configfile, "wrong.yaml"],
        programs,
        status=1,
    )
    if "wrong.yaml line 1, finetuning.recipe.epoch: unknown key 'epoch'" not in message:
        sys.exit(f"error: another message than expected:\n{message}")
    yield row
    run = ["snakemake", "--configfile", configfile, "--cores", str(cores)]
    results = subprocess.run(
        ["python", "-c", RESULTS, configfile], cwd=clone, env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    yield waited("first picture", [*run, "--", f"{results}/figures/figure1.png"], programs)[0]
    yield waited("first table", [*run, "--", f"{results}/tables/table2.csv"], programs)[0]
    yield waited("everything", run, programs)[0]


RESULTS = """
import sys
from pathlib import Path
from workflow_scripts.tools.plan import read_config
print(read_config([Path("config.yaml"), Path(sys.argv[1])])["results"])
"""


def processor_seconds() -> float:
    """Of this process's ended children, and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def size(folder: Path) -> int:
    """Bytes of a folder's files, each once."""
    found = {}
    for file in folder.rglob("*"):
        if not file.is_symlink() and file.is_file():
            stat = file.stat()
            found[stat.st_ino] = stat.st_size
    return sum(found.values())


def write_page(rows: Sequence[Mapping], cores: int) -> None:
    """Put the waits between the markers of the README, as one sentence; each counts from the one before."""
    busy = ", shared with other programs" if max(row["load"] for row in rows) > 1.5 * cores else ""
    waits = ", ".join(f"{row['what']} {row['seconds']:.0f} s{megabytes(row['mib'])}" for row in rows)
    begin, end = "<!-- newcomer: python -m benchmarks.newcomer -->\n", "<!-- end -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(begin)
    PAGE.write_text(
        f"{head}{begin}Waits, one after the other, on {cores} cores{busy}: {waits}.\n{rest[rest.index(end) :]}", "utf-8"
    )


def megabytes(mib: float) -> str:
    """What a wait puts on the disk, in brackets; nothing where it is less than one."""
    return f" ({mib / 1024:.1f} GB)" if mib >= 1000 else f" ({mib:.0f} MB)" if mib >= 1 else ""


if __name__ == "__main__":
    main()
