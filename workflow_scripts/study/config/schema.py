"""Write the JSON Schema of config.yaml, by which editors complete and explain its keys.

python -m workflow_scripts.study.config.schema           write it
python -m workflow_scripts.study.config.schema --check   exit with status 1 where the file is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
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


def main(argv: Sequence[str] | None = None) -> None:
    """Write the schema, or only check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if out of date")
    text = schema_text()
    if not parser.parse_args(argv).check:
        SCHEMA_PATH.write_text(text, encoding="utf-8")
    elif not SCHEMA_PATH.is_file() or SCHEMA_PATH.read_text(encoding="utf-8") != text:
        sys.exit(f"error: {SCHEMA_PATH} is out of date; run `python -m workflow_scripts.study.config.schema`")


if __name__ == "__main__":
    main()
