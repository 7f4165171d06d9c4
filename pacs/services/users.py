"""The users of the configuration, and their identification by name, by name and passcode, or by a signed token."""

import base64
import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Literal

from pacs.errors import OutOfResources, UserRefused
from pacs.services.tokens import claimed_subject
from pacs.support.threads import start_thread

Demand = Literal["ignored", "optional", "required"]
"""Whether a user is identified: never, if a request names one, or always."""

_N, _R, _P, _LENGTH = 1 << 14, 8, 1, 32
"""The parameters of scrypt (RFC 7914): 16 MiB of memory and about 50 ms."""

_HASHING_THREADS = 2
"""Few, because hashing takes memory, and anyone can make the server hash."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the archive. `passcode` is the result of `hash_passcode`, or '' if the name is enough."""

    name: str
    passcode: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Credentials of a request: a name with or without a passcode, or a token; neither if they are not supported."""

    name: str | None = None
    passcode: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


LONGEST_CLAIM = 256
"""Maximum number of characters of a name that is only claimed."""


def claimed_name(credentials: Credentials) -> str:
    """Return the name of the user that a request claims to be from, without any check; '' without a name."""
    name = credentials.name if credentials.token is None else claimed_subject(credentials.token)
    return (name or "")[:LONGEST_CLAIM]


class Users:
    """Identifies users. `subject_of` returns the user for whom a token was signed, and raises UserRefused."""

    def __init__(
        self, users: Iterable[User] = (), demand: Demand = "ignored", subject_of: Callable[[str], str] | None = None
    ) -> None:
        self._users = {each.name: each for each in users}
        self._demand = demand
        self._subject_of = subject_of

    def identify(self, credentials: Credentials | None) -> str:
        """Return the name of the user, '' if none is named and none is required. Raises UserRefused."""
        if self._demand == "ignored":
            return ""
        if credentials is None:
            if self._demand == "required":
                raise UserRefused('the request has no user identity, and access.users = "required"')
            return ""
        if credentials.token is not None:
            return self._by_token(credentials.token)
        if credentials.name is None:
            raise UserRefused("type of user identity not supported: use name, name and passcode, or JWT")
        return self._by_passcode(credentials.name, credentials.passcode)

    def _by_token(self, token: str) -> str:
        if self._subject_of is None:
            raise UserRefused("the token cannot be verified: set jwt.key")
        return self._subject_of(token)

    def _by_passcode(self, name: str, passcode: str | None) -> str:
        user = self._users.get(name)
        if user is None:
            _is_passcode(passcode or "", _UNKNOWN_USER)  # takes as long as for a known user
        elif not user.passcode or (passcode is not None and _is_passcode(passcode, user.passcode)):
            return name
        raise UserRefused("the user is unknown, or the passcode is wrong: see [[users]] and `pacs passcode`")


# --- passcodes ---------------------------------------------------------------------------------------------------


def hash_passcode(passcode: str) -> str:
    """Return the salted hash of a passcode for the configuration: scrypt$N$R$P$SALT$HASH."""
    salt = os.urandom(16)
    digest = hashlib.scrypt(passcode.encode(), salt=salt, n=_N, r=_R, p=_P, dklen=_LENGTH)
    return "$".join(
        ["scrypt", str(_N), str(_R), str(_P), *(base64.b64encode(each).decode() for each in (salt, digest))]
    )


def check_hash(text: str) -> None:
    """Check that a text is a result of `hash_passcode`. Raises ValueError."""
    try:
        _parts(text)
    except ValueError as error:
        raise ValueError("expected a hash that `pacs passcode` prints") from error


def _parts(text: str) -> tuple[int, int, int, bytes, bytes]:
    kind, n, r, p, salt, digest = text.split("$")
    costs = int(n), int(r), int(p)
    if kind != "scrypt" or costs[0] * costs[1] > _N * _R * 16 or not 0 < costs[2] <= 16:
        raise ValueError("not a hash of a passcode")
    return *costs, base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)


def _is_passcode(passcode: str, known: str) -> bool:
    n, r, p, salt, digest = _parts(known)
    work = partial(hashlib.scrypt, passcode.encode(), salt=salt, n=n, r=r, p=p, dklen=len(digest), maxmem=1 << 28)
    return hmac.compare_digest(_hashers.run(work), digest)


class _Hashers:
    """A few threads that hash, always the same ones: the allocator keeps the memory of each thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work: SimpleQueue[tuple[Callable[[], bytes], Future[bytes]]] = SimpleQueue()
        self._owner = 0

    def run(self, work: Callable[[], bytes]) -> bytes:
        """Run `work` in a thread and return its result. Raises OutOfResources."""
        with self._lock:
            if self._owner != os.getpid():  # no threads yet, or only in the parent of this forked process
                self._start()
            due: Future[bytes] = Future()
            self._work.put((work, due))
        return due.result()

    def _start(self) -> None:
        """Start the threads, at least one. Raises OutOfResources."""
        work: SimpleQueue[tuple[Callable[[], bytes], Future[bytes]]] = SimpleQueue()
        start_thread("pacs-passcode", self._serve, work)
        self._owner, self._work = os.getpid(), work
        with suppress(OutOfResources):
            for _ in range(_HASHING_THREADS - 1):
                start_thread("pacs-passcode", self._serve, work)

    @staticmethod
    def _serve(queue: "SimpleQueue[tuple[Callable[[], bytes], Future[bytes]]]") -> None:
        while True:
            work, due = queue.get()
            try:
                due.set_result(work())
            except Exception as error:
                due.set_exception(error)


_hashers = _Hashers()


_UNKNOWN_USER = (
    f"scrypt${_N}${_R}${_P}${base64.b64encode(bytes(16)).decode()}${base64.b64encode(bytes(_LENGTH)).decode()}"
)
