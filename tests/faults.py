"""Interrupt the smallest study at random moments until it is done, and compare every table byte by byte.

A study starts in a folder of its own. At a random moment it gets a signal: SIGTERM (Snakemake alone, as a batch system sends
it), SIGINT (the whole process group, as Ctrl-C does) or SIGKILL (the whole group). The same command continues it up to the
next moment, and so on until it ends by itself. Before every fourth signal the same command is started once more beside the
living run, which it must leave alone.

Each finished study is added to benchmarks/results/faults.json, and docs/reliability.md is written from there, so a night may
be split: the same command continues with the next moment. With `--folder`, it continues an unfinished study, too. A moment
is a function of the seed and its number. Delete the JSON file to begin anew, for example after a change of the code.

    python -m tests.faults --moments 100 --seed 0
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, write_result
from tests.shared import REPOSITORY
from tests.workflow.study import ENVIRONMENT, SMALLEST, Study, smallest_study
from workflow_scripts.core.files import PART, read_json, write_json, write_text
from workflow_scripts.core.log import say

NAME = "faults"
PAGE = REPOSITORY / "docs" / "reliability.md"
SIGNALS = {"SIGTERM": "Snakemake alone", "SIGINT": "the whole group, as Ctrl-C", "SIGKILL": "the whole group"}
# The report holds times and is not compared, so it is not made.
TARGETS = ("tables", "figures", "synthesis", "audit", "classifier")
SECOND_START = 4  # every so many moments
# After so long without an end a batch system sends SIGKILL. Running jobs may end first, and Snakemake's handler of SIGTERM waits
# for a lock that its own main thread may hold: it then never ends.
GRACE_SECONDS = 300


@dataclass(frozen=True)
class Ask:
    """What is run: the targets on so many cores, interrupted within `longest` seconds at moments drawn from a seed."""

    targets: list[str]
    cores: int
    seed: int
    longest: float


@dataclass
class Moment:
    """One interruption: of which study, when, by what, what ran at that time, and what became of the study."""

    number: int
    date: str
    signal: str
    seconds: float
    running: str
    tracebacks: int
    second_start: str = ""
    equal: bool = False
    left_over: int = 0
    killed: bool = False


def results_of(study: Study) -> dict[str, bytes]:
    """Every CSV of a study but those of its logs, and the classifier's files, by path."""
    results = study.folder / "results"
    files = [*results.rglob("*.csv"), *(results / "classifier").glob("*")]
    return {str(file.relative_to(results)): file.read_bytes() for file in sorted(files)}


def left_over(study: Study) -> int:
    """Parts of files, discarded work directories and locks that are still there."""
    results = study.folder / "results"
    rest = [*results.rglob(f".*{PART}*"), *results.rglob(".*.discarded")]
    return len([*rest, *(study.folder / ".snakemake" / "locks").glob("*")])


@contextmanager
def started(study: Study, ask: Ask, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run of the study, which does not outlive the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            study.command("--cores", str(ask.cores), *ask.targets), env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def undisturbed(folder: Path, ask: Ask) -> tuple[float, dict[str, bytes]]:
    """Seconds and results of a run from the beginning to the end, which is kept in `folder`."""
    record = folder / "seconds"
    if not record.exists():
        shutil.rmtree(folder, ignore_errors=True)
        study, began = smallest_study(folder), time.monotonic()
        with started(study, ask, log := folder / "run.log") as process:
            if process.wait():
                sys.exit(log.read_text(errors="replace")[-3000:])
        write_text(str(time.monotonic() - began), record)
    return float(record.read_text()), results_of(Study(folder, []))


def running_rule(log: Path) -> str:
    """The rule that Snakemake started last."""
    started = re.findall(r"^(?:local)?rule (\w+):$", log.read_text(errors="replace"), re.MULTILINE)
    return started[-1] if started else "planning"


def second_start(study: Study, ask: Ask) -> str:
    """What the same command says beside a living run."""
    done = subprocess.run(
        study.command("--cores", str(ask.cores), *ask.targets), env=ENVIRONMENT, capture_output=True, text=True
    )
    if done.returncode == 0:
        return "found everything done"
    return "refused" if "Directory cannot be locked" in done.stdout + done.stderr else "FAILED OTHERWISE"


def interrupted(folder: Path, first: int, ask: Ask, expected: Mapping[str, bytes]) -> list[Moment]:
    """Run a study in `folder` until it ends, interrupted again and again, and compare; moments count from `first`."""
    study = Study(folder, [SMALLEST]) if (folder / "data_manifest.csv").exists() else smallest_study(folder)
    log, kept = folder / "run.log", folder / "moments.json"
    moments = [Moment(**row) for row in read_json(kept)] if kept.exists() else []
    while True:
        number = first + len(moments)
        name = list(SIGNALS)[number % len(SIGNALS)]
        with started(study, ask, log) as process:
            seconds = random.Random(f"{ask.seed} {number}").uniform(0, ask.longest)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            second = second_start(study, ask) if number % SECOND_START == 0 and process.poll() is None else ""
            running = running_rule(log)
            if process.poll() is not None and moments:
                break
            if process.poll() is not None:
                sys.exit("error: the study ended before the first signal came; ask for a shorter --longest")
            if name == "SIGTERM":
                process.terminate()
            else:
                os.killpg(process.pid, getattr(signal, name))
            try:
                process.wait(GRACE_SECONDS)
                killed = False
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed = True
        told = log.read_text(errors="replace").count("Traceback (most recent call last)")
        moments.append(
            Moment(number, date.today().isoformat(), name, round(seconds, 1), running, told, second, killed=killed)
        )
        write_json([vars(moment) for moment in moments], kept)
        say(f"{moments[-1]}")
    found = results_of(study)
    different = sorted(path for path in {*expected, *found} if expected.get(path) != found.get(path))
    if process.returncode:
        say(log.read_text(errors="replace")[-3000:])
    elif different:
        say(f"{len(different)} files differ: {', '.join(different[:5])}")
    rest = left_over(study)
    return [replace(moment, equal=not different and not process.returncode, left_over=rest) for moment in moments]


def page(record: Mapping[str, Any]) -> str:
    """The Markdown of docs/reliability.md from a record of benchmarks/results."""
    moments = [Moment(**row) for row in record["rows"]]
    dates = sorted({moment.date for moment in moments})
    lines = [
        "# Reliability", "",
        f"Generated by `make test-faults` (`python -m tests.faults --moments {len(moments)} --seed {record['seed']}",
        f"--longest {record['longest']:g}`), which runs the smallest study, interrupts it at random moments, continues it by the",
        "same command until it ends, and compares",
        f"the results with those of an undisturbed run byte by byte: {record['files']} files, which are every CSV table and the",
        f"packed classifier. Targets: {', '.join(record['targets'])}.", "",
        f"{len(moments)} moments, {dates[0]} to {dates[-1]}; {record['machine']['processor']}, {record['cores']} cores, Python",
        f"{record['versions']['python']}; the undisturbed run took {record['seconds']:.0f} s.", "",
        "| signal | sent to | moments | of studies with equal results | tracebacks | of them while Snakemake planned |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, receiver in SIGNALS.items():
        own = [moment for moment in moments if moment.signal == name]
        told = [moment.running for moment in own if moment.tracebacks]
        equal = sum(moment.equal for moment in own)
        lines.append(f"| {name} | {receiver} | {len(own)} | {equal} | {len(told)} | {told.count('planning')} |")
    beside = Counter(moment.second_start for moment in moments if moment.second_start)
    asked = ", ".join(f"{answer} {count}" for answer, count in sorted(beside.items())) or "not tried"
    lines += [
        "",
        f"The same command started beside the living run: {asked}. Studies after which a part of a file, a lock or a discarded",
        f"work directory was left: {'some' if any(moment.left_over for moment in moments) else 'none'}.",
        f"Runs that had not ended {GRACE_SECONDS} seconds after the signal, and were then killed as a batch system kills:",
        f"{sum(moment.killed for moment in moments)}. (Snakemake's handler of SIGTERM waits for a lock that may be its own.)",
        "",
        "| last rule started | moments |",
        "|---|---|",
    ]
    hit = Counter(moment.running for moment in moments)
    lines += [f"| {rule} | {count} |" for rule, count in sorted(hit.items(), key=lambda pair: (-pair[1], pair[0]))]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, compare, write the record and the page; status 1 where a moment changed a result or a second start did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--moments", type=int, default=100, help="interruptions in the record at the end (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--cores", type=int, default=2, help="cores of each run (default: 2)")
    parser.add_argument(
        "--targets", nargs="+", default=TARGETS, help="what the study makes (default: nearly everything)"
    )
    parser.add_argument("--longest", type=float, default=60.0, help="seconds within which a signal comes (default: 60)")
    parser.add_argument("--folder", type=Path, help="where the studies are made, to continue there (default: nowhere)")
    arguments = parser.parse_args()
    ask = Ask(list(arguments.targets), arguments.cores, arguments.seed, arguments.longest)
    # In the background a shell ignores Ctrl-C for its children, and so for theirs, unless somebody listens.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    file = RESULTS / f"{NAME}.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": [], **vars(ask)}
    if any(record[name] != value for name, value in vars(ask).items()):
        sys.exit(f"error: {file} holds moments of another seed, number of cores, time or targets; move it away")
    moments = [Moment(**row) for row in record["rows"]]
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        while len(moments) < arguments.moments:
            took, expected = undisturbed(folder / "reference", ask)
            study = folder / f"interrupted{len(moments)}"
            moments += interrupted(study, len(moments), ask, expected)
            facts = {**vars(ask), "seconds": took, "files": len(expected)}
            write_result(NAME, [vars(moment) for moment in moments], **facts)
            write_text(page(json.loads(file.read_text(encoding="utf-8"))), PAGE)
            say(f"{len(moments)} of {arguments.moments}")
            shutil.rmtree(study)
    good = all(moment.equal and moment.second_start != "FAILED OTHERWISE" for moment in moments)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
