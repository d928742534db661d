"""Tables that name the file in which a column is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from workflow_scripts.core.errors import Lacking


class Frame(pd.DataFrame):
    """A table of the file `source`; so are its parts."""

    _metadata = ["source"]

    source: str | Path | None

    @classmethod
    def of(cls, table: pd.DataFrame, source: str | Path) -> Frame:
        """A table as one of the file `source`."""
        frame = cls(table)
        object.__setattr__(frame, "source", source)
        return frame

    @property
    def _constructor(self) -> type[Frame]:
        return Frame

    def __getitem__(self, key: Any) -> Any:
        """As of a pandas table; `Lacking`, which is a `UserError`, names a missing column and the file."""
        try:
            return super().__getitem__(key)
        except KeyError:
            wanted = key if isinstance(key, list) else [key]
            missing = [name for name in wanted if isinstance(name, str) and name not in self.columns]
            if not missing or getattr(self, "source", None) is None:
                raise
        raise Lacking(f"{self.source} has no column {missing[0]!r}; make it again")
