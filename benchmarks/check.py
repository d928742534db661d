"""Has a hot path become slower beside its peer? make bench-check; exit status 1 names the rows.

Short versions of the benchmarks. Ours and the peer run in turn in one process on one core, processor time counts, and what
is compared is their ratio with the committed one: never seconds, which are the machine's. Each round of a row is the median
over its turns, in a process of its own; the committed rounds (benchmarks/results/check.json) tell how far rounds scatter. A
row has become slower when its ratio lies below their median by more than three of their standard deviations, and by more
than a tenth, and again when measured anew.

Ratios depend on the processor too: elsewhere, write a baseline of your own before a change, and check after it.

    python -m benchmarks.check --write
    python -m benchmarks.check
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, bytecode_in, spent, write_result

LEAST, DEVIATIONS = 0.1, 3.0  # of the logarithm of a ratio
TURNS, ROUNDS, LEAST_SECONDS = 3, 5, 0.5
Sides = tuple[Callable[[], object], Callable[[], object]]
Row = Callable[[], AbstractContextManager[Sides]]


def lowest_allowed(committed: Sequence[float]) -> float:
    """The ratio (peer's time / ours) below which a row counts as slower than the committed rounds."""
    tolerance = max(LEAST, DEVIATIONS * statistics.stdev(map(math.log, committed)))
    return statistics.median(committed) * math.exp(-tolerance)


@contextmanager
def view_store() -> Iterator[Sides]:
    """100 frames of BMP, one thread; a Pillow loop."""
    from benchmarks.view_store import draw, file_names, pillow_loop, view_store

    with tempfile.TemporaryDirectory() as name:
        folder, names = Path(name), file_names(100, "bmp")
        draw(folder)
        yield lambda: view_store(folder, names, 1), lambda: pillow_loop(folder, names)


def sides_of(benchmark: str, arguments: tuple[Any, ...], ours: str, peer: str) -> Row:
    """Two of the methods that a benchmark's own `sides(*arguments)` names."""

    @contextmanager
    def row() -> Iterator[Sides]:
        both = importlib.import_module(f"benchmarks.{benchmark}").sides(*arguments)
        yield both[ours], both[peer]

    return row


@contextmanager
def embedding() -> Iterator[Sides]:
    """Eight views; clean-fid's folder loop."""
    from benchmarks.embedding import prepare, sides

    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), 8, 256)
        both = sides(Path(name), 8, 1)
        yield both["ours"], both["clean-fid's folder loop"]


def answers_of(benchmark: str, peer: str, *arguments: int) -> Row:
    """Ours and a peer of those that a benchmark's `answer_of` names, on 4000 generated views and 880 real ones."""

    @contextmanager
    def row() -> Iterator[Sides]:
        from benchmarks.scaling import features

        answer_of = importlib.import_module(f"benchmarks.{benchmark}").answer_of
        real, generated = features(880, 0), features(4000, 1)
        both = answer_of("ours", 1), answer_of(peer, 1)
        yield lambda: both[0](real, generated, *arguments), lambda: both[1](real, generated, *arguments)

    return row


@contextmanager
def planning() -> Iterator[Sides]:
    """A dry run of the shipped study's size; a plain Snakefile."""
    from benchmarks.dag import PAPER, plain_workflow, plan_command, planned, write_manifest

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = bytecode_in(folder / "bytecode")
        write_manifest(folder / "data_manifest.csv", *PAPER)
        command = plan_command(folder)
        rules, jobs = planned(command, folder, environment)
        plain = [*plain_workflow(folder / "plain", rules, jobs - 1), "--dry-run"]
        yield lambda: spent(command, folder, environment), lambda: spent(plain, folder, environment)


ROWS: dict[str, Row] = {
    "view_store": view_store,
    "augmentation": sides_of("augmentation", (32, 256), "tusflow, batched", "torchvision v2, image by image"),
    "contrastive_loss": sides_of("contrastive_loss", (1024, 128), "tusflow", "lightly"),
    "pretraining_step": sides_of("pretraining_step", ("resnet18", 1), "ours", "torchvision, lightly, SGD"),
    "diffusion_training": sides_of("diffusion", ("training", 1), "ours", "plain Diffusers"),
    "diffusion_sampling": sides_of("diffusion", ("sampling", 1), "ours", "plain Diffusers"),
    "embedding": embedding,
    "neighbours": answers_of("neighbours", "scikit-learn", 50),
    "frechet": answers_of("frechet", "torch-fidelity"),
    "planning": planning,
}


def processor_seconds() -> float:
    """Of this process and its ended children."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def cost(side: Callable[[], object]) -> float:
    """Processor seconds of a call, over as many as make `LEAST_SECONDS`: a step of milliseconds alone tells little."""
    start, calls, taken = processor_seconds(), 0, 0.0
    while taken < LEAST_SECONDS:
        side()
        calls += 1
        taken = processor_seconds() - start
    return taken / calls


def ratio(row: str) -> float:
    """One round: the median over its turns of the peer's processor time over ours."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    ratios = []
    with ROWS[row]() as (ours, peer):
        for turn in range(TURNS + 1):
            # Whichever comes first: a step of ours must not always meet what the peer left in the cache.
            if turn % 2:
                own, other = cost(ours), cost(peer)
            else:
                other, own = cost(peer), cost(ours)
            ratios.append(other / own)
    return statistics.median(ratios[1:])


def measured(row: str) -> float:
    """A round in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(ratio, row).result()


def write() -> None:
    """Measure the baseline, all rows in turn in every round."""
    ratios: dict[str, list[float]] = {row: [] for row in ROWS}
    for _ in range(ROUNDS):
        for row, rounds in ratios.items():
            rounds.append(measured(row))
            print(f"{row:20}{rounds[-1]:7.2f}", flush=True)
    rows = [{"row": row, "ratios": rounds} for row, rounds in ratios.items()]
    print(write_result("check", rows, turns=TURNS, least=LEAST, deviations=DEVIATIONS))


def main() -> None:
    """Check, or write the baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the baseline instead")
    arguments = parser.parse_args()
    if arguments.write:
        write()
        return
    failed = []
    for row in json.loads((RESULTS / "check.json").read_text(encoding="utf-8"))["rows"]:
        name, committed = row["row"], row["ratios"]
        lowest, now = lowest_allowed(committed), measured(name)
        if bad := now < lowest:
            now = measured(name)
            bad = now < lowest
        failed += [name] if bad else []
        print(
            f"{name:20}{now:7.2f} times the peer, {statistics.median(committed):.2f} committed, allowed from {lowest:.2f}:"
            f" {'slower' if bad else 'as before or faster'}",
            flush=True,
        )
    if failed:
        sys.exit(f"error: slower beside their peers than committed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
