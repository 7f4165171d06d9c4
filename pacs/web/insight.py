"""What the web mouth is told by the house, as plain callables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """What the archive says of itself; both may take seconds.

    `reasons` says why no work can be done, by what is at fault; `metrics` gives the text and its media type, and is
    None where nothing is counted.
    """

    reasons: Callable[[], Mapping[str, str]]
    metrics: Callable[[], tuple[bytes, str]] | None = None
