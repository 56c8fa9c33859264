"""JSON that others may have damaged, and lines with a checksum.  Every fault in it is a ValueError
with a readable message."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

CHECKSUM = "checksum"  # key of a line's, after all others


def loads(
    data: str | bytes,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value of a JSON text; also NaN and infinities, as Python writes them.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deeply, or holds a number that is too long.
    """
    try:
        return json.loads(data, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{place}: not valid JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a checksum over all of it."""
    return record | {CHECKSUM: _checksum(record)}


def unseal(record: Any) -> Any:
    """A record as it was sealed, without its checksum; one that has none passes.

    Raises:
        ValueError: the record is not what was sealed.
    """
    if not isinstance(record, dict) or CHECKSUM not in record:
        return record
    content = {key: value for key, value in record.items() if key != CHECKSUM}
    if record[CHECKSUM] != _checksum(content):
        raise ValueError("its checksum is that of another content")
    return content


def _checksum(record: dict[str, Any]) -> str:
    """CRC-32 of the record as Python writes it: keys in their order, numbers to their last bit."""
    return f"{zlib.crc32(json.dumps(record).encode('ascii')):08x}"
