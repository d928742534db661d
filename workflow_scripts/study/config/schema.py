"""Write the JSON Schema of config.yaml, by which editors complete and explain its keys.

python -m workflow_scripts.study.config.schema
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from workflow_scripts.study.config.study import Study

SCHEMA_PATH = Path(__file__).parents[3] / "schemas" / "config.schema.json"


class _Generator(GenerateJsonSchema):
    """Without titles that only repeat the keys, and without a default where a key may be left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        json_schema = super().default_schema(schema)
        if json_schema.get("default", ...) is None:
            del json_schema["default"]
        return json_schema


def schema_text() -> str:
    """The schema as the file holds it."""
    schema = Study.model_json_schema(schema_generator=_Generator)
    schema = {"$schema": _Generator.schema_dialect, **schema, "title": "tusflow config"}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
