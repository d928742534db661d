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
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import RESULTS, bytecode_in, spent, write_result

LEAST, DEVIATIONS = 0.1, 3.0  # of the logarithm of a ratio
TURNS, ROUNDS, LEAST_SECONDS = 3, 5, 0.5
Sides = tuple[Callable[[], object], Callable[[], object]]


def tolerance(committed: Sequence[float]) -> float:
    """How far below its committed median a ratio may lie, as a difference of logarithms."""
    return max(LEAST, DEVIATIONS * statistics.stdev(map(math.log, committed)))


def slower(committed: Sequence[float], now: float) -> bool:
    """Whether a ratio (peer's time / ours) lies below the committed rounds by more than they scatter."""
    return math.log(statistics.median(committed)) - math.log(now) > tolerance(committed)


@contextmanager
def view_store() -> Iterator[Sides]:
    """100 frames of BMP, one thread; a Pillow loop."""
    from benchmarks.view_store import draw, file_names, pillow_loop, view_store

    with tempfile.TemporaryDirectory() as name:
        folder, names = Path(name), file_names(100, "bmp")
        draw(folder)
        yield lambda: view_store(folder, names, 1), lambda: pillow_loop(folder, names)


@contextmanager
def augmentation() -> Iterator[Sides]:
    """32 views of 256 pixels; torchvision v2 image by image."""
    from benchmarks.augmentation import sides

    both = sides(32, 256)
    yield both["tusflow, batched"], both["torchvision v2, image by image"]


@contextmanager
def contrastive_loss() -> Iterator[Sides]:
    """The paper's batch in 128 dimensions; lightly."""
    from benchmarks.contrastive_loss import sides

    both = sides(1024, 128)
    yield both["tusflow"], both["lightly"]


@contextmanager
def pretraining_step() -> Iterator[Sides]:
    """One step of ResNet-18; torchvision, lightly and SGD."""
    from benchmarks.pretraining_step import sides

    both = sides("resnet18", 1)
    yield both["ours"], both["torchvision, lightly, SGD"]


@contextmanager
def diffusion_training() -> Iterator[Sides]:
    """One step; plain Diffusers."""
    from benchmarks.diffusion import sides

    both = sides("training", 1)
    yield both["ours"], both["plain Diffusers"]


@contextmanager
def diffusion_sampling() -> Iterator[Sides]:
    """One batch; plain Diffusers."""
    from benchmarks.diffusion import sides

    both = sides("sampling", 1)
    yield both["ours"], both["plain Diffusers"]


@contextmanager
def embedding() -> Iterator[Sides]:
    """Eight views; clean-fid's folder loop."""
    from benchmarks.embedding import prepare, sides

    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), 8, 256)
        both = sides(Path(name), 8, 1)
        yield both["ours"], both["clean-fid's folder loop"]


@contextmanager
def neighbours() -> Iterator[Sides]:
    """4000 generated views and 880 real ones; scikit-learn."""
    from benchmarks.neighbours import K, answer_of
    from benchmarks.scaling import features

    real, generated = features(880, 0), features(4000, 1)
    ours, peer = answer_of("ours", 1), answer_of("scikit-learn", 1)
    yield lambda: ours(real, generated, K), lambda: peer(real, generated, K)


@contextmanager
def frechet() -> Iterator[Sides]:
    """4000 generated views and 880 real ones; torch-fidelity."""
    from benchmarks.frechet import answer_of
    from benchmarks.scaling import features

    real, generated = features(880, 0), features(4000, 1)
    ours, peer = answer_of("ours", 1), answer_of("torch-fidelity", 1)
    yield lambda: ours(real, generated), lambda: peer(real, generated)


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


ROWS = {
    function.__name__: function
    for function in (
        view_store, augmentation, contrastive_loss, pretraining_step, diffusion_training, diffusion_sampling, embedding,
        neighbours, frechet, planning,
    )
}  # fmt: skip


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
    rows = [{"row": row, "ratios": rounds, "tolerance": tolerance(rounds)} for row, rounds in ratios.items()]
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
        now = measured(name)
        bad = slower(committed, now) and slower(committed, now := measured(name))
        failed += [name] if bad else []
        lowest = statistics.median(committed) * math.exp(-tolerance(committed))
        verdict = "slower" if bad else "as before or faster"
        median = statistics.median(committed)
        print(
            f"{name:20}{now:7.2f} times the peer, {median:.2f} committed, allowed from {lowest:.2f}: {verdict}",
            flush=True,
        )
    if failed:
        sys.exit(f"error: slower beside their peers than committed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
