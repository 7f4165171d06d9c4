"""Certificates for tests: a CA, and certificates of a server and of clients."""

import hashlib
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Pair:
    """The paths of a certificate and its private key, and the SHA-256 fingerprint."""

    certificate: str
    key: str
    fingerprint: str


class Authority:
    """A CA; its certificate is in the file `path`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signer = trustme.CA()
        self.path = str(folder / "ca.pem")
        self._signer.cert_pem.write_to_path(self.path)

    def sign(self, name: str, *hosts: str, until: datetime | None = None) -> Pair:
        """Issue a certificate for some hosts, in files with the name `name`."""
        made = self._signer.issue_cert(*(hosts or (f"{name}.example",)), not_after=until)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        made.cert_chain_pems[0].write_to_path(certificate)
        made.private_key_pem.write_to_path(key)
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
        return Pair(str(certificate), str(key), hashlib.sha256(der).hexdigest())
