"""Download a file of weights once and verify its checksum.

The checksum is compared with --sha256 or, without it, with the one recorded beside the file at the first fetch
(FILE.sha256), and with the eight digits that torchvision puts into its file names. A file that is there and passes is
left as it is, so weights that were supplied manually need no network.

    python -m workflow_scripts.data.fetch_weights --url https://download.pytorch.org/models/resnet18-f37072fd.pth \\
        --output-weights weights/resnet18-f37072fd.pth
"""

from __future__ import annotations

import argparse
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import (
    atomic_path,
    recorded_sha256,
    refuse_torchscript,
    sha256,
    sha256_record,
    write_text,
)
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.config.names import SCHEMES

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_outputs(parser, "weights")
    add_parameters(parser, "url sha256")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Fetch the file if it is absent, check it either way, record the checksum."""
    output: Path = arguments.output_weights
    configured = arguments.sha256.lower()
    if configured and not re.fullmatch("[0-9a-f]{64}", configured):
        raise UserError(f"--sha256 {arguments.sha256!r} is not a SHA-256 (64 hexadecimal digits)")
    recorded = recorded_sha256(output)
    expected = configured or recorded
    if output.is_file():
        digest = check(output, output, expected)
        say(f"{output} is there already")
    else:
        digest = fetch(arguments.url, output, expected)
    if digest != recorded:
        write_text(f"{digest}  {output.name}\n", sha256_record(output))
    if not expected:
        say(
            f"WARNING: the config gives no SHA-256 for {output}. The file is trusted as it is; its checksum\n"
            f"WARNING:   {digest}\n"
            f"WARNING: is recorded in {sha256_record(output)}. Compare it with a trusted source; put it in the config."
        )


def fetch(url: str, output: Path, expected: str) -> str:
    """Download to a temporary file with a progress bar, check, move into place; return the SHA-256.

    Raises `UserError` if anything fails; then there is no file at `output`.
    """
    from tqdm import tqdm

    by_hand = f"Supply {output} manually" + (f" (it is at {url})" if url else "")
    if not url:
        raise UserError(f"{output} is not there and the config gives no url to fetch it from. {by_hand}")
    if _scheme(url) not in SCHEMES:
        raise UserError(f"{url}: only https and file URLs are fetched. {by_hand}")
    say(f"fetching {url}")
    with atomic_path(output) as temporary:
        received, size = 0, None
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as source,
                temporary.open("wb") as target,
            ):
                if _scheme(source.url) not in SCHEMES:
                    raise UserError(f"{url} leads to {source.url}, which is not encrypted. {by_hand}")
                length = source.headers.get("Content-Length") or ""
                size = int(length) if length.isdecimal() else None
                with tqdm(desc=output.name, total=size, unit="B", unit_scale=True, mininterval=1) as bar:
                    while chunk := source.read(CHUNK):
                        target.write(chunk)
                        received += len(chunk)
                        bar.update(len(chunk))
        except (HTTPException, OSError, ValueError) as error:  # ValueError: a URL that cannot be written into a request
            reason = getattr(error, "reason", None) or error
            raise UserError(f"{url} cannot be fetched ({reason}). {by_hand}") from error
        if size is not None and received < size:
            raise UserError(f"{url} ended after {received} of {size} bytes; try again. {by_hand}")
        return check(temporary, output, expected)


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def check(file: Path, output: Path, expected: str) -> str:
    """The SHA-256 of `file`, which is `output` or will take its place.

    Raises `UserError` where it differs from the expected one (if there is one) or from the digits in the file's name (if
    it has any), and where the file is TorchScript or, as a page of a server is, no weights at all.
    """
    digest = sha256(file)
    verdict = "it is another file, or damaged, and is not used"
    if expected and digest != expected:
        raise UserError(f"{output} has the SHA-256 {digest} instead of {expected}: {verdict}")
    # torchvision's convention: resnet18-f37072fd.pth
    named = re.search(r"-([0-9a-f]{8})\.", output.name)
    if named and not digest.startswith(named[1]):
        raise UserError(
            f"{output} has the SHA-256 {digest}, not one beginning with {named[1]} as its name says: {verdict}"
        )
    refuse_torchscript(file, output)
    with file.open("rb") as stream:
        start = stream.read(9)
    if not (start.startswith((b"PK", b"\x80")) or start[8:] == b"{"):
        raise UserError(
            f"{output} is no file of weights (torch.save, pickle or safetensors): it begins with {start!r}, perhaps the page of "
            "a server that asks for a login, and is not used"
        )
    return digest


if __name__ == "__main__":
    run(main, parser())
