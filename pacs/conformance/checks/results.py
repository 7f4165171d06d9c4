"""Checks and their results. A result never conforms by default, and always says what was seen."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pacs.conformance.checks.toolkit import Toolkit


class ResultKind(Enum):
    """The kinds of result: the word of each in JSON, and its sign in a table."""

    CONFORMS = ("conforms", "✓")
    DEVIATES = ("deviates", "✗")
    FREE = ("free choice", "○")
    NOT_OFFERED = ("not offered", "–")
    NOT_ASKED = ("could not be asked", "?")

    def __init__(self, word: str, sign: str) -> None:
        self.word = word
        self.sign = sign


@dataclass(frozen=True)
class CheckResult:
    """The result of a check, with one line about what was seen."""

    kind: ResultKind
    seen: str


class NotOffered(Exception):
    """The server does not offer what is to be checked."""


class CheckImpossible(Exception):
    """The check cannot run here; the text says why."""


def conforms(seen: str) -> CheckResult:
    """Return a result for behaviour that the standard demands."""
    return CheckResult(ResultKind.CONFORMS, seen)


def deviates(seen: str) -> CheckResult:
    """Return a result for behaviour that the standard forbids."""
    return CheckResult(ResultKind.DEVIATES, seen)


def free(seen: str) -> CheckResult:
    """Return a result for behaviour that the standard leaves open."""
    return CheckResult(ResultKind.FREE, seen)


def judge(is_conformant: object, seen: str) -> CheckResult:
    """Return a result that conforms or deviates."""
    return conforms(seen) if is_conformant else deviates(seen)


def impossible(why: str) -> NoReturn:
    """Raise CheckImpossible."""
    raise CheckImpossible(why)


CheckFunction = Callable[["Toolkit"], CheckResult]


@dataclass(frozen=True)
class Check:
    """One question about a server."""

    id: str
    theme: str
    question: str
    paragraph: str
    """Where the standard speaks of it."""
    run: CheckFunction


class Checks(list[Check]):
    """The checks of one theme, in the order in which they run."""

    def __init__(self, theme: str) -> None:
        super().__init__()
        self.theme = theme

    def check(self, identity: str, paragraph: str) -> Callable[[CheckFunction], CheckFunction]:
        """Register the decorated function; its docstring is the question."""

        def register(run: CheckFunction) -> CheckFunction:
            self.append(Check(identity, self.theme, run.__doc__ or "", paragraph, run))
            return run

        return register
