"""Identify users by JSON Web Token (RFC 7519), signed by an identity provider. Needs the extra `jwt`."""

import base64
import json
from collections.abc import Callable
from typing import Literal

from pacs.errors import ConfigurationError, UserRefused

Algorithm = Literal["HS256", "ES256"]

LEEWAY = 10.0
"""Seconds by which the clock of the signer may differ."""

LONGEST_CLAIMS = 8192
"""Maximum number of characters of the claims of a token that is only logged."""

SHORTEST_SECRET = 32
"""The least bytes of a secret for HS256 (RFC 7518 3.2)."""


def claimed_subject(token: str) -> str:
    """Return the subject that a token names, without any check, for the log of a refusal; '' if it names none."""
    payload = token.split(".")[1] if token.count(".") == 2 else ""
    if len(payload) > LONGEST_CLAIMS:
        return ""
    try:
        return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def subject_checker(key: str, algorithm: Algorithm, audience: str = "", issuer: str = "") -> Callable[[str], str]:
    """Return a function that checks a token and returns its subject, or raises UserRefused.

    A token is valid if it is signed with `key` (the shared secret for HS256, the public key in PEM for ES256), has not
    expired, and names `audience` and `issuer` where they are given. Raises ConfigurationError when the extra is
    missing or the key cannot be used.
    """
    try:
        import jwt
    except ImportError as error:
        raise ConfigurationError("jwt.key needs PyJWT: run `pip install 'pyjwt[crypto]'`") from error
    if algorithm == "HS256" and len(key.encode()) < SHORTEST_SECRET:
        raise ConfigurationError(f"jwt.key is too short for HS256: expected {_EXPECTED['HS256']}")
    try:
        prepared = jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError) as error:
        raise ConfigurationError(f"jwt.key is not a key for {algorithm}: expected {_EXPECTED[algorithm]}") from error
    required = ["exp", "sub", *(["aud"] if audience else []), *(["iss"] if issuer else [])]

    def subject_of(token: str) -> str:
        try:
            claims = jwt.decode(
                token,
                prepared,
                algorithms=[algorithm],
                audience=audience or None,
                issuer=issuer or None,
                leeway=LEEWAY,
                options={"require": required, "verify_aud": bool(audience)},
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise UserRefused(f"the token is not valid ({type(error).__name__})") from error
        return str(claims["sub"])

    return subject_of


_EXPECTED = {"HS256": "a secret of 32 bytes or more", "ES256": "a public key in PEM"}
