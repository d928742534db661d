"""Show how far a run is: a line per running stage with share, rate and expected end, and the expected end of the whole run.

python -m workflow_scripts.tools.show_progress                             beside a run, in another terminal
python -m workflow_scripts.tools.show_progress --once                      one look
python -m workflow_scripts.tools.show_progress -- snakemake --cores 8      start a run and show it

It reads what the run writes anyway, Snakemake's log and the logs of the stages, so it works wherever these files can be
seen, on a laptop and on the head node of a cluster. The expected end assumes that jobs still to come take as long as others
of their stage took, in this run or before, and that as many run at once as so far.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from threading import Thread

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.runtime.cluster import is_dead, noted_runs
from workflow_scripts.runtime.costs import last_start, read_costs

STAGES = {file.stem for file in Path(__file__).parents[1].glob("*/*.py")}
SECONDS_ON_TERMINAL, SECONDS_IN_LOG = 2.0, 30.0
SHOWN_LINES = 100  # of a command that fails
# Snakemake's log: a stamp, then what happened to a job. Jobs of a group, which share a submission, are indented.
STAMP = r"^(?P<indent> *)\[(?P<stamp>\w{3} \w{3} +\d+ [\d:]+ \d{4})\]\n"
STARTED = re.compile(
    STAMP + r"(?P=indent)(?:local)?(?:rule|checkpoint) (?P<rule>\w+):\n(?P<body>(?:(?P=indent)    .*\n)+)", re.MULTILINE
)
ENDED = re.compile(
    STAMP + r"(?P=indent)(?:Finished jobid: (?P<done>\d+)|Error in rule \w+:\n(?:    .*\n)*? +jobid: (?P<failed>\d+))",
    re.MULTILINE,
)
# A progress bar of a stage, as tqdm writes it into a log.
BAR = re.compile(
    r"(?P<label>[^\r\n|]*?): +(?P<percent>\d+)%\|[^|]*\| (?P<done>\d+)/(?P<total>\d+)"
    r" \[[\d:]+<(?P<left>[\d:?]+), +(?P<rate>[^\]]+)\]"
)


@dataclass
class Job:
    """A job that Snakemake started: times in seconds since 1970; `ended` is None while it runs or waits in a queue."""

    rule: str
    wildcards: str
    log: Path | None
    started: float
    ended: float | None = None


@dataclass(frozen=True)
class Line:
    """A running job: its name, what is known of its progress, and the seconds that it is expected to take yet."""

    name: str
    text: str
    left: float | None


@dataclass(frozen=True)
class Progress:
    """A run: jobs done and in all, its running jobs, and the seconds to its expected end, None before any job has ended."""

    done: int
    total: int
    lines: list[Line]
    left: float | None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="the study's folder (default: results)")
    parser.add_argument("--once", action="store_true", help="show the present state and end")
    parser.add_argument("command", nargs="*", help="a command that runs the workflow")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Show until the run ends; with a command, exit with its status."""
    if arguments.command:
        sys.exit(_watched(arguments.command, arguments.results))
    screen = _Screen()
    while True:
        found = _latest_run()
        if found is None:
            raise UserError("no run is noted in .snakemake; start this in the folder from which Snakemake runs")
        _, note = found
        over = is_dead(note)
        screen.show(report(progress(_log(note), arguments.results), over))
        if over or arguments.once:
            return
        time.sleep(screen.seconds)


def _watched(command: list[str], results: Path) -> int:
    """Run a command and show the progress of the run that it notes; its exit status.

    Of what it prints, warnings are passed on, and the end where it fails. `--quiet` would empty Snakemake's log as well.
    """
    begin = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    assert process.stdout is not None
    screen, printed = _Screen(), deque[str](maxlen=SHOWN_LINES)
    reader = Thread(target=_read, args=(process.stdout, printed, screen), daemon=True)
    reader.start()
    while reader.is_alive():
        reader.join(screen.seconds)
        found = _latest_run()
        if found is not None and found[0] >= begin:
            screen.show(report(progress(_log(found[1]), results), over=False))
    if process.wait():
        screen.clear()
        print("".join(printed), end="", file=sys.stderr)
    return process.returncode


def _read(lines: Iterable[str], printed: deque[str], screen: _Screen) -> None:
    for line in lines:
        printed.append(line)
        if line.lower().startswith("warning"):
            screen.clear()
            print(line, end="", flush=True)


class _Screen:
    """Lines that replace each other on a terminal, and follow each other in a log."""

    def __init__(self) -> None:
        self.replaces = sys.stdout.isatty()
        self.seconds = SECONDS_ON_TERMINAL if self.replaces else SECONDS_IN_LOG
        self._lines = 0

    def clear(self) -> None:
        if self.replaces and self._lines:
            print(f"\x1b[{self._lines}A\x1b[J", end="")
        self._lines = 0

    def show(self, lines: list[str]) -> None:
        self.clear()
        width = os.get_terminal_size().columns - 1 if self.replaces else None
        print("\n".join(line[:width] for line in lines), flush=True)
        self._lines = len(lines)


def _latest_run() -> tuple[float, dict] | None:
    """When the latest noted run noted itself last, seconds since the epoch, and its note."""
    runs = noted_runs(Path(".snakemake"))
    return (runs[-1][0].stat().st_mtime, runs[-1][1]) if runs else None


def _log(note: Mapping) -> Path:
    return Path(note["logs"][-1]) if note["logs"] else Path(os.devnull)


def progress(log: Path, results: Path, now: float | None = None) -> Progress:
    """What Snakemake's log and those of the stages below `results` say of a run."""
    now = time.time() if now is None else now
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    planned, jobs = _planned(text), _jobs(text)
    ended = [job for job in jobs.values() if job.ended is not None]
    running = [job for job in jobs.values() if job.ended is None]
    typical = _typical(ended, results)
    lines = [_line(job, typical, now) for job in running]
    started = Counter(job.rule for job in jobs.values())
    waiting = {rule: count - started[rule] for rule, count in planned.items() if count > started[rule]}
    mean = fmean(typical.values()) if typical else None
    left = None
    if mean is not None and ended:
        busy = sum((job.ended or now) - job.started for job in jobs.values())
        elapsed = max(now - min(job.started for job in jobs.values()), 1.0)
        each = [mean if line.left is None else line.left for line in lines]
        total = sum(each) + sum(count * typical.get(rule, mean) for rule, count in waiting.items() if _stage(rule))
        left = max([total / max(busy / elapsed, 1.0), *each])
    return Progress(len(ended), sum(planned.values()), lines, left)


def report(state: Progress, over: bool) -> list[str]:
    """The lines to show."""
    clock = time.strftime("%H:%M:%S")
    head = f"{clock}  {state.done} of {state.total} jobs done"
    if over:
        return [f"{head}; no run is in progress"]
    width = max((len(line.name) for line in state.lines), default=0)
    rows = [f"          {line.name:<{width}}  {line.text}{_end(line.left)}" for line in state.lines]
    end = _end(state.left).replace("ends", "expected to end") or ", expected end not yet known"
    return [f"{head}{end}", *rows]


def _end(left: float | None) -> str:
    if left is None:
        return ""
    days = ", %d %b" if left > 12 * 3600 else ""
    return f", ends {time.strftime('%H:%M' + days, time.localtime(time.time() + left))} (in {_span(left)})"


def _span(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _planned(text: str) -> dict[str, int]:
    """Jobs per rule, from the statistics that Snakemake prints first."""
    _, _, statistics = text.partition("Job stats:")
    return {
        rule: int(count)
        for rule, count in re.findall(r"^(\w+) +(\d+)$", statistics.partition("\ntotal")[0], re.MULTILINE)
    }


def _jobs(text: str) -> dict[str, Job]:
    """The jobs that were started, by Snakemake's number; an attempt replaces the one before."""
    jobs = {}
    for match in STARTED.finditer(text):
        fields = dict(re.findall(r"^ {4,}(\w+): (.*)$", match["body"], re.MULTILINE))
        log = Path(fields["log"].partition(",")[0].strip()) if fields.get("log") else None
        if "jobid" in fields:
            jobs[fields["jobid"]] = Job(match["rule"], fields.get("wildcards", ""), log, _time(match["stamp"]))
    for match in ENDED.finditer(text):
        job = jobs.get(match["done"] or match["failed"])
        if job and _time(match["stamp"]) >= job.started:
            job.ended = _time(match["stamp"])
    return jobs


def _time(stamp: str) -> float:
    return datetime.strptime(stamp, "%a %b %d %H:%M:%S %Y").timestamp()


def _typical(ended: list[Job], results: Path) -> dict[str, float]:
    """Mean seconds of a job by rule: of this run, and of earlier ones for the stages that have not ended a job in this one."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for job in ended:
        seconds[job.rule].append((job.ended or job.started) - job.started)
    before: dict[str, list[float]] = defaultdict(list)
    for cost in read_costs(results / "logs"):
        if cost.finished:
            before[cost.stage].append(cost.seconds)
    return {rule: fmean(values) for rule, values in {**before, **seconds}.items()}


def _stage(rule: str) -> str:
    """The stage of a rule, which a module may have renamed by a prefix; "" for a target."""
    return rule if rule in STAGES else next((stage for stage in STAGES if rule.endswith(f"_{stage}")), "")


def _line(job: Job, typical: Mapping[str, float], now: float) -> Line:
    """What is known of a running job."""
    words = " ".join(filter(None, (word.partition("=")[2].strip("/") for word in job.wildcards.split(", "))))
    name = f"{job.rule} {words}".strip()
    start = last_start(job.log) if job.log else job.started
    if start is None or start < job.started - 1:
        return Line(name, "waits for its start", typical.get(job.rule))
    elapsed = now - start
    bar = _bar(job.log)
    if bar is None:
        expected = typical.get(job.rule)
        return Line(name, f"since {_span(elapsed)}", None if expected is None else max(expected - elapsed, 0.0))
    match, written = bar
    text = (
        f"{match['percent']:>3} %  {match['done']}/{match['total']} {match['label'].strip()}  {match['rate'].strip()}"
    )
    left = None if "?" in match["left"] else max(_clock(match["left"]) - (now - written), 0.0)
    return Line(name, text, left)


def _bar(log: Path | None) -> tuple[re.Match[str], float] | None:
    """The last progress bar of a stage's log, and when it was written."""
    if log is None or not log.is_file():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        end = file.read().decode("utf-8", errors="replace")
    bars = list(BAR.finditer(end))
    return (bars[-1], log.stat().st_mtime) if bars else None


def _clock(text: str) -> float:
    """Seconds of `1:02:03` or `02:03`."""
    seconds = 0
    for part in text.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


if __name__ == "__main__":
    run(main, parser())
