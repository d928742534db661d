"""What the sections of the config share: their base class, checks between keys, and types that several use."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from workflow_scripts.core.text import line_problem, name_problem
from workflow_scripts.study.config.names import SCHEMES

KeyPath = tuple[str | int, ...]
# The path of a key below its section, and what is wrong there.
Problem = tuple[KeyPath, str]
Check = Callable[[Any], Iterator[Problem]]

T = TypeVar("T")
LIMIT = 2**63


class Settings(BaseModel):
    """A section of the config, or the settings of a stage: immutable, no unknown keys, no conversion between types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def problems(self) -> Iterator[Problem]:
        """What the methods marked `cross_check` find; a value that is `INVALID` ends the check that needs it."""
        for cls in type(self).__mro__:
            for check in vars(cls).values():
                if isinstance(check, FunctionType) and hasattr(check, "is_cross_check"):
                    yield from as_far_as_valid(check(self))

    @model_validator(mode="after")
    def _refuse_problems(self) -> Self:
        errors = [
            InitErrorDetails(type=PydanticCustomError("inconsistent", "{text}", {"text": text}), loc=path, input=None)
            for path, text in self.problems()
        ]
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self


def cross_check(method: Check) -> Check:
    """Mark a method of a section that yields the problems between its keys."""
    method.is_cross_check = True  # type: ignore[attr-defined]
    return method


class InvalidRead(Exception):
    """A check between keys has read a value that is itself wrong."""


class _Invalid:
    """Placeholder for a wrong value while other values are checked; any use of it raises `InvalidRead`."""

    def _refuse(self, *_: Any) -> Any:
        raise InvalidRead

    __getattr__ = __getitem__ = __iter__ = __len__ = __contains__ = __bool__ = __hash__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __floordiv__ = __rfloordiv__ = __pow__ = __rpow__ = (
        _refuse
    )
    __index__ = __int__ = __float__ = __rmod__ = __mod__ = __str__ = __repr__ = __format__ = _refuse


INVALID = _Invalid()


def as_far_as_valid(problems: Iterator[Problem]) -> Iterator[Problem]:
    """The problems up to the first that needs an `INVALID` value."""
    try:
        yield from problems
    except InvalidRead:
        return


def _distinct(values: list[T]) -> list[T]:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise PydanticCustomError("repeated", "{value} appears more than once", {"value": repr(repeated[0])[:60]})
    return values


# Numbers that every library and file format holds: below 2^63.
Whole = Annotated[int, Field(lt=LIMIT)]
Natural = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(ge=1)]
Number = Annotated[float, Field(lt=LIMIT)]
# What is in memory at a time, such as the images of a batch or the units of a layer: far beyond use, within any integer.
Size = Annotated[Whole, Field(le=65_536)]
Width = Annotated[Size, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]

REPOSITORY = Path(__file__).resolve().parents[3]
# Folders of the repository that hold its files.
SOURCES = (
    ".ci", ".git", ".venv", "benchmarks", "config", "docs", "envs", "profiles", "rules", "schemas", "slurm",
    "slurm-constraint", "studies", "tests", "workflow", "workflow_scripts",
)  # fmt: skip
LONGEST_FILE_NAME = 255  # bytes
LONGEST_TEXT = 500  # characters; a command line holds some hundred thousand


def _one_line(text: str) -> str:
    """Text as a command line, a table and a page can show it; `PydanticCustomError` says what is wrong with other text."""
    if problem := line_problem(text):
        raise PydanticCustomError("text", "{problem}", {"problem": problem})
    return text


def _name(text: str) -> str:
    """A line that figures show, too."""
    if problem := name_problem(text):
        raise PydanticCustomError("text", "{problem}", {"problem": problem})
    return text


def _path(text: str) -> str:
    """A path that Snakemake takes as it is, without wildcards and its own variables, and one that a file system can hold."""
    if strange := set(text) & set("{}<>"):
        problem = f"{min(strange)} in a path would be a wildcard or a variable of Snakemake; rename the file"
    elif text.startswith("~"):
        problem = "~ is not replaced by a home folder; write the whole path"
    elif any(len(os.fsencode(part)) > LONGEST_FILE_NAME for part in Path(text).parts):
        problem = f"a file system holds names of at most {LONGEST_FILE_NAME} bytes; shorten it"
    else:
        return text
    raise PydanticCustomError("text", "{problem}", {"problem": problem})


def _folder(text: str) -> str:
    """A folder that the workflow may fill: none that holds the working directory, and none of the workflow's own files."""
    here, folder = Path.cwd(), Path(text).resolve()
    inside = folder.relative_to(REPOSITORY).parts[:1] if folder.is_relative_to(REPOSITORY) else ()
    if not text or folder in (here.resolve(), *here.resolve().parents, REPOSITORY) or set(inside) & set(SOURCES):
        problem = "is not a folder for artefacts alone; name one below the working directory, such as results"
    elif file := next((path for path in (folder, *folder.parents) if os.path.isfile(path)), None):
        problem = f"is no folder, since {file} is a file; name one below the working directory, such as results"
    else:
        return text
    raise PydanticCustomError("text", "{problem}", {"problem": f"{text!r} {problem}"})


def _url(text: str) -> str:
    """The URL of a file that can be fetched, or ""."""
    problem = (
        f"is no URL of a file that can be fetched; these begin with {' or '.join(f'{name}://' for name in SCHEMES)}"
    )
    try:
        parts = urlsplit(text)
        known = parts.scheme == "file" or (parts.scheme in SCHEMES and parts.hostname and text.isascii())
        if known and "@" in parts.netloc:
            problem = "holds a user or a password, which logs and reports would show; fetch the file by hand instead"
        elif not text or (known and (parts.port is None or parts.port)):  # the port is checked when it is read
            return text
    except ValueError:
        pass
    raise PydanticCustomError("text", "{problem}", {"problem": problem})


Line = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_one_line)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_name)]
NonEmptyText = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT), AfterValidator(_name)]
FilePath = Annotated[Line, AfterValidator(_path)]
Folder = Annotated[FilePath, AfterValidator(_folder)]
Url = Annotated[Line, AfterValidator(_url)]
Network = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$", max_length=100)]


def _mean_and_deviation(values: list[float]) -> list[float]:
    if len(values) not in (2, 6) or min(values[len(values) // 2 :]) <= 0:
        problem = "is no mean and deviation: two numbers, or three means and three deviations, deviations above 0"
        raise PydanticCustomError("text", "{problem}", {"problem": problem})
    return values


Normalisation = Annotated[list[Number], AfterValidator(_mean_and_deviation)]
# Names become parts of file names.
Name = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]*$", max_length=60)]
NameOrNone = Annotated[str, Field(pattern="^([A-Za-z][A-Za-z0-9_]*)?$", max_length=60)]
Sha256 = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
# complete, reviewed, filtered or flipped. The latter two with the endings _x4 (four exceedances instead of
# audit.vote.exceedances), _nested (audited without the test fold, whose labels stay) and _random (a control: as many
# labels changed at random). study/label_sets.py reads these names.
Labels = Annotated[str, Field(pattern="^(complete|reviewed|(filtered|flipped)(_x[1-9][0-9]{0,8})?(_nested|_random)?)$")]

Distinct = Annotated[list[T], AfterValidator(_distinct), Field(json_schema_extra={"uniqueItems": True})]
