"""TLS under an association (PS3.15 B.9, B.10): TLS contexts, and a wire that encrypts.

The profile is BCP 195: TLS 1.2 or newer, with forward secrecy and authenticated encryption.
"""

import hashlib
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, cast

from pacs.dimse.upper.wire import Buffer, Wire
from pacs.errors import ConfigurationError
from pacs.support.regular_files import open_regular, read_regular

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""The cipher suites of TLS 1.2; those of TLS 1.3 all meet the profile."""

MOST_ENCRYPTED = 1 << 17
"""The most bytes that are encrypted before they are sent."""

MOST_OVERHEAD = 1 << 17
"""The most encrypted bytes that may arrive without application data, or wait to be sent in response.

A record has 16 KiB. Without a limit a peer could send messages of TLS itself for ever.
"""

_CHUNK = 1 << 16

WaitFor = Callable[[int], None]
"""Waits until the socket has one of the given events of `select.poll`; raises when that takes too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """The paths of PEM files, '' for none: our certificate with its chain, its key, and the CA certificates for peers.

    `of_clients` says whether requestors are asked for their certificates.
    """

    certificate: str = ""
    key: str = ""
    ca: str = ""
    of_clients: Literal["none", "optional", "required"] = "none"


_VERIFY_MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def acceptor_context(files: Certificates) -> ssl.SSLContext:
    """Return the context of an acceptor. Raises ConfigurationError when a file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    context.num_tickets = 0  # a peer that waits by `select`, such as DCMTK, would mistake a ticket for data
    _load_own(context, files)
    if files.of_clients != "none":
        _load_ca(context, files.ca)
    context.verify_mode = _VERIFY_MODES[files.of_clients]
    return context


def web_context(files: Certificates) -> ssl.SSLContext:
    """Return the context of the web port. Raises ConfigurationError."""
    return acceptor_context(replace(files, of_clients="none"))


def renew(context: ssl.SSLContext, files: Certificates) -> None:
    """Reload the certificate of a context; it is used from the next connection on.

    Raises ConfigurationError; then nothing has changed.
    """
    web_context(files)
    _load_own(context, files)


def requestor_context(files: Certificates, *, is_pinned: bool) -> ssl.SSLContext:
    """Return the context of a requestor; with `is_pinned` the peer's certificate is not verified by a CA.

    Raises ConfigurationError when a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context)
    if files.certificate:
        _load_own(context, files)
    if is_pinned:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif files.ca:
        _load_ca(context, files.ca)
    else:
        context.load_default_certs()
    return context


def valid_until(files: Certificates) -> str:
    """Return the end of our certificate's validity, as OpenSSL prints it. Raises ConfigurationError when it is invalid.

    Python gives it only for a verified peer certificate, so this does a handshake between two ends in memory.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(files.certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), web_context(files).wrap_bio(to_server, to_client, server_side=True)]
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
    """Return the SHA-256 fingerprint of the first certificate in a PEM file. Raises ConfigurationError."""
    try:
        text = read_regular(path).decode("ascii")
        first = text[text.index(ssl.PEM_HEADER) : text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"tls.certificate = {path!r}: expected a certificate in PEM") from error


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET


def _load_own(context: ssl.SSLContext, files: Certificates) -> None:
    for name, path in (("tls.certificate", files.certificate), ("tls.key", files.key)):
        _require_readable(name, path)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except _EncryptedKey as error:
        raise ConfigurationError(f"tls.key = {files.key!r}: expected a key that is not encrypted") from error
    except ssl.SSLError as error:
        reason = _REASONS.get(error.reason or "", f"one of the files is invalid ({error.reason})")
        raise ConfigurationError(
            f"tls.certificate = {files.certificate!r}, tls.key = {files.key!r}: expected a certificate and its key in "
            f"PEM, {reason}"
        ) from error


class _EncryptedKey(Exception):
    """OpenSSL asked for a passphrase."""


_REASONS = {
    "KEY_VALUES_MISMATCH": "the key belongs to another certificate",
    "NO_START_LINE": "one of the files has none",
}


def _no_passphrase() -> str:
    raise _EncryptedKey


def _load_ca(context: ssl.SSLContext, ca: str) -> None:
    _require_readable("tls.ca", ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ConfigurationError(f"tls.ca = {ca!r}: expected certificates in PEM ({error.reason})") from error


def _require_readable(name: str, path: str) -> None:
    try:
        open_regular(path).close()
    except OSError as error:
        raise ConfigurationError(f"{name} = {path!r}: cannot be read ({error.strerror})") from error


class SecureWire(Wire):
    """A wire that encrypts, after its `handshake`. A requestor gives the `server_name` of the peer.

    Decrypted bytes are no longer in the socket: a caller may wait for input only after `fill` has returned False.
    """

    def __init__(
        self, connection: socket.socket, capacity: int, context: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        super().__init__(connection, capacity)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=is_server, server_hostname=None if is_server else server_name
        )
        self._unsent = memoryview(b"")
        self._is_ready = False
        self._overhead = 0
        """Encrypted bytes received since the last application data."""

    # --- handshake ----------------------------------------------------------------------------------------------

    def handshake(self, wait_for: WaitFor) -> None:
        """Do the TLS handshake.

        Raises ssl.SSLError when it fails, ConnectionError when the connection is lost, and what `wait_for` raises.
        """
        while not self._is_ready:
            try:
                self._tls.do_handshake()
                self._is_ready = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                with suppress(ConnectionError):
                    self._push()  # the alert with the reason
                raise
            while not self._push():
                wait_for(select.POLLOUT)
            if not self._is_ready and not self._feed():
                if self.at_end:
                    raise ConnectionError("The peer closed the connection")
                wait_for(select.POLLIN)

    @property
    def certificate(self) -> str:
        """The SHA-256 fingerprint of the peer's certificate, '' for none."""
        shown = self._tls.getpeercert(binary_form=True)
        return hashlib.sha256(shown).hexdigest() if shown else ""

    @property
    def protection(self) -> str:
        """The version of TLS and the cipher suite."""
        cipher = self._tls.cipher()
        return f"{self._tls.version()} {cipher[0] if cipher else ''}"

    # --- input --------------------------------------------------------------------------------------------------

    def fill(self) -> bool:
        """See `Wire`."""
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
            except ssl.SSLError:  # a closed or broken TLS connection: trust no more input
                count = 0
            self.at_end = count == 0
            self._end += count
            self.received += count
            self._overhead = 0
            return True
        return False

    def _feed(self) -> bool:
        """Read encrypted bytes from the socket. Return whether any, or the end, came.

        An end during the handshake sets `at_end` and returns False.
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

    # --- output -------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer], wait_for_room: Callable[[], None]) -> None:
        """See `Wire`."""
        super().write(buffers, wait_for_room)
        self._push_all(wait_for_room)

    def write_each(
        self, messages: Sequence[bytes], wait_for_room: Callable[[], None], wanted: Callable[[], bool]
    ) -> int:
        """See `Wire`."""
        sent = super().write_each(messages, wait_for_room, wanted)
        self._push_all(wait_for_room)
        return sent

    def _send(self, buffers: Sequence[Buffer]) -> int:
        """Encrypt bytes, if all earlier ones are sent. Return how many were encrypted."""
        if not self._is_ready:
            raise ConnectionError("The TLS handshake is not done")
        if not self._push():
            return 0
        taken = 0
        try:
            for each in buffers:
                taken += self._tls.write(memoryview(each)[: MOST_ENCRYPTED - taken]) if len(each) else 0
                if taken == MOST_ENCRYPTED:
                    break
        except ssl.SSLError as error:
            self.is_torn = True
            raise ConnectionError(str(error)) from error
        self._push()
        return taken

    def _push(self) -> bool:
        """Send encrypted bytes. Return whether all were sent. Raises ConnectionError."""
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
        """Send the TLS close_notify, then see `Wire`."""
        with suppress(ssl.SSLError, ConnectionError, ValueError):
            self._tls.unwrap()
        with suppress(ConnectionError):
            self._push()
        super().end_writing()
