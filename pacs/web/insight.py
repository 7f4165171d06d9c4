"""What the web mouth is told by the house, as plain callables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """What the archive says of itself; all of it may take seconds.

    `reasons` says why no work can be done, by what is at fault; `metrics` gives the text and its media type, and is
    None where nothing is counted. `explanations` gives the last ones, newest first, each with its "number": patient
    data. It gives None where nothing is explained.
    """

    reasons: Callable[[], Mapping[str, str]]
    metrics: Callable[[], tuple[bytes, str]] | None = None
    explanations: Callable[[], Sequence[Mapping[str, Any]] | None] = lambda: None
