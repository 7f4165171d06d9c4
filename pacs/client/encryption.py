"""TLS settings for associations of the client: to peers, and from senders to this host."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ssl import SSLContext
from typing import Literal

from pacs.dimse.association.establishment import Protection
from pacs.dimse.upper.tls import Certificates, acceptor_context, requestor_context
from pacs.errors import ConfigurationError, InvalidArgument


def requestor_tls(
    *,
    ca: str = "",
    certificate: str = "",
    key: str = "",
    fingerprints: Collection[str] = (),
    check_hostname: bool = True,
) -> Protection:
    """Return the TLS settings for a `Peer`; all files are PEM.

    Without `ca`, the CAs of the system are trusted. `fingerprints` are SHA-256 fingerprints in hexadecimal: the peer
    must show one of these certificates, whoever signed it and whatever host it names. `check_hostname=False` accepts a
    certificate of the CA with another host name or none. `certificate` and `key` (the same file if '') identify this
    client. Raises InvalidArgument.
    """
    pinned = frozenset(map(_fingerprint, fingerprints))
    with _as_arguments():
        files = Certificates(certificate=certificate, key=key or certificate, ca=ca)
        context = requestor_context(files, is_pinned=bool(pinned))
    context.check_hostname = context.check_hostname and check_hostname
    return Protection(context, pinned)


def acceptor_tls(*, certificate: str, key: str = "", ca: str = "") -> SSLContext:
    """Return the TLS settings with which `move_and_store`, `fetch` and `receiving` accept associations.

    `certificate` and `key` (the same file if '') identify this host; with `ca`, senders must show a certificate that it
    signed. All files are PEM. Raises InvalidArgument.
    """
    of_clients: Literal["none", "required"] = "required" if ca else "none"
    files = Certificates(certificate=certificate, key=key or certificate, ca=ca, of_clients=of_clients)
    with _as_arguments():
        return acceptor_context(files)


def _fingerprint(text: str) -> str:
    """Return a fingerprint as lower-case hexadecimal digits without colons. Raises InvalidArgument."""
    plain = text.replace(":", "").replace(" ", "").lower()
    if len(plain) != 64 or not set(plain) <= set("0123456789abcdef"):
        raise InvalidArgument(f"A SHA-256 fingerprint has 64 hexadecimal digits, not {text!r}")
    return plain


@contextmanager
def _as_arguments() -> Iterator[None]:
    """Name arguments instead of keys of the configuration in the errors of the body."""
    try:
        yield
    except ConfigurationError as error:
        raise InvalidArgument(error.comment.replace("tls.", "")) from error
