"""Label sets by name: what an audit or a clinician makes of the original labels.

`complete`: the original labels. `filtered`, `flipped`: suspicious views are left out or swapped (paper, Sec. 3).
`reviewed`: a clinician decides. An ending `_x4` asks for four exceedances instead of the config's number. Two further
endings tell apart what a cleaned set is compared with:

`_nested`: for each fold, only the audit's runs that never saw it vote, training labels alone change, and the test fold
keeps its original labels. `_random`: as many labels of each class as the audit would change, drawn at random.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# study/config/base.py holds the same pattern for what a table row may name.
PATTERN = re.compile(r"(complete|reviewed|filtered|flipped)(?:_x([1-9][0-9]{0,8}))?(?:_(nested|random))?")

# Methods of audit.vote that judge a view by models of other folds; nested labels, which leave one of them out, cannot.
OUT_OF_FOLD = ("oof_loss", "confident_learning")


@dataclass(frozen=True)
class LabelSet:
    """What the name of a label set says."""

    name: str
    policy: str
    """complete, filtered, flipped or reviewed."""
    exceedances: int | None
    """Exceedances that make a run flag a view; None leaves it to audit.vote."""
    protocol: str
    """paper, nested or random."""

    @property
    def per_seed(self) -> bool:
        """Whether each seed has a file of its own."""
        return self.protocol != "paper"

    @property
    def votes(self) -> str:
        """The votes that it is made from, as the ending of their file."""
        return "" if self.exceedances is None else f"_x{self.exceedances}"


def label_set(name: str) -> LabelSet:
    """The label set of that name; the config's models have checked it."""
    match = PATTERN.fullmatch(name)
    if match is None:
        raise ValueError(f"no label set {name!r}")
    policy, exceedances, protocol = match.groups()
    return LabelSet(name, policy, int(exceedances) if exceedances else None, protocol or "paper")
