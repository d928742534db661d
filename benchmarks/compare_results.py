"""Do two results folders hold the same study? Tables, predictions, labels, metrics and the contents of releases, byte by byte.

For changes of the code that must not change a result:

    make demo && mv results/demo /tmp/before      # on the old commit
    make demo                                     # on the new one
    python -m benchmarks.compare_results /tmp/before results/demo --renamed finetuning/testicles.csv=finetuning/organ_sides.csv

Ends with status 1 where a file differs or is missing on either side.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

# What a study says in numbers and words. Logs, times, figures (a picture may be drawn better) and weights (their metadata
# name the code) are not compared; predictions and features tell whether weights are the same.
COMPARED = ("**/*.csv", "tables/*.md", "tables/*.tex", "tables/*.html", "**/*.npy", "synthesis/**/privacy.json")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by path: the compared files of a results folder, and every member of its released archives."""
    found = {}
    for pattern in COMPARED:
        for file in folder.glob(pattern):
            if "work" not in file.relative_to(folder).parts and "logs" not in file.relative_to(folder).parts:
                found[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    for archive in (folder / "release").rglob("*.zip"):
        with zipfile.ZipFile(archive) as members:
            for name in members.namelist():
                path = f"{archive.relative_to(folder)}/{name}"
                found[path] = hashlib.sha256(members.read(name)).hexdigest()
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    """A line per file that is not the same on both sides."""
    for path in sorted({*before, *after}):
        if path not in after:
            yield f"missing now: {path}"
        elif path not in before:
            yield f"new: {path}"
        elif before[path] != after[path]:
            yield f"differs: {path}"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--renamed", nargs="*", default=[], metavar="OLD=NEW", help="files that have another name now")
    arguments = parser.parse_args(argv)
    names = dict(pair.split("=", 1) for pair in arguments.renamed)
    before = {names.get(path, path): digest for path, digest in digests(arguments.before).items()}
    after = digests(arguments.after)
    lines = list(differences(before, after))
    same = sum(before[path] == after.get(path) for path in before)
    print(f"{same} files are the same byte for byte, {len(lines)} are not")
    for line in lines:
        print(f"  {line}")
    return int(bool(lines))


if __name__ == "__main__":
    raise SystemExit(main())
