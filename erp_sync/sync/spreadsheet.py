"""Files that people open in a spreadsheet: what it makes of a cell, and that the file is there whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def inert(text: str) -> str:
    """A spreadsheet computes what begins like a formula, and somebody else chose the text."""
    return f"'{text}" if text.startswith(_FORMULA) else text


@contextmanager
def whole_file(path: Path, *, encoding: str) -> Iterator[TextIO]:
    """To be written into; it takes its place when the block ends, and until then the one before stays. A pipe or a
    device is written to as it is. Raises OSError."""
    if path.exists() and not path.is_file():
        with path.open("w", encoding=encoding, newline="") as file:
            yield file
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    partly = Path(name)
    try:
        with os.fdopen(handle, "w", encoding=encoding, newline="") as file:
            yield file
        partly.chmod(0o644)
        partly.replace(path)
    except BaseException:
        partly.unlink()
        raise
