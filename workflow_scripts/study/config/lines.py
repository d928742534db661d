"""Where a key is written in the config files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.study.config.base import KeyPath

LONGEST_KEY = 200


class Lines:
    """Finds the file and line of a config key; `unread` says of each existing file that could not be read why."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.roots: list[tuple[Path, Any]] = []
        self.unread: dict[Path, str] = {}
        for file in files:
            try:
                if file.is_file():  # a pipe, which would be waited for, is not one
                    self.roots.append((file, _compose(file)))
                elif file.exists():
                    self.unread[file] = "it is not a regular file"
            except UnicodeDecodeError:
                self.unread[file] = "it is not UTF-8"
            except OSError as error:
                self.unread[file] = str(error.strerror)
            except ValueError as error:
                self.unread[file] = str(error).partition("\n")[0][:200]

    def where(self, path: KeyPath) -> str:
        """`config.yaml line 12, data.size`: the deepest part of the path that a file holds, in the last file that does."""
        import yaml

        key = ".".join(map(str, path)) or "top level"
        key = key if len(key) <= LONGEST_KEY else f"{key[:LONGEST_KEY]}…"
        best = (-1, "")
        for file, root in self.roots:
            node, depth, line = root, 0, 1
            for part in path:
                if isinstance(node, yaml.MappingNode):
                    pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
                    if pair is None:
                        break
                    line, node = pair[0].start_mark.line + 1, pair[1]
                elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                    node = node.value[part]
                    line = node.start_mark.line + 1
                else:
                    break
                depth += 1
            if depth >= best[0]:
                best = (depth, f"{file} line {line}")
        return f"{best[1]}, {key}" if best[1] else key


def _compose(file: Path) -> Any:
    """The tree of a YAML file; raises `ValueError` where it is not YAML."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.compose(file.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}") from None
