"""The users of the configuration, and how one shows who it is: by name, by name and passcode, or by a signed token."""

import base64
import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Literal

from pacs.errors import UserRefused

Demand = Literal["ignored", "optional", "required"]
"""Whether users are looked at: not at all, where one is named, or always."""

_N, _R, _P, _LENGTH = 1 << 14, 8, 1, 32
"""What scrypt costs (RFC 7914): 16 MiB of memory and about 50 ms."""

_AT_ONCE = 2
"""Hashing takes memory: strangers must not have it done many times at once."""


@dataclass(frozen=True, slots=True)
class User:
    """A user who may use the archive. `passcode` is what `hashed` gave for it; '' where the name is enough."""

    name: str
    passcode: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What somebody said of who it is: a name, with or without a passcode, or a token; neither is nothing usable."""

    name: str | None = None
    passcode: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


class Users:
    """Says who somebody is. `subject_of` gives the user that a token was signed for, and raises UserRefused."""

    def __init__(
        self, users: Iterable[User] = (), demand: Demand = "ignored", subject_of: Callable[[str], str] | None = None
    ) -> None:
        self._users = {each.name: each for each in users}
        self._demand = demand
        self._subject_of = subject_of

    def identify(self, credentials: Credentials | None) -> str:
        """The name of the user that these show, '' where none is named and none needed. Raises UserRefused."""
        if self._demand == "ignored":
            return ""
        if credentials is None:
            if self._demand == "required":
                raise UserRefused('a user has to be named, see access.users = "required"')
            return ""
        if credentials.token is not None:
            return self._by_token(credentials.token)
        if credentials.name is None:
            raise UserRefused("its kind of user identity is not supported: name, name and passcode, or JWT are")
        return self._by_passcode(credentials.name, credentials.passcode)

    def _by_token(self, token: str) -> str:
        if self._subject_of is None:
            raise UserRefused("a token was shown, and [jwt] has no key to check it with")
        return self._subject_of(token)

    def _by_passcode(self, name: str, passcode: str | None) -> str:
        user = self._users.get(name)
        if user is None:
            _is_passcode(passcode or "", _NOBODY)  # takes as long as for a user that there is
        elif not user.passcode or (passcode is not None and _is_passcode(passcode, user.passcode)):
            return name
        raise UserRefused("the user is unknown, or the passcode is wrong: see [[users]] and `pacs passcode`")


# --- passcodes ---------------------------------------------------------------------------------------------------


def hashed(passcode: str) -> str:
    """A passcode as the configuration has it, salted, so that it cannot be read back: scrypt$N$R$P$SALT$HASH."""
    salt = os.urandom(16)
    digest = hashlib.scrypt(passcode.encode(), salt=salt, n=_N, r=_R, p=_P, dklen=_LENGTH)
    return "$".join(
        ["scrypt", str(_N), str(_R), str(_P), *(base64.b64encode(each).decode() for each in (salt, digest))]
    )


def check_hash(text: str) -> None:
    """See that a text is what `hashed` gives. Raises ValueError."""
    try:
        _parts(text)
    except ValueError as error:
        raise ValueError("expected a hash that `pacs passcode` prints") from error


def _parts(text: str) -> tuple[int, int, int, bytes, bytes]:
    kind, n, r, p, salt, digest = text.split("$")
    costs = int(n), int(r), int(p)
    if kind != "scrypt" or costs[0] * costs[1] > _N * _R * 16 or not 0 < costs[2] <= 16:
        raise ValueError("not a hash of ours")
    return *costs, base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)


def _is_passcode(passcode: str, known: str) -> bool:
    n, r, p, salt, digest = _parts(known)
    work = partial(hashlib.scrypt, passcode.encode(), salt=salt, n=n, r=r, p=p, dklen=len(digest), maxmem=1 << 28)
    return hmac.compare_digest(_hashers.run(work), digest)


class _Hashers:
    """The threads that hash, always the same few: the allocator keeps what each thread has once used for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work: SimpleQueue[tuple[Callable[[], bytes], Future[bytes]]] = SimpleQueue()
        self._owner = 0

    def run(self, work: Callable[[], bytes]) -> bytes:
        """What `work` gives, when it was its turn."""
        with self._lock:
            if self._owner != os.getpid():  # none yet, or those of the process that this one was forked from
                self._owner, self._work = os.getpid(), SimpleQueue()
                for _ in range(_AT_ONCE):
                    threading.Thread(target=self._serve, args=(self._work,), name="pacs-passcode", daemon=True).start()
            due: Future[bytes] = Future()
            self._work.put((work, due))
        return due.result()

    @staticmethod
    def _serve(queue: "SimpleQueue[tuple[Callable[[], bytes], Future[bytes]]]") -> None:
        while True:
            work, due = queue.get()
            try:
                due.set_result(work())
            except Exception as error:
                due.set_exception(error)


_hashers = _Hashers()


_NOBODY = f"scrypt${_N}${_R}${_P}${base64.b64encode(bytes(16)).decode()}${base64.b64encode(bytes(_LENGTH)).decode()}"
