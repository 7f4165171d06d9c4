"""Adds a peer to the configuration file."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pacs.config.sources import parse, validate
from pacs.errors import ConfigurationError


def add_peer(file: Path, **values: Any) -> str:
    """Append a `[[peers]]` block with `values` to the configuration file, created if missing; return the block.

    The new file is validated before it replaces the old one atomically. Raises ConfigurationError.
    """
    block = (
        "\n".join(["[[peers]]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())])
        + "\n"
    )
    before = file.read_bytes() if file.exists() else b""
    after = (before.rstrip() + b"\n\n" if before.strip() else b"") + block.encode()
    validate(parse(after, file), file, {}, {}, "")
    _replace(file, after)
    return block


def _replace(file: Path, content: bytes) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=file.absolute().parent, prefix=".config-", delete=False) as out:
            out.write(content)
        os.chmod(out.name, file.stat().st_mode & 0o777 if file.exists() else 0o644)
        os.replace(out.name, file)
    except OSError as error:
        raise ConfigurationError(f"cannot write {str(file)!r} ({error.strerror})") from error
