"""Keyed hashes in place of the manifest's ids."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from workflow_scripts.core.errors import UserError

# A shorter key could be found by trying.
SHORTEST_KEY = 16
DIGITS = 16
OTHERS = 0o007
# The columns that hold ids, and what each is hashed as.
ID_COLUMNS = {"patient_id": "patient", "image_id": "image"}


def read_key(path: Path) -> bytes:
    """The secret key: the bytes of a file, without surrounding white space; others lose the right to read the file.

    Raises `UserError` where the file is missing, the key too short to keep anything secret, or others can read it.
    """
    way = f"make one with: python -c 'import secrets; print(secrets.token_hex(32))' > {path}"
    if not path.is_file():
        raise UserError(f"the key file {path} (data.patient_key) does not exist; {way}")
    mode = path.stat().st_mode
    if mode & OTHERS:
        try:
            path.chmod(mode & ~OTHERS)
        except OSError:
            raise UserError(
                f"the key file {path} can be read by everybody on this machine; chmod o-rwx {path}"
            ) from None
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"the key file {path} (data.patient_key) cannot be read: {error.strerror}") from None
    if len(key) < SHORTEST_KEY:
        raise UserError(f"the key in {path} has {len(key)} bytes; it needs at least {SHORTEST_KEY}: {way}")
    return key


def pseudonym(kind: str, own_id: str, key: bytes) -> str:
    """The first 16 hexadecimal digits of HMAC-SHA-256 of an id and its kind (`patient`, `image`); "" stays "".

    An id gets the same pseudonym in every set; a patient and an image of the same id get different ones. Without the
    key, guessed ids cannot be compared with pseudonyms.
    """
    # No id holds a NUL, so no two pairs of kind and id make the same text.
    return hmac.new(key, f"{kind}\0{own_id}".encode(), hashlib.sha256).hexdigest()[:DIGITS] if own_id else ""


def hide_ids(row: Mapping[str, str], key: bytes) -> dict[str, str]:
    """A row of a manifest with pseudonyms for its patient and image id, and its other cells as they are."""
    return {
        column: pseudonym(ID_COLUMNS[column], cell, key) if column in ID_COLUMNS else cell
        for column, cell in row.items()
    }
