"""Tables that name the file in which a column is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from workflow_scripts.core.errors import Lacking


class Frame(pd.DataFrame):
    """A table of the file `source`; so are its parts. A missing column is a `Lacking`, which is a `UserError`."""

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


def _telling(name: str) -> Callable[..., Any]:
    """The method `name` of a pandas table, whose arguments name columns; a missing one is told with its file."""
    method = getattr(pd.DataFrame, name)

    def call(frame: Frame, *arguments: Any, **options: Any) -> Any:
        try:
            return method(frame, *arguments, **options)
        except KeyError:
            for wanted in (*arguments, *options.values()):
                for column in wanted if isinstance(wanted, list) else [wanted]:
                    if isinstance(column, str) and column not in frame.columns and getattr(frame, "source", None):
                        raise Lacking(f"{frame.source} has no column {column!r}; make it again") from None
            raise

    return call


for _name in ("__getitem__", "drop_duplicates", "groupby", "set_index", "sort_values"):
    setattr(Frame, _name, _telling(_name))
