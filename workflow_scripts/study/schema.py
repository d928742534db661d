"""The JSON Schema of config.yaml, with references resolved and defaults filled in."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

SCHEMA_PATH = Path(__file__).parents[2] / "schemas" / "config.schema.yaml"


@cache
def config_schema() -> dict[str, Any]:
    """The schema with every `$ref` replaced by what it names (siblings of the reference win)."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    raw = yaml.load(SCHEMA_PATH.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506  (both are safe loaders)
    definitions = raw["$defs"]

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = dict(node)
        if "$ref" in node:
            target = definitions[node.pop("$ref").rsplit("/", 1)[-1]]
            node = {**target, **node}
        return {key: resolve(value) for key, value in node.items()}

    return resolve(raw)


def recipe_schema(name: str) -> dict[str, Any]:
    """The resolved definition `name`, an object whose properties are a stage's settings."""
    return config_schema()["$defs"][name]


def recipe_defaults(name: str) -> dict[str, Any]:
    """The default settings of a stage, nested as in the config."""
    return with_defaults({}, recipe_schema(name))


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """A copy of `value` with the schema's defaults wherever it is silent, at any depth."""
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return copy.deepcopy(value)
    filled = {key: copy.deepcopy(item) for key, item in value.items()}
    for key, child in schema.get("properties", {}).items():
        if key not in filled and "default" in child:
            filled[key] = copy.deepcopy(child["default"])
        if key in filled:
            filled[key] = with_defaults(filled[key], child)
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict):
        for key in filled:
            if key not in schema.get("properties", {}):
                filled[key] = with_defaults(filled[key], additional)
    return filled
