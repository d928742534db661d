"""Keyed hashes in place of patient ids."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from workflow_scripts.errors import UserError

# A shorter key could be found by trying.
SHORTEST_KEY = 16
DIGITS = 16


def read_key(path: Path) -> bytes:
    """The secret key: the bytes of a file, without surrounding white space.

    Raises `UserError` where the file is missing or the key too short to keep anything secret.
    """
    way = f"make one with: python -c 'import secrets; print(secrets.token_hex(32))' > {path}"
    if not path.is_file():
        raise UserError(f"the key file {path} (data.patient_key) does not exist; {way}")
    key = path.read_bytes().strip()
    if len(key) < SHORTEST_KEY:
        raise UserError(f"the key in {path} has {len(key)} bytes; it needs at least {SHORTEST_KEY}: {way}")
    return key


def pseudonym(patient_id: str, key: bytes) -> str:
    """The first 16 hexadecimal digits of HMAC-SHA-256 of a patient id; an empty id stays empty.

    The same patient gets the same pseudonym in every set, and without the key none can be traced or tried out.
    """
    return hmac.new(key, patient_id.encode(), hashlib.sha256).hexdigest()[:DIGITS] if patient_id else ""
