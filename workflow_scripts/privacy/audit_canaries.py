"""Which canaries does a generator return, how surely, and from which snapshot of its training run on?

Draws the same images from every snapshot and looks for the codes of `plant_canaries`, those that it planted and as many that
were kept out. Writes per snapshot and code `step, canary, planted, view_id, patient_id, score, chance, exposure, returned`:
the code's best cosine, the share of codes that score as high by chance, its bits, and whether the chance is at most
`--false-alarms`. The summary (JSON, and a page) counts them per snapshot with intervals. Sampled batches survive an
interruption.

    python -m workflow_scripts.privacy.audit_canaries --model diffusion/canaries/trained --planted canaries/planted.csv \\
        --views canaries/views.npy --index views/labelled.csv --holdout diffusion/canaries/holdout.csv --seed 0 \\
        --output-canaries canaries/canaries.csv --output-summary canaries/canaries.json \\
        --output-page canaries/canaries.html --work-dir work/audit_canaries
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.log import say
from workflow_scripts.core.tables import Table, html_page, markdown
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.privacy import CanaryRecipe

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from diffusers import UNet2DModel

    from workflow_scripts.diffusion.process import GaussianProcess
    from workflow_scripts.privacy.snapshot_images import Measure


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "model planted views index holdout measures?")
    add_outputs(parser, "canaries summary page")
    add_parameters(parser, "select origin")
    add_settings(parser, CanaryRecipe)
    add_run(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Sample and look, snapshot by snapshot."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.files import read_csv, write_csv, write_json, write_text
    from workflow_scripts.core.store import ViewStore, check_rows
    from workflow_scripts.privacy.canaries import chances, draw_canaries, expected_return
    from workflow_scripts.privacy.selection import choose, read_measures
    from workflow_scripts.privacy.snapshot_images import measure_snapshots
    from workflow_scripts.runtime.run import Run
    from workflow_scripts.study.patients import real_masks

    run = Run(arguments)
    recipe: CanaryRecipe = settings(arguments)
    store = ViewStore.open(arguments.views, arguments.index)
    training, _ = real_masks(store.index, arguments.holdout, None, None)
    planted = read_csv(arguments.planted, "planted")
    canaries = draw_canaries(recipe.seed, len(planted), store.side)
    check_rows({str(arguments.planted): len(planted), "the codes of --seed": len(canaries.codes)})

    def looked_for() -> Measure:
        def measure(images: np.ndarray, _unet: UNet2DModel, _process: GaussianProcess) -> list[dict[str, Any]]:
            scores, shares = chances(images, canaries, recipe.seed)
            return [
                {"canary": number, "score": float(score), "chance": float(chance)}
                for number, (score, chance) in enumerate(zip(scores, shares, strict=True))
            ]

        return measure

    rows = pd.DataFrame(measure_snapshots(arguments.model, run, recipe, looked_for))
    rows["exposure"] = -np.log2(rows["chance"])
    rows["returned"] = (rows["chance"] <= recipe.false_alarms).astype(int)
    columns = ["step", *planted.columns.drop(["row", "column"]), "score", "chance", "exposure", "returned"]
    table = rows.merge(planted, on="canary", validate="many_to_one")[columns]
    summary = {
        "origin": arguments.origin,
        "training_views": int(training.sum()),
        "images": recipe.images,
        "false_alarms": recipe.false_alarms,
        "expected_of_a_copier": expected_return(int(training.sum()), recipe.images),
        **summarise(table),
        "chosen": None,
    }
    if arguments.measures is not None:
        summary["chosen"] = dict(
            zip(("step", "reason"), choose(read_measures(arguments.measures), arguments.select), strict=True)
        )
    page = layout(summary)
    say(markdown(page))
    write_csv(table, arguments.output_canaries)
    write_json(summary, arguments.output_summary)
    write_text(html_page(page), arguments.output_page)
    run.work.close()


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Counts per snapshot of the codes of `table`, with 95 % intervals, and the first snapshot that surely returns one.

    Surely: a planted code scores above every reference and above every code that was kept out at its own place.
    """
    from workflow_scripts.privacy.canaries import REFERENCES, exact_interval

    snapshots: list[dict[str, Any]] = []
    for step in sorted(int(number) for number in set(table["step"])):
        rows = table[table["step"] == step]
        snapshot: dict[str, Any] = {"step": step}
        for name, group in (("planted", rows[rows["planted"] == 1]), ("kept_out", rows[rows["planted"] == 0])):
            found, count = int(group["returned"].sum()), len(group)
            low, high = exact_interval(found, count)
            snapshot[name] = {
                "codes": count, "returned": found, "share": found / count, "low": low, "high": high,
                "mean_exposure": float(group["exposure"].mean()), "largest_exposure": float(group["exposure"].max()),
            }  # fmt: skip
        planted, kept_out = (rows[rows["planted"] == flag] for flag in (1, 0))
        surely = (planted["chance"] <= 1 / (REFERENCES + 1)) & (planted["score"] > kept_out["score"].max())
        snapshot["surely_returned"] = int(surely.sum())
        snapshots.append(snapshot)
    first = next((snapshot["step"] for snapshot in snapshots if snapshot["surely_returned"]), None)
    return {"snapshots": snapshots, "first_return": first, "references": REFERENCES}


def layout(summary: Mapping[str, Any]) -> Table:
    """The table of the snapshots, and what it means as notes."""
    snapshots: Sequence[Mapping[str, Any]] = summary["snapshots"]
    last = snapshots[-1]["planted"]

    def cells(snapshot: Mapping[str, Any]) -> tuple[str, ...]:
        planted, kept_out = snapshot["planted"], snapshot["kept_out"]
        return (
            str(snapshot["step"]),
            f"{planted['returned']} of {planted['codes']}",
            f"{planted['share']:.0%} ({planted['low']:.0%} to {planted['high']:.0%})",
            f"{kept_out['returned']} of {kept_out['codes']}",
            str(snapshot["surely_returned"]),
            f"{planted['mean_exposure']:.1f}",
            f"{planted['largest_exposure']:.1f}",
        )

    first = summary["first_return"]
    notes = [
        f"One view each of {last['codes']} training patients carried a secret code in a training run of its own; as many codes"
        f" were kept out. {summary['images']} images were drawn from each snapshot. A code counts as returned if at most"
        f" {summary['false_alarms']:.0%} of {summary['references'] + 1} codes score as high at its place by chance; surely"
        " returned, if no other code does.",
        f"A generator that draws its {summary['training_views']} training views and nothing else would return"
        f" {summary['expected_of_a_copier']:.0%} of the codes in so many images.",
        "Exposure, in bits: by how much the images narrow down which code a patient carried; 1.4 on average for codes that"
        " were not planted.",
        f"The first code surely returns at step {first}."
        if first is not None
        else "No snapshot surely returns a code.",
        *chosen_note(summary),
        "A code is no tissue: that none returns does not show that no view of a patient does, nor that the weights keep no"
        " trace of one.",
    ]
    return Table(
        label="canaries",
        title="Canaries: marked training views that the generator returns",
        header=(
            "step",
            "returned",
            "share (95 % interval)",
            "kept out, returned",
            "surely",
            "mean bits",
            "largest bits",
        ),
        rows=tuple(cells(snapshot) for snapshot in snapshots),
        text_columns=0,
        notes=tuple(notes),
        origin=summary["origin"],
    )


def chosen_note(summary: Mapping[str, Any]) -> list[str]:
    """Whether the rule that chooses checkpoints stops before the first return."""
    chosen, first = summary["chosen"], summary["first_return"]
    if chosen is None:
        return []
    before = first is None or chosen["step"] < first
    verdict = "before the first return" if before else "not before the first return"
    return [f"In this run the study's rule chooses step {chosen['step']}, {verdict}: {chosen['reason']}."]


if __name__ == "__main__":
    run(main, parser())
