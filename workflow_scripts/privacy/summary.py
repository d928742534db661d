"""What the release needs of the copy audit's summary: checked before anything is read or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat

from workflow_scripts.core.errors import UserError
from workflow_scripts.study.config.errors import read_model


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Interval(_Strict):
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class _Membership(_Strict):
    filtered: _Interval


class _Generator(_Strict):
    auc: _Interval


class Summary(_Strict):
    """The keys of privacy.json that the card shows; without held-out patients, the verdict in words alone."""

    possible: bool
    may_say: str
    may_not_say: str
    caveats: str
    membership_auc: _Membership | None = None
    generator: dict[str, _Generator] | None = None


def read_summary(path: Path) -> dict[str, Any]:
    """The summary as plain values; `UserError` where it is damaged."""
    summary = read_model(path, Summary, "is no summary of a copy audit", "run the audit again")
    if summary.possible and None in (summary.membership_auc, summary.generator):
        raise UserError(f"{path} lacks membership_auc or generator, which every audit measures; run the audit again")
    return summary.model_dump()
