"""What the web application shows of the archive, as plain callables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """Functions that describe the state of the archive; each may take seconds.

    `reasons` returns why the archive is not ready, by failing part. `metrics` returns a text and its media type; it is
    None if nothing is counted.
    """

    reasons: Callable[[], Mapping[str, str]]
    metrics: Callable[[], tuple[bytes, str]] | None = None
