"""Command lines of the stages.

A stage's numeric settings are described once, by a model in workflow_scripts/study/config; `add_settings` turns such a
model into flags (nested keys become dotted: `--augmentation.flip 0.5`) and `flags` turns a config section into the same
flags, so that config, command line and `--help` cannot drift apart.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar, get_args, get_origin

from workflow_scripts.errors import UserError
from workflow_scripts.study.costs import recorded_cost
from workflow_scripts.study.gpus import claim_gpus

if TYPE_CHECKING:
    from workflow_scripts.study.config.base import Settings

T = TypeVar("T")
FEWER_COLLECTIONS = 20_000  # objects made between two; Python's own is 700


def stage_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows the stage's docstring and the defaults; every stage takes `--log FILE`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--log", type=Path, help="also write messages to this file")
    return parser


def add_settings(parser: argparse.ArgumentParser, model: type[Settings]) -> None:
    """Add one flag per key of a model whose keys all have defaults, for example `FinetuningRecipe`."""
    group = parser.add_argument_group("settings")
    parser.set_defaults(settings_model=model)
    for key, kind, default, description in _leaves(model()):
        text = f"{description} (default: {default})".replace("%", "%%")
        common: dict[str, Any] = {"default": default, "help": text, "dest": f"settings.{key}"}
        flag = "--" + key.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif get_origin(kind) is list:
            group.add_argument(flag, nargs="*", type=int, **common)
        elif get_origin(kind) is Literal:
            group.add_argument(flag, choices=get_args(kind), **common)
        else:
            group.add_argument(flag, type=kind if kind in (int, float, str) else _number_or_word, **common)


def settings(arguments: argparse.Namespace) -> Any:
    """The settings that `add_settings` parsed, as an instance of its model; `UserError` names every one that is wrong."""
    from pydantic import ValidationError

    from workflow_scripts.study.config.errors import problems_of

    nested: dict[str, Any] = {}
    for name, value in vars(arguments).items():
        if name.startswith("settings."):
            *parents, key = name.removeprefix("settings.").split(".")
            level = nested
            for parent in parents:
                level = level.setdefault(parent, {})
            level[key] = value
    model = arguments.settings_model
    try:
        return model.model_validate(nested)
    except ValidationError as error:
        wrong = problems_of(error, model)
        raise UserError(
            "; ".join(f"--{'.'.join(map(str, path)).replace('_', '-')}: {text}" for path, text in wrong)
        ) from None


def flags(values: Mapping[str, Any], prefix: str = "") -> str:
    """Shell-quoted flags for a config section, the inverse of `add_settings` and `settings`."""
    words: list[str] = []
    for key, value in values.items():
        name = prefix + key.replace("_", "-")
        if isinstance(value, Mapping):
            words.append(flags(value, f"{name}."))
        elif isinstance(value, bool):
            words.append(f"--{name}" if value else "--" + _negated(name))
        elif isinstance(value, (list, tuple)):
            words.append(" ".join([f"--{name}", *(shlex.quote(str(item)) for item in value)]))
        else:
            words.append(f"--{name} {shlex.quote(str(value))}")
    return " ".join(words)


def _number_or_word(text: str) -> int | str:
    """An integer, or a word such as `auto` that the model allows beside it."""
    return int(text) if text.lstrip("-").isdigit() else text


def _negated(name: str) -> str:
    return f"no-{name}"


def _leaves(section: Settings, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Dotted key, type, default and description of every setting of a section that holds the defaults."""
    from workflow_scripts.study.config.errors import bare, is_settings

    for key, field in type(section).model_fields.items():
        default, kind = getattr(section, key), bare(field.annotation)
        if is_settings(kind):
            yield from _leaves(default, f"{prefix}{key}.")
        else:
            yield prefix + key, kind, default, field.description or ""


def add_patient_key(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the stages that read ids from the manifest."""
    parser.add_argument(
        "--patient-key", type=Path, help="file with the secret key of the hashes that replace patient and image ids"
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add what every training takes: device, threads, work directory, time limit and code version."""
    group = parser.add_argument_group("how it runs (never changes what is computed, but for the device's rounding)")
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto, a GPU if there is one)"
    )
    group.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    group.add_argument(
        "--work-dir", type=Path, required=True, help="folder for checkpoints; a matching one is continued"
    )
    group.add_argument(
        "--time-limit",
        type=float,
        help="minutes of this job; the training checkpoints and ends itself before (default and 0: no limit)",
    )
    group.add_argument("--code-version", default="", help="fingerprint of the code; another one starts afresh")


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None, initial: int = 0) -> Iterator[T]:
    """Iterate with a progress bar on stderr: lively on a terminal, a line every 15 s in a log."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    yield from tqdm(
        items, desc=label, unit=unit, total=total, initial=initial, mininterval=0.5 if terminal else 15.0,
        dynamic_ncols=terminal, ascii=not terminal, disable=not _is_first_process(),
    )  # fmt: skip


def say(text: str) -> None:
    """Print a message to stderr, and so to the log; of several processes of one training the first speaks."""
    if _is_first_process():
        print(text, file=sys.stderr, flush=True)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


class _Tee:
    """A text stream that writes to two, and is a terminal where the first is."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self.first, self.second = first, second

    def write(self, text: str) -> int:
        self.second.write(text)
        return self.first.write(text)

    def flush(self) -> None:
        self.first.flush()
        self.second.flush()

    def isatty(self) -> bool:
        return self.first.isatty()

    def fileno(self) -> int:
        return self.first.fileno()


@contextmanager
def _logging_to(path: Path | None) -> Iterator[None]:
    if path is None or not _is_first_process():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    before = sys.stderr
    with path.open("w", encoding="utf-8") as file:
        sys.stderr = _Tee(before, file)
        try:
            yield
        finally:
            sys.stderr.flush()
            sys.stderr = before


def run(
    stage: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> None:
    """Parse, run the stage, and turn a `UserError` into one clear message and exit status 1."""
    arguments = parser.parse_args(argv)
    # Importing torch makes a million objects that stay; looking for garbage among them takes a fifth of it.
    gc.set_threshold(FEWER_COLLECTIONS)
    # Threads must be set before NumPy or torch load their BLAS; -1 and unset mean "as given".
    threads = getattr(arguments, "threads", None)
    if threads:
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(threads)
    on_gpus = getattr(arguments, "device", "") == "auto"
    if on_gpus:
        claim_gpus(getattr(arguments, "processes", 0) or 1)
    with recorded_cost(arguments.log, on_gpus) as cost, _logging_to(arguments.log):
        try:
            stage(arguments)
            cost["finished"] = True
        except UserError as error:
            say(f"error: {error}")
            sys.exit(1)
    if argv is None:
        _leave()


def _leave() -> None:
    """End a process that has imported torch without taking its modules apart, which takes a second and serves nobody.

    What registered for the end is called. Of several processes of one training each ends in the ordinary way.
    """
    if "torch" in sys.modules and "RANK" not in os.environ:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
