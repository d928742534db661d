"""Make the page on which a clinician reads generated views blind among real ones: real or generated, fit to be shared?

The generated views are drawn from those that would be released, the real ones from as many patients; none has text in
it, as far as OCR found any, and none a black box in its place. One HTML file without names or sources, which needs no
network, and gives readings.csv for release.readings. What each view is stays in the key, which is not for the reader.

    python -m workflow_scripts.privacy.make_reading_page --synthetic-views views/synthetic.npy \\
        --filter synthesis/filter.csv --privacy synthesis/privacy.csv --text checks/text_synthetic.csv \\
        --real-views views/labelled.npy --real-index views/labelled.csv --real-text checks/text_labelled.csv \\
        --output-page reading.html --output-key synthesis/reading_key.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows, write_text
from workflow_scripts.core.log import say
from workflow_scripts.core.pages import png
from workflow_scripts.core.store import ViewStore, check_rows, open_pixels
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "synthetic_views filter privacy text real_views real_index real_text")
    add_outputs(parser, "page key")
    add_parameters(parser, "reading_views seed origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw the views, write page and key."""
    from workflow_scripts.audit.review import review_html
    from workflow_scripts.privacy.readings import (
        GENERATED,
        KEY_COLUMNS,
        REAL,
        blind_order,
        draw_views,
        fingerprint,
        releasable,
        without_text,
    )

    synthetic, real = open_pixels(arguments.synthetic_views), ViewStore.open(arguments.real_views, arguments.real_index)
    filtered, audited = read_rows(arguments.filter, "filter"), read_rows(arguments.privacy, "privacy")
    check_rows({
        str(arguments.synthetic_views): len(synthetic), str(arguments.filter): len(filtered),
        str(arguments.privacy): len(audited),
    })  # fmt: skip
    candidates = without_text(releasable(filtered, audited), arguments.text)
    if not candidates:
        raise UserError(
            f"no view is left to read: of {len(synthetic)} synthetic views the filter ({arguments.filter}), the copy audit"
            f" ({arguments.privacy}) or OCR ({arguments.text}) takes out every one. Generate more views or train the generator"
            " for fewer steps"
        )
    has_text = real.index["view_id"].isin([row["view_id"] for row in read_rows(arguments.real_text)])
    if has_text.all():
        raise UserError(
            f"no real view is left to read: OCR found text in every one ({arguments.real_text}). Give the views' device a"
            " crop profile that leaves the text out"
        )
    real = real.select(~has_text.to_numpy())
    patients = real.index["patient_id"].to_numpy()
    numbers, rows = draw_views(candidates, patients, arguments.reading_views, arguments.seed)
    drawn = [(GENERATED, number, synthetic[number]) for number in numbers]
    drawn += [(REAL, real.index["view_id"].iloc[row], real.pixels[row]) for row in rows]
    shown = [drawn[i] for i in blind_order([pixels for _, _, pixels in drawn], arguments.seed)]
    page = fingerprint(pixels for _, _, pixels in shown)
    study = {
        "fingerprint": page,
        "mode": "reading",
        "classes": [],
        "origin": arguments.origin,
        "cards": [{"id": str(i), "image": i, "plane": "", "others": []} for i in range(1, len(shown) + 1)],
        "images": {str(i): png(pixels) for i, (_, _, pixels) in enumerate(shown, start=1)},
    }
    write_text(review_html(study), arguments.output_page)
    key = [
        {"page": page, "view": i, "source": source, "name": name} for i, (source, name, _) in enumerate(shown, start=1)
    ]
    write_rows(key, KEY_COLUMNS, arguments.output_key)
    say(f"{len(numbers)} of {len(candidates)} generated views to read, among as many real ones")


if __name__ == "__main__":
    run(main, parser())
