"""HTTPS with the certificate of [tls], and with a renewed one."""

import hashlib
import os
import socket
import ssl
import urllib.request

import pytest

from pacs.errors import ConfigurationError
from pacs.testing import serving
from pacs.web import listener
from tests.certificates import Authority


def settings(pair):
    """Return the settings of an archive with HTTPS."""
    web = {"web.enabled": True, "web.port": 0, "web.tls": True}
    return web | {"tls.certificate": pair.certificate, "tls.key": pair.key}


def test_https_uses_the_certificate_of_the_file(tmp_path):
    """After a reload also a renewed one in the same file."""
    authority = Authority(tmp_path)
    first, second = authority.sign("pacs", "localhost"), authority.sign("renewed", "localhost")
    trusting = ssl.create_default_context(cafile=authority.path)
    with serving(tmp_path / "pacs", settings(first)) as archive:

        def shown():
            plain = socket.create_connection(("127.0.0.1", archive.web_port), 10)
            with trusting.wrap_socket(plain, server_hostname="localhost") as encrypted:
                return hashlib.sha256(encrypted.getpeercert(binary_form=True)).hexdigest()

        with urllib.request.urlopen(f"https://localhost:{archive.web_port}/healthz", context=trusting) as answer:
            assert (answer.status, answer.read()) == (200, b"ok\n")
        assert shown() == first.fingerprint
        os.replace(second.certificate, first.certificate)
        os.replace(second.key, first.key)
        archive.reload(archive.config)
        assert shown() == second.fingerprint


def test_https_without_a_certificate_is_an_error(tmp_path):
    """With the keys it needs."""
    with pytest.raises(ConfigurationError, match=r"needs tls\.certificate"), serving(tmp_path, {"web.tls": True}):
        pass


def test_a_connection_without_tls_handshake_is_closed(tmp_path, monkeypatch):
    """Within the timeout."""
    monkeypatch.setattr(listener, "HANDSHAKE", 0.2)
    pair = Authority(tmp_path).sign("pacs", "localhost")
    with serving(tmp_path / "pacs", settings(pair)) as archive:
        silent = socket.create_connection(("127.0.0.1", archive.web_port), 20)
        assert silent.recv(1) == b""
        silent.close()
