"""Write docs/performance.md from benchmarks/results: each hot path beside a peer of the same run and the machine's limit.

python -m benchmarks.report
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from benchmarks.scaling import figure

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
PRODUCT, CONVOLUTION = "a large matrix product", "a large convolution"
GPU = ("diffusion_gpu", "embedding_gpu", "pretraining_step_gpu")
# Each fast path has a plain version that a test compares it with.
TESTS = {
    "view store on threads, frame by frame": "test_imaging_store.py",
    "marker drawing in windows": "test_imaging_markers.py",
    "NT-Xent as one matrix product": "test_training_contrastive.py",
    "gradient caching, several processes": "test_training_contrastive_step.py",
    "batched augmentation": "test_training_augmentation.py",
    "blocked neighbours with exact rims": "test_manifold_neighbours.py",
    "Fréchet distance by QR and singular values": "test_manifold_metrics.py",
    "near-duplicate search by fingerprints": "test_near_duplicates.py",
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
        ours, peer = rows["view store, 2 threads"]["frames_per_second"], rows["pillow loop"]["frames_per_second"]
        yield Row(f"view store, {kind}, 2 threads", f"{ours:.0f} frames/s", f"Pillow loop {peer:.0f}", ours / peer)


def near_duplicates(record: Mapping[str, Any]) -> Iterator[Row]:
    """Seconds for all pairs; the peer's are projected from fewer views."""
    ours, peer = record["rows"][0], record["rows"][-1]
    text = f"imagehash, loop over pairs {peer['seconds']:.0f} s (projected)"
    yield Row(f"near-duplicates, {ours['views']} views", f"{ours['seconds']:.1f} s", text, record["times_faster"])


def augmentation(record: Mapping[str, Any]) -> Iterator[Row]:
    """Views per second."""
    rows = _by_method(record)
    ours, peer = (rows[name]["views_per_second"] for name in ("tusflow, batched", "torchvision v2, image by image"))
    yield Row(f"augmentation, {record['size']} px", f"{ours:.0f} views/s", f"torchvision v2 {peer:.0f}", ours / peer)


def contrastive_loss(record: Mapping[str, Any]) -> Iterator[Row]:
    """Seconds forward and backward."""
    for width in sorted({row["dimensions"] for row in record["rows"]}):
        rows = _by_method(record, dimensions=width)
        ours = rows["tusflow"]["seconds_median"]
        for peer in ("lightly", "loop over anchors"):
            seconds = rows[peer]["seconds_median"]
            name = f"contrastive loss, {record['images']} x {width}"
            yield Row(name, f"{ours:.3f} s", f"{peer} {seconds:.3f} s", seconds / ours)


def rates(title: str, peer: str, limit: str, **wanted: Any) -> Callable[[Mapping[str, Any]], Iterator[Row]]:
    """Images per second and the share of the peak, for results that have both."""

    def rows_of(record: Mapping[str, Any]) -> Iterator[Row]:
        rows = _by_method(record, **wanted)
        ours, other = rows["ours"], rows[peer]
        yield Row(
            title, f"{ours['images_per_s']:.1f} images/s", f"{peer} {other['images_per_s']:.1f}",
            ours["images_per_s"] / other["images_per_s"], f"{100 * ours['share_of_peak']:.0f} % of {limit}",
        )  # fmt: skip

    return rows_of


def neighbours(record: Mapping[str, Any]) -> Iterator[Row]:
    """Processor time of the filter's question."""
    for points in sorted({row["points"] for row in record["rows"]}):
        rows = _by_method(record, points=points)
        ours, product = rows["ours"], rows["product"]
        share = f"{100 * ours['gflop_per_second'] / product['gflop_per_second']:.0f} % of the product's speed"
        for peer in ("scikit-learn", "prdc", "torch-fidelity"):
            seconds = rows[peer]["cpu_seconds"]
            name = f"neighbours, {points} x {ours['centres']} x {record['width']}"
            yield Row(
                name, f"{ours['cpu_seconds']:.2f} s", f"{peer} {seconds:.2f} s", seconds / ours["cpu_seconds"], share,
                beside(ours, rows[peer]),
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
    """Processor time of planning; the peer has as many rules and jobs and knows nothing of a study."""
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
    lines = ["## Start-up", "", "| what | processor time | peak memory |", "|---|---|---|"]
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
        "", f"Since {before['before']}, planning costs less:", "", "| planning | before | now |", "|---|---|---|",
        *(f"| {name} | {old[name]:.2f} s | {seconds:.2f} s |" for name, seconds in new.items()),
    ]  # fmt: skip
    return lines


def scaling(results: Path) -> list[str]:
    """The section on time and memory against size."""
    record = _read(results, "scaling")
    lines = [
        "## Scaling", "",
        "![Time and memory against size](images/scaling.png)", "",
        "One core. Exponents are fitted to the upper decade of sizes. Memory of the filter and of the distance is beside the",
        f"features, of the others the whole process ({record['date']}).", "",
        "| path | largest N | time there | memory there | time grows as | memory grows as |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for fitted in record["exponents"]:
        last = [row for row in record["rows"] if row["what"] == fitted["what"]][-1]
        lines.append(
            f"| {fitted['what']} | {last['size']} | {last['cpu_seconds']:.1f} s | {last['peak_memory_mib']:.0f} MiB"
            f" | N^{fitted['time']:.2f} | N^{fitted['memory']:.2f} |"
        )
    return lines


def _read(results: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((results / f"{name}.json").read_text(encoding="utf-8")))


def beside(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    """Peak memory beyond the features, ours and the peer's."""
    return f"+{ours['peak_memory_mib']:.0f} MiB (+{peer['peak_memory_mib']:.0f})"


HOT_PATHS: tuple[tuple[str, Callable[[Mapping[str, Any]], Iterator[Row]]], ...] = (
    ("view_store", view_store),
    ("near_duplicates", near_duplicates),
    ("augmentation", augmentation),
    ("contrastive_loss", contrastive_loss),
    ("pretraining_step", rates("pretraining step, ResNet-18, 96 px", "torchvision, lightly, SGD", CONVOLUTION)),
    ("diffusion", rates("diffusion training step, 64 px", "plain Diffusers", PRODUCT, task="training")),
    ("diffusion", rates("diffusion sampling, 64 px", "plain Diffusers", PRODUCT, task="sampling")),
    ("embedding", rates("embedding, Inception v3", "clean-fid's folder loop", CONVOLUTION)),
    ("neighbours", neighbours),
    ("frechet", frechet),
    ("dag", dag),
)


def page(results: Path) -> str:
    """The page's text from a folder of results."""
    records = {name: _read(results, name) for name, _ in HOT_PATHS}
    lines = [
        "# Performance", "",
        "Written by `python -m benchmarks.report` from `benchmarks/results/`; `make bench` measures anew. Ours and the peer",
        "ran in turn in the same run, on one core unless a row says otherwise; only their ratio should be carried to another",
        "machine. Memory with a + is what a method needs beside the features. A plain Snakefile has",
        "as many rules and jobs and knows no config, manifest or code: it does less.", "",
        "| hot path | ours | peer | times the peer | peak memory (peer's) | the machine's limit | measured |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    slower = []
    for name, rows in HOT_PATHS:
        record = records[name]
        for row in rows(record):
            slower += [f"{row.path} ({row.peer})"] if row.times < 0.95 else []
            compared = f"{row.path} | {row.ours} | {row.peer} | {row.times:.2f}"
            lines.append(f"| {compared} | {row.memory or '–'} | {row.limit or '–'} | {record['date']} |")
    machine = sorted({f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in records.values()})
    missing = [name for name in GPU if not (results / f"{name}.json").is_file()]
    lines += ["", f"Machine: {'; '.join(machine)}."]
    if slower:
        lines += ["", f"Slower than a peer by more than a twentieth: {'; '.join(slower)}."]
    if missing:
        lines += ["", f"Not measured, for want of a GPU: {', '.join(missing)}."]
    lines += [
        "Not measured yet: a fine-tuning run, the demo from end to end.", "",
        *startup(results), "",
        *scaling(results), "",
        "## Fast paths and their plain versions", "",
        "| fast path | compared with its plain version in |", "|---|---|",
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
