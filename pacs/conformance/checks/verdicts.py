"""What a check can come to: never well by default, always with what was seen."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pacs.conformance.checks.bench import Bench


class Kind(Enum):
    """The kinds of verdict: the word of each in JSON, and the sign of each in a table."""

    CONFORMS = ("conforms", "✓")
    DEVIATES = ("deviates", "✗")
    FREE = ("free choice", "○")
    NOT_OFFERED = ("not offered", "–")
    NOT_ASKED = ("could not be asked", "?")

    def __init__(self, word: str, sign: str) -> None:
        self.word = word
        self.sign = sign


@dataclass(frozen=True)
class Verdict:
    """What a check came to, and in one line what was seen."""

    kind: Kind
    seen: str


class NotOffered(Exception):
    """The server does not offer what the check is about."""


class CouldNotAsk(Exception):
    """The check cannot be made here; the text says why."""


def conforms(seen: str) -> Verdict:
    """As the standard says."""
    return Verdict(Kind.CONFORMS, seen)


def deviates(seen: str) -> Verdict:
    """Otherwise than the standard says."""
    return Verdict(Kind.DEVIATES, seen)


def free(seen: str) -> Verdict:
    """Where the standard leaves it open: what this server does."""
    return Verdict(Kind.FREE, seen)


def judge(well: object, seen: str) -> Verdict:
    """As the standard says, or not."""
    return conforms(seen) if well else deviates(seen)


def cannot(why: str) -> NoReturn:
    """End a check that cannot be made. Raises CouldNotAsk."""
    raise CouldNotAsk(why)


@dataclass(frozen=True)
class Check:
    """One thing that is asked of a server."""

    id: str
    theme: str
    question: str
    paragraph: str
    ask: Callable[["Bench"], Verdict]


Asking = Callable[["Bench"], Verdict]


class Checks(list[Check]):
    """The checks of one theme, in the order in which they are asked."""

    def __init__(self, theme: str) -> None:
        super().__init__()
        self.theme = theme

    def check(self, identity: str, paragraph: str) -> Callable[[Asking], Asking]:
        """Register what is decorated: its ID in the checklist and the part of the standard; its docstring asks."""

        def register(ask: Asking) -> Asking:
            self.append(Check(identity, self.theme, ask.__doc__ or "", paragraph, ask))
            return ask

        return register
