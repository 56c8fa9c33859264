"""The command `python -m fly.config`, which writes the JSON Schema.  The file stands beside the
shipped configurations."""

import json

from fly.config.loading import SHIPPED
from fly.config.model import json_schema

text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
(SHIPPED / "schema.json").write_text(text, encoding="utf-8")
