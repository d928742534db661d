"""Command lines of the stages.

A stage's settings are described once, by a model in workflow_scripts/study/config; `add_settings` turns such a model into
flags (nested keys become dotted: `--augmentation.flip=0.5`) and `arguments.flags` turns a config section into the same
flags, so that config, command line and `--help` cannot drift apart. Files and parameters: runtime/arguments.py.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import logging_to, say
from workflow_scripts.runtime.costs import recorded_cost
from workflow_scripts.runtime.gpus import claim_gpus

if TYPE_CHECKING:
    from workflow_scripts.study.config.base import Settings

# What is wrong with a disk or its rights rather than with the program.
SURROUNDINGS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG,
}  # fmt: skip
# For GNU's OpenMP, which PyTorch's wheels hold, and for Intel's and LLVM's.
IDLE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
# The environment's name for --compile, for every job of a workflow.
COMPILE = "TUSFLOW_COMPILE"
FEWER_COLLECTIONS = 20_000  # objects made between two; Python's own is 700


def stage_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows the stage's docstring and the defaults, with the flags that every stage takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--log", type=Path, help="also write messages to this file")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--code-version", default="", help="fingerprint of the code that computes the result, for the record"
    )
    return parser


def add_settings(parser: argparse.ArgumentParser, model: type[Settings]) -> None:
    """Add one flag per key of a model whose keys all have defaults, for example `FinetuningRecipe`."""
    from workflow_scripts.study.config.errors import bare

    group = parser.add_argument_group("settings")
    parser.set_defaults(settings_model=model)
    for key, kind, default, description in _leaves(model()):
        text = f"{description} (default: {default})".replace("%", "%%")
        common: dict[str, Any] = {"default": default, "help": text, "dest": f"settings.{key}"}
        flag = "--" + key.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif get_origin(kind) is list:
            group.add_argument(flag, nargs="*", type=bare(get_args(kind)[0]), **common)
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


def _number_or_word(text: str) -> int | str:
    """An integer, or a word such as `auto` that the model allows beside it."""
    return int(text) if text.lstrip("-").isdigit() else text


def _leaves(section: Settings, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Dotted key, type, default and description of every setting of a section that holds the defaults."""
    from workflow_scripts.study.config.errors import bare, is_settings

    for key, field in type(section).model_fields.items():
        default, kind = getattr(section, key), bare(field.annotation)
        if is_settings(kind):
            yield from _leaves(default, f"{prefix}{key}.")
        else:
            yield prefix + key, kind, default, field.description or ""


def add_device(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add --device, for stages that use a network."""
    parser.add_argument(
        "--device", default=default, help=f"auto (a GPU if there is one), cpu, cuda or cuda:1 (default: {default})"
    )


def add_run(parser: argparse.ArgumentParser, shared: bool = False) -> None:
    """Add what every resumable run takes; with `shared`, also processes that share each batch, and TensorBoard's folder."""
    group = parser.add_argument_group("how it runs (never changes what is computed, but for the device's rounding)")
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto, a GPU if there is one)"
    )
    group.add_argument(
        "--work-dir", type=Path, required=True, help="folder for checkpoints; a matching one is continued"
    )
    group.add_argument(
        "--time-limit",
        type=float,
        help="minutes of this job; the stage checkpoints and ends itself before (default and 0: no limit)",
    )
    group.add_argument(
        "--compile",
        default=os.environ.get(COMPILE, "auto"),
        help=f"auto (networks are compiled on a GPU where the run is long enough to repay it), on or off (default: {COMPILE} "
        "of the environment, else auto)",
    )
    if shared:
        group.add_argument(
            "--processes", type=int, default=1, help="processes that share each batch, one per GPU (default: 1)"
        )
        group.add_argument("--tensorboard", type=Path, help="folder of TensorBoard's files (default: none)")


def run(
    stage: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> None:
    """Parse, run the stage, and turn what a user can mend, and Ctrl-C, into one clear message and exit status 1 (130)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # by workflow_scripts/__init__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = parser.parse_args(argv)
    # Importing torch makes a million objects that stay; looking for garbage among them takes a fifth of it.
    gc.set_threshold(FEWER_COLLECTIONS)
    # Threads must be set before NumPy or torch load their BLAS; -1 and unset mean "as given".
    threads = getattr(arguments, "threads", None)
    if threads:
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(threads)
    # Idle OpenMP threads sleep instead of spinning, which takes the cores from other jobs: docs/how-to/environments.md.
    for variable, value in IDLE_THREADS.items():
        os.environ.setdefault(variable, value)
    on_gpus = getattr(arguments, "device", "") == "auto"
    if on_gpus:
        claim_gpus(getattr(arguments, "processes", 0) or 1)
    # The outer one is for the log itself.
    with _in_words(), recorded_cost(arguments.log, on_gpus) as cost, logging_to(arguments.log), _in_words():
        stage(arguments)
        cost["finished"] = True
    if argv is None:
        _leave()


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        say(f"error: {error}")
        sys.exit(1)
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        say(
            f"error: {error.filename or 'a file'} cannot be read or written: {error.strerror}; make room or correct the rights"
        )
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        # torch has an exception of its own for a GPU alone.
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        say(
            f"error: the memory does not suffice ({reason}); compute fewer images at a time (batch_size, chunk, accumulate), or "
            "take a larger machine"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; the same command again continues what can be continued")
        sys.exit(130)


def _leave() -> None:
    """End a process that has imported torch without taking its modules apart, which takes a second and serves nobody.

    What registered for the end is called. Of several processes of one training each ends in the ordinary way.
    """
    if "torch" in sys.modules and "RANK" not in os.environ:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
