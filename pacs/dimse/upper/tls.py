"""TLS under an association (PS3.15 B.9, B.10): a wire that encrypts, and the contexts it is made with.

The profile is BCP 195: TLS 1.2 or newer, forward secrecy and authenticated encryption.
"""

import hashlib
import os
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from pacs.dimse.upper.wire import Buffer, Wire
from pacs.errors import ConfigurationError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of TLS 1.3 all have what the profile asks for."""

AT_ONCE = 1 << 17
"""Bytes encrypted at a time."""

MOST_OVERHEAD = 1 << 17
"""Encrypted bytes that may come without any that is meant for us, and that we may owe in answer: a record has 16 KiB,
and TLS has messages of its own that a peer could send for ever."""

_CHUNK = 1 << 16

Events = Callable[[int], None]
"""Waits until the socket has one of some events of `select.poll`, and raises when that takes too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """The paths of PEM files: our certificate (with those between it and its root) and its key, and of who signs
    those of others, '' for none. `of_clients` says whether callers are asked for theirs.
    """

    certificate: str = ""
    key: str = ""
    ca: str = ""
    of_clients: Literal["none", "optional", "required"] = "none"


_DEMANDS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def acceptor_context(files: Certificates) -> ssl.SSLContext:
    """How those who call us are answered. Raises ConfigurationError when a file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    context.num_tickets = 0  # who waits for data by `select`, as DCMTK does, takes a ticket for some
    _load_ours(context, files)
    if files.of_clients != "none":
        _load_theirs(context, files.ca)
    context.verify_mode = _DEMANDS[files.of_clients]
    return context


def web_context(files: Certificates) -> ssl.SSLContext:
    """How browsers and other clients of the web port are answered. Raises ConfigurationError."""
    return acceptor_context(replace(files, of_clients="none"))


def renew(context: ssl.SSLContext, files: Certificates) -> None:
    """Have a context show the certificate that is in the files now, from the next connection on.

    Raises ConfigurationError, and nothing has changed then.
    """
    web_context(files)
    _load_ours(context, files)


def requestor_context(files: Certificates, *, is_pinned: bool) -> ssl.SSLContext:
    """How peers are called; of one whose certificate is known, `is_pinned`, no signature is asked for.

    Raises ConfigurationError when a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context)
    if files.certificate:
        _load_ours(context, files)
    if is_pinned:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif files.ca:
        _load_theirs(context, files.ca)
    else:
        context.load_default_certs()
    return context


def valid_until(files: Certificates) -> str:
    """When our certificate ends, as OpenSSL prints it. Raises ConfigurationError when it is not valid today.

    Python tells that only of a certificate that it has verified: we show it to ourselves.
    """
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    asking.load_verify_locations(files.certificate)
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [asking.wrap_bio(to_them, to_us), web_context(files).wrap_bio(to_us, to_them, server_side=True)]
    for each in ends * 3:
        try:
            each.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", error.reason)
            raise ConfigurationError(f"tls.certificate = {files.certificate!r}: {why}") from error
    return str((ends[0].getpeercert() or {}).get("notAfter", ""))


def fingerprint_of(path: str) -> str:
    """The SHA-256 fingerprint of the first certificate in a PEM file. Raises ConfigurationError."""
    try:
        text = Path(path).read_text("ascii")
        first = text[text.index(ssl.PEM_HEADER) : text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"tls.certificate = {path!r}: expected a certificate in PEM") from error


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET


def _load_ours(context: ssl.SSLContext, files: Certificates) -> None:
    for name, path in (("tls.certificate", files.certificate), ("tls.key", files.key)):
        _require_readable(name, path)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except _Encrypted as error:
        raise ConfigurationError(f"tls.key = {files.key!r}: expected a key that is not encrypted") from error
    except ssl.SSLError as error:
        reason = _REASONS.get(error.reason or "", f"one of them is not that ({error.reason})")
        raise ConfigurationError(
            f"tls.certificate = {files.certificate!r}, tls.key = {files.key!r}: expected a certificate and its key in "
            f"PEM, {reason}"
        ) from error


class _Encrypted(Exception):
    """A passphrase was asked for, and there is nobody to ask."""


_REASONS = {
    "KEY_VALUES_MISMATCH": "the key is that of another certificate",
    "NO_START_LINE": "in one of them there is none",
}


def _no_passphrase() -> str:
    raise _Encrypted


def _load_theirs(context: ssl.SSLContext, ca: str) -> None:
    _require_readable("tls.ca", ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ConfigurationError(f"tls.ca = {ca!r}: expected certificates in PEM ({error.reason})") from error


def _require_readable(name: str, path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise ConfigurationError(f"{name} = {path!r}: cannot be read ({error.strerror})") from error


class SecureWire(Wire):
    """A wire whose bytes are encrypted from its `handshake` on. `server_name` is that of the peer we call, else None.

    What TLS has decrypted is in no socket: nobody may wait for more before `fill` has said that there is none.
    """

    def __init__(
        self, connection: socket.socket, capacity: int, context: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        super().__init__(connection, capacity)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_ours = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=is_ours, server_hostname=None if is_ours else server_name
        )
        self._unsent = memoryview(b"")
        self._is_ready = False
        self._overhead = 0
        """Bytes that came since the last that was meant for us."""

    # --- the beginning ------------------------------------------------------------------------------------------

    def handshake(self, wait_for: Events) -> None:
        """Agree on keys with the peer. Raises ssl.SSLError when that is not possible, ConnectionError when it is gone,
        and what `wait_for` raises.
        """
        while not self._is_ready:
            try:
                self._tls.do_handshake()
                self._is_ready = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                with suppress(ConnectionError):
                    self._push()  # the alert that says why
                raise
            while not self._push():
                wait_for(select.POLLOUT)
            if not self._is_ready and not self._feed():
                if self.at_end:
                    raise ConnectionError("The peer closed the connection")
                wait_for(select.POLLIN)

    @property
    def certificate(self) -> str:
        """The SHA-256 fingerprint of the certificate the peer has shown, '' for none."""
        shown = self._tls.getpeercert(binary_form=True)
        return hashlib.sha256(shown).hexdigest() if shown else ""

    @property
    def protection(self) -> str:
        """What is agreed: the version of TLS and the cipher suite."""
        cipher = self._tls.cipher()
        return f"{self._tls.version()} {cipher[0] if cipher else ''}"

    # --- in -----------------------------------------------------------------------------------------------------

    def fill(self) -> bool:
        """As the base class."""
        while not self.at_end and self._end < len(self._buffer):
            try:
                count = cast(int, self._tls.read(_CHUNK, self._buffer[self._end :]))  # bytes only without a buffer
            except ssl.SSLWantReadError:
                if max(self._overhead, self._outgoing.pending) > MOST_OVERHEAD:
                    self.at_end = True
                    return True
                if not self._feed():
                    return False
                continue
            except ssl.SSLError:  # its end, in order or not: nothing more is to be believed
                count = 0
            self.at_end = count == 0
            self._end += count
            self.received += count
            self._overhead = 0
            return True
        return False

    def _feed(self) -> bool:
        """Take in what the socket has, still encrypted: whether anything, or the end, came; after an end there is no
        more, and the handshake has failed.
        """
        try:
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if data:
            self._incoming.write(data)
            self._overhead += len(data)
            return True
        self._incoming.write_eof()
        self.at_end = not self._is_ready
        return self._is_ready

    # --- out ----------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer], wait_for_room: Callable[[], None]) -> None:
        """As the base class."""
        super().write(buffers, wait_for_room)
        self._push_all(wait_for_room)

    def write_each(
        self, messages: Sequence[bytes], wait_for_room: Callable[[], None], wanted: Callable[[], bool]
    ) -> int:
        """As the base class."""
        sent = super().write_each(messages, wait_for_room, wanted)
        self._push_all(wait_for_room)
        return sent

    def _send(self, buffers: Sequence[Buffer]) -> int:
        """Encrypt some bytes, once all earlier ones are the socket's: how many."""
        if not self._is_ready:
            raise ConnectionError("There is no encryption yet")
        if not self._push():
            return 0
        taken = 0
        try:
            for each in buffers:
                taken += self._tls.write(memoryview(each)[: AT_ONCE - taken]) if len(each) else 0
                if taken == AT_ONCE:
                    break
        except ssl.SSLError as error:
            self.is_torn = True
            raise ConnectionError(str(error)) from error
        self._push()
        return taken

    def _push(self) -> bool:
        """Hand what is encrypted to the socket: whether it has taken all. Raises ConnectionError."""
        while self._unsent or self._outgoing.pending:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            sent = super()._send([self._unsent])
            if not sent:
                return False
            self._unsent = self._unsent[sent:]
        return True

    def _push_all(self, wait_for_room: Callable[[], None]) -> None:
        try:
            while not self._push():
                wait_for_room()
        except BaseException:
            self.is_torn = True
            raise

    # --- the end ------------------------------------------------------------------------------------------------

    def end_writing(self) -> None:
        """As the base class, and say so by TLS."""
        with suppress(ssl.SSLError, ConnectionError, ValueError):
            self._tls.unwrap()
        with suppress(ConnectionError):
            self._push()
        super().end_writing()
