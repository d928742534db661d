"""Write docs/performance.md from benchmarks/results: each hot path compared with a peer and with the machine's limit.

python -m benchmarks.report
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.check import lowest_allowed
from benchmarks.measure import RESULTS
from benchmarks.scaling import figure

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
PRODUCT, CONVOLUTION = "a large matrix product", "a large convolution"
GPU = "gpu"  # what benchmarks.gpu measures, where there is one
STAGES = 12  # of the demo that have a line of their own
# Each fast path has a plain reference version that a test compares it with.
TESTS = {
    "view store on threads, frame by frame": "data/test_store.py",
    "marker drawing in windows": "networks/test_markers.py",
    "NT-Xent as one matrix product": "networks/test_contrastive.py",
    "gradient caching, several processes": "pretraining/test_contrastive_step.py",
    "batched augmentation": "pretraining/test_augmentation.py",
    "blocked neighbours with exact boundaries": "synthesis/test_neighbours.py",
    "Fréchet distance by Cholesky factors and eigenvalues": "synthesis/test_metrics.py",
    "near-duplicate search by fingerprints": "data/test_find_near_duplicates.py",
}


@dataclass(frozen=True)
class Row:
    """One comparison: seconds or rates as text, how many times the peer, peak memory and the share of the machine's limit."""

    path: str
    ours: str
    peer: str
    times: float
    limit: str = ""
    memory: str = ""


def _by_method(record: Mapping[str, Any], **wanted: Any) -> dict[str, Mapping[str, Any]]:
    rows = [row for row in record["rows"] if all(row[key] == value for key, value in wanted.items())]
    return {row["method"]: row for row in rows}


def view_store(record: Mapping[str, Any]) -> Iterator[Row]:
    """Frames per second of each format."""
    for kind in sorted({row["format"] for row in record["rows"]}):
        rows = _by_method(record, format=kind)
        ours, peer, alone = (
            rows[name]["frames_per_second"] for name in ("view store, 2 threads", "pillow loop", "decoder alone")
        )
        disk = rows["decoder alone"]["disk_frames_per_second"]
        memory = {
            row["method"]: row["peak_memory_mib"] for row in record["memory"] if row["frames"] == record["frames"]
        }
        yield Row(
            f"view store, {kind}, 2 threads", f"{ours:.0f} frames/s", f"Pillow loop {peer:.0f}", ours / peer,
            f"{100 * ours / (2 * alone):.0f} % of two decoders alone, {100 * ours / disk:.0f} % of the disk",
            f"{memory['view store, 2 threads']:.0f} MiB ({memory['pillow loop']:.0f})" if kind == "bmp" else "",
        )  # fmt: skip


def near_duplicates(record: Mapping[str, Any]) -> Iterator[Row]:
    """Seconds for all pairs; the peer's are projected from fewer views."""
    ours, peer = record["rows"][0], record["rows"][-1]
    text = f"imagehash, loop over pairs {peer['seconds']:.0f} s (projected)"
    memory = f"{ours['peak_memory_mib']:.0f} MiB"
    name = f"near-duplicates, {ours['views']} views"
    yield Row(name, f"{ours['seconds']:.1f} s", text, record["times_faster"], memory=memory)


def augmentation(record: Mapping[str, Any]) -> Iterator[Row]:
    """Views per second."""
    rows = _by_method(record)
    ours, peer = rows["tusflow, batched"], rows["torchvision v2, image by image"]
    speeds = ours["views_per_second"], peer["views_per_second"]
    yield Row(
        f"augmentation, {record['size']} px", f"{speeds[0]:.0f} views/s", f"torchvision v2 {speeds[1]:.0f}",
        speeds[0] / speeds[1], f"{100 * ours['share_of_bandwidth']:.0f} % of the memory's bandwidth", beside(ours, peer),
    )  # fmt: skip


def contrastive_loss(record: Mapping[str, Any]) -> Iterator[Row]:
    """Seconds forward and backward."""
    for width in sorted({row["dimensions"] for row in record["rows"]}):
        rows = _by_method(record, dimensions=width)
        ours = rows["tusflow"]
        for peer in ("lightly", "loop over anchors"):
            seconds = rows[peer]["seconds_median"]
            yield Row(
                f"contrastive loss, {record['images']} x {width}", f"{ours['seconds_median']:.3f} s",
                f"{peer} {seconds:.3f} s", seconds / ours["seconds_median"],
                f"{100 * ours['share_of_peak']:.0f} % of {PRODUCT}", beside(ours, rows[peer]),
            )  # fmt: skip


def rates(title: str, peer: str, limit: str, **wanted: Any) -> Callable[[Mapping[str, Any]], Iterator[Row]]:
    """Images per second and the share of the peak, for results that have both."""

    def rows_of(record: Mapping[str, Any]) -> Iterator[Row]:
        rows = _by_method(record, **wanted)
        ours, other = rows["ours"], rows[peer]
        yield Row(
            title, f"{ours['images_per_s']:.1f} images/s", f"{peer} {other['images_per_s']:.1f}",
            ours["images_per_s"] / other["images_per_s"], f"{100 * ours['share_of_peak']:.0f} % of {limit}",
            beside(ours, other),
        )  # fmt: skip

    return rows_of


def finetuning(record: Mapping[str, Any]) -> Iterator[Row]:
    """Images per second of the input path; a run's seconds have no peer."""
    rows = _by_method(record)
    ours, peer = rows["store in memory, batched"], rows["Pillow and torchvision, loop"]
    speeds = ours["images_per_second"], peer["images_per_second"]
    run = next(row["seconds"] for row in record["training"] if row["what"].startswith("a run"))
    yield Row(
        f"fine-tuning, input path, {record['view_size']} px, {record['threads']} threads", f"{speeds[0]:.0f} images/s",
        f"Pillow and torchvision, loop {speeds[1]:.0f}", speeds[0] / speeds[1],
        f"the network takes the rest: a run at {record['training_size']} px {run:.0f} s (projected)",
        f"{record['peak_memory_mib']:.0f} MiB",
    )  # fmt: skip


def neighbours(record: Mapping[str, Any]) -> Iterator[Row]:
    """Processor time of the filter's question; a peer that cannot hold the size is compared by its speed at a smaller one."""
    for centres in sorted({row["centres"] for row in record["rows"]}):
        rows = _by_method(record, centres=centres)
        ours, product = rows["ours"], rows["product"]
        share = f"{100 * ours['gflop_per_second'] / product['gflop_per_second']:.0f} % of the product's speed"
        for peer in ("scikit-learn", "scikit-learn chunked", "prdc", "torch-fidelity"):
            other = rows[peer]
            fits = "" if other["points"] == ours["points"] else f" for {other['points']}"
            yield Row(
                f"neighbours, {ours['points']} x {centres} x {record['width']}", f"{ours['cpu_seconds']:.2f} s",
                f"{peer} {other['cpu_seconds']:.2f} s{fits}", ours["gflop_per_second"] / other["gflop_per_second"], share,
                beside(ours, other),
            )  # fmt: skip


def frechet(record: Mapping[str, Any]) -> Iterator[Row]:
    """Processor time from features to the distance."""
    for generated, real in dict.fromkeys((row["generated"], row["real"]) for row in record["rows"]):
        rows = _by_method(record, generated=generated, real=real)
        ours, name = rows["ours"], f"Fréchet distance, {generated} and {real} x {record['width']}"
        share = f"{100 * ours['share_of_product']:.0f} % of a large float64 product"
        for peer in ("clean-fid", "torch-fidelity"):
            other = rows[peer]
            yield Row(
                name, f"{ours['cpu_seconds']:.2f} s", f"{peer} {other['cpu_seconds']:.2f} s",
                other["cpu_seconds"] / ours["cpu_seconds"], share, beside(ours, other),
            )  # fmt: skip


def dag(record: Mapping[str, Any]) -> Iterator[Row]:
    """Processor time of planning; the peer has as many rules and jobs and reads no study."""
    for name in dict.fromkeys(row["what"] for row in record["rows"] if "jobs" in row):
        rows = {row["method"]: row for row in record["rows"] if row["what"] == name}
        ours, peer, least = rows["ours"], rows["plain Snakefile"], rows["snakemake --version"]
        seconds, other = ours["cpu_seconds_median"], peer["cpu_seconds_median"]
        yield Row(
            f"planning {name}, {ours['rules']} rules, {ours['jobs']} jobs", f"{seconds:.2f} s",
            f"plain Snakefile {other:.2f} s", other / seconds,
            f"{100 * least['cpu_seconds_median'] / seconds:.0f} % is `snakemake --version`",
            f"{ours['peak_memory_mib']:.0f} MiB ({peer['peak_memory_mib']:.0f})",
        )  # fmt: skip


def startup(results: Path) -> list[str]:
    """The section on start-up: processes, jobs, and planning before and after what reduced it."""
    record, before = _read(results, "dag"), _read(results, "dag_before")
    lines = [
        "## Start-up", "",
        "What a process costs before it works. A workflow pays the lines `per job` once for each job, the imports in every job",
        "that uses the library, and planning whenever it is started.", "",
        "| what | processor time | peak memory |", "|---|---|---|",
    ]  # fmt: skip
    for row in record["processes"]:
        lines.append(f"| {row['what']} | {row['cpu_seconds_median']:.2f} s | {row['peak_memory_mib']:.0f} MiB |")
    for row in record["per_job"]:
        lines.append(f"| {row['what']}, per job | {row['cpu_seconds']:.3f} s | |")
    first = next(row for row in record["rows"] if "first start" in row["what"])
    lines.append(f"| planning {first['what']} (modules are compiled) | {first['cpu_seconds']:.2f} s | |")
    old, new = (
        {row["what"]: row["cpu_seconds_median"] for row in each["rows"] if row["method"] == "ours" and "jobs" in row}
        for each in (before, record)
    )
    lines += [
        "", f"Planning before and after this change: {before['before']}.", "", "| planning | before | after |", "|---|---|---|",
        *(f"| {name} | {old[name]:.2f} s | {seconds:.2f} s |" for name, seconds in new.items()),
    ]  # fmt: skip
    return lines


def scaling(results: Path) -> list[str]:
    """The section on time and memory against size."""
    record = _read(results, "scaling")
    lines = [
        "## Scaling", "",
        "![Time and memory against size](images/scaling.png)", "",
        "One core. Exponents are fitted to the largest decade of sizes. Memory of the filter and of the distance excludes the",
        f"features; the other values are of the whole process ({record['date']}). N^1.00: twice as many take twice as long.", "",
        "| path | largest N | time at N | memory at N | time grows as | memory grows as |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for fitted in record["exponents"]:
        last = [row for row in record["rows"] if row["what"] == fitted["what"]][-1]
        lines.append(
            f"| {fitted['what']} | {last['size']} | {last['cpu_seconds']:.1f} s | {last['peak_memory_mib']:.0f} MiB"
            f" | N^{fitted['time']:.2f} | N^{fitted['memory']:.2f} |"
        )
    return lines


def demo(results: Path) -> list[str]:
    """The section on where the demo's time goes, before and after what reduced it."""
    record, before = _read(results, "demo"), _read(results, "demo_before")
    old = {row["stage"]: row["seconds"] for row in before["rows"]}
    added = [row["stage"] for row in record["rows"] if row["stage"] not in old]
    changed = [name for name, digest in record["tables"].items() if before["tables"].get(name) != digest]
    lines = [
        "## The demo", "",
        f"{record['jobs']} jobs on {record['cores_used']} cores take {record['seconds']:.0f} s ({record['date']}); the cores"
        f" were busy {100 * record['busy_share']:.0f} % of the",
        f"time. Outside its stage, a job takes {record['seconds_per_job_outside']:.1f} s of a core: Snakemake, process start,"
        " process end, waiting for inputs.",
        f"It took {before['seconds']:.0f} s before these changes: {before['before']}.",
        *([f"Added since: {', '.join(added)}."] if added else []),
        "`seconds` is the sum over a stage's jobs, `share` its part of the sum over all stages, `before` the same earlier.",
        f"The tables are identical, digit by digit{', except ' + ', '.join(changed) if changed else ''}.", "",
        "| stage | jobs | seconds | share | before | longest job | peak memory |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in record["rows"][:STAGES]:
        earlier = f"{old[row['stage']]:.1f}" if row["stage"] in old else "–"
        lines.append(
            f"| {row['stage']} | {row['jobs']} | {row['seconds']:.1f} | {100 * row['share']:.0f} %"
            f" | {earlier} | {row['longest']:.1f} s | {row['peak_memory_mib']:.0f} MiB |"
        )
    rest = record["rows"][STAGES:]
    jobs, seconds, share = (sum(row[key] for row in rest) for key in ("jobs", "seconds", "share"))
    before_rest = sum(old.get(row["stage"], 0.0) for row in rest)
    lines.append(f"| {len(rest)} other stages | {jobs} | {seconds:.1f} | {100 * share:.0f} % | {before_rest:.1f} | | |")
    return lines


def external_test(results: Path) -> list[str]:
    """The section on an external test: each stage's time, and a row's and the table's sum."""
    record = _read(results, "external_test")
    minutes = {row["stage"]: row["cpu_seconds"] / 60 for row in record["rows"]}
    once, per_row, table = (minutes[name] for name in ("crop_views", "predict_external", "make_external_table"))
    lines = [
        "## An external test", "",
        f"{record['patients']} patients with {record['views']} views of {record['view_size']} px, {record['networks']}"
        f" networks ({record['backbone']}) a row, on one core ({record['date']}). What was measured",
        "on fewer views or networks is projected with its start-up, so that these are upper bounds.", "",
        "| stage | measured | projected | peak memory |", "|---|---|---|---|",
    ]  # fmt: skip
    named = {
        "crop_views": "crop and read text, once a set", "predict_external": "predict, a row",
        "make_external_table": f"table and figures of {record['table_rows']} rows",
    }  # fmt: skip
    for row in record["rows"]:
        projected = f"x {row['times']:.0f} = {row['cpu_seconds'] / 60:.1f} min" if row["times"] > 1 else "–"
        lines.append(
            f"| {named[row['stage']]} | {row['measured_cpu_seconds']:.0f} s | {projected} | {row['peak_memory_mib']:.0f} MiB |"
        )
    lines += [
        "",
        f"One row from frames to table: {once + per_row + table:.0f} minutes; each further row {per_row:.0f}.",
    ]
    return lines


def guard(results: Path) -> list[str]:
    """The section on make bench-check and its baseline."""
    record = _read(results, "check")
    lines = [
        "## Regression guard", "",
        "`make bench-check` runs short versions of the hot paths. It exits with status 1 if one has become slower, and names it.",
        "It is not part of `make test`, since it needs an otherwise idle machine. Ours and the peer run alternately in one",
        "process on one core; only the ratio of their processor times is compared. A round is the median of",
        f"{record['turns']} repetitions in a process of its own. A row fails if its ratio is below the committed rounds' median",
        f"by more than {record['deviations']:.0f} of their standard deviations and by more than {100 * record['least']:.0f} %"
        " (of logarithms), and a second measurement confirms it.",
        "Ratios depend on the processor: on another machine, write a baseline first (`python -m benchmarks.check --write`).", "",
        "| row | times the peer | range of rounds | lowest allowed |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in record["rows"]:
        median = statistics.median(row["ratios"])
        lines.append(
            f"| {row['row']} | {median:.2f} | {min(row['ratios']):.2f} … {max(row['ratios']):.2f}"
            f" | {lowest_allowed(row['ratios']):.2f} |"
        )
    return lines


def gpu(results: Path) -> list[str]:
    """The section on GPUs: each stage beside its peer, and where the time of ours goes."""
    lines = ["## GPUs", ""]
    if not (results / f"{GPU}.json").is_file():
        return [
            *lines,
            "Not measured yet, for lack of a GPU: `make bench-gpu` measures every stage in nine minutes.",
        ]
    record = _read(results, GPU)
    lines += [
        f"`make bench-gpu` on one {record['device']} ({record['date']}), shipped recipes, 256 pixels. Ours and the peer ran",
        "alternately; ± is the range of the calls. The peak is a large matrix product's or convolution's, whichever is faster,",
        "in the same arithmetic and run. `idle` is the share of a call of ours in which the GPU had nothing to do.", "",
        "| stage | ours | peer | times the peer | share of the peak | peak memory (peer's) | where ours spends its time |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for task in dict.fromkeys(row["task"] for row in record["rows"]):
        ours, peer = (row for row in record["rows"] if row["task"] == task)
        spread = (
            max(ours["images_per_s_max"] / ours["images_per_s"], ours["images_per_s"] / ours["images_per_s_min"]) - 1
        )
        total = sum(ours["seconds_by_kind"].values())
        kinds = sorted(ours["seconds_by_kind"].items(), key=lambda item: -item[1])
        shares = ", ".join(f"{kind} {100 * value / total:.0f} %" for kind, value in kinds if value >= 0.02 * total)
        lines.append(
            f"| {task}, {ours['arithmetic']} | {ours['images_per_s']:.1f} images/s ± {100 * spread:.0f} %"
            f" | {peer['method']} {peer['images_per_s']:.1f} | {ours['images_per_s'] / peer['images_per_s']:.2f}"
            f" | {100 * ours['share_of_peak']:.0f} % | {ours['peak_memory_mib']:.0f} MiB ({peer['peak_memory_mib']:.0f})"
            f" | {shares} |"
        )
    return lines


def limits(results: Path) -> str:
    """The machine's own limits, in the runs that the shares come from."""
    step, frames = _read(results, "pretraining_step"), _read(results, "view_store")
    product = next(row for row in _read(results, "frechet")["rows"] if row["method"] == "product")
    peaks = {name.partition(",")[0]: value / 1e9 for name, value in step["peak_operations_per_s"].items()}
    disk = next(row for row in frames["rows"] if row["format"] == "bmp")["disk_frames_per_second"]
    height, width = frames["screen"]
    return (
        f"One core reaches {peaks['matrix product']:.0f} GFLOP/s in a large matrix product, {peaks['convolution']:.0f} in a"
        f" large convolution (float32),\n{product['gflop_per_second']:.0f} in a float64 product,"
        f" {_read(results, 'augmentation')['bytes_per_s'] / 1e9:.0f} GB/s in copying memory; the disk gives"
        f" {disk * 3 * height * width / 1e9:.1f} GB/s."
    )


def _read(results: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((results / f"{name}.json").read_text(encoding="utf-8")))


def beside(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    """Peak memory beyond the inputs, ours and the peer's."""
    return f"+{ours['peak_memory_mib']:.0f} MiB (+{peer['peak_memory_mib']:.0f})"


HOT_PATHS: tuple[tuple[str, Callable[[Mapping[str, Any]], Iterator[Row]]], ...] = (
    ("view_store", view_store),
    ("near_duplicates", near_duplicates),
    ("augmentation", augmentation),
    ("contrastive_loss", contrastive_loss),
    ("pretraining_step", rates("pretraining step, ResNet-18, 96 px", "torchvision, lightly, SGD", CONVOLUTION)),
    ("diffusion", rates("diffusion training step, 64 px", "plain Diffusers", CONVOLUTION, task="training")),
    ("diffusion", rates("diffusion sampling, 64 px", "plain Diffusers", CONVOLUTION, task="sampling")),
    ("embedding", rates("embedding, Inception v3", "clean-fid's folder loop", CONVOLUTION)),
    ("finetuning", finetuning),
    ("neighbours", neighbours),
    ("frechet", frechet),
    ("dag", dag),
)


def reason(name: str, record: Mapping[str, Any]) -> str:
    """Why a path is slower than its peer, where that is known; with a space before it."""
    if name == "dag":
        return (
            " Planning checks the configuration and the manifest and takes the fingerprint of the code, none of which the"
            " plain Snakefile does; the table says what share is Snakemake's own start."
        )
    return ""


def page(results: Path) -> str:
    """The page's text from a folder of results."""
    records = {name: _read(results, name) for name, _ in HOT_PATHS}
    lines = [
        "# Performance", "",
        "Generated by `python -m benchmarks.report` from `benchmarks/results/`; `make bench` measures again. The peer is another",
        "implementation of the same task. Ours and the peer ran alternately in the same run, on one core unless a row says",
        "otherwise; only their ratio carries over to another machine. Memory with a + excludes the inputs. A plain Snakefile has",
        "as many rules and jobs, but reads no configuration, manifest or code, so it does less.", "",
        "`times the peer` is the peer's time divided by ours, or our rate divided by the peer's: above 1, ours is faster.",
        "The Fréchet distance, the neighbours and planning are compared by processor time, the others by wall time. `Peak",
        "memory` is what one call adds to its process, or all of the process where there is no +. The share of the machine's",
        "limit says how much could be gained at most: arithmetic per second over that of a large matrix product or",
        "convolution, bytes per second over the memory's, frames over those of a decoder or a disk that does nothing else.",
        "`Projected` times are extrapolated from a shorter run. The docstring of each benchmark says what exactly is timed;",
        "its file in `benchmarks/results/` has the machine, the versions and the repetitions.", "",
        "| hot path | ours | peer | times the peer | peak memory (peer's) | share of the machine's limit | measured |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    slower: dict[str, list[str]] = {}
    for name, rows in HOT_PATHS:
        record = records[name]
        for row in rows(record):
            if row.times < 0.95:
                slower.setdefault(name, []).append(f"{row.path} ({row.peer})")
            compared = f"{row.path} | {row.ours} | {row.peer} | {row.times:.2f}"
            lines.append(f"| {compared} | {row.memory or '–'} | {row.limit or '–'} | {record['date']} |")
    machine = sorted({f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in records.values()})
    lines += ["", f"Machine: {'; '.join(machine)}. {limits(results)}"]
    if slower:
        lines += ["", "More than 5 % slower than a peer:", ""]
        lines += [f"- {'; '.join(paths)}.{reason(name, records[name])}" for name, paths in slower.items()]
    lines += [
        "",
        *gpu(results), "",
        *startup(results), "",
        *scaling(results), "",
        *demo(results), "",
        *external_test(results), "",
        *guard(results), "",
        "## Fast paths and their reference versions", "",
        "| fast path | compared with its reference version in |", "|---|---|",
        *(f"| {path} | `tests/unit/{test}` |" for path, test in TESTS.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page and its picture."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(page(RESULTS), encoding="utf-8")
    figure(_read(RESULTS, "scaling")).savefig(PAGE.parent / "images" / "scaling.png", dpi=130)
    print(PAGE)


if __name__ == "__main__":
    main()
