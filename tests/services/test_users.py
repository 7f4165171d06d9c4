"""Identification of users by name, by passcode, and by a signed token."""

import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pacs.errors import ConfigurationError, UserRefused
from pacs.services.tokens import subject_checker
from pacs.services.users import Credentials, User, Users, check_hash, hash_passcode

ALICE, BOB = User("alice", hash_passcode("open sesame")), User("bob")
SECRET = "a secret of more than thirty-two bytes"


def test_only_the_right_passcode_is_accepted():
    """No passcode and another user's name are refused too."""
    users = Users([ALICE, BOB], "optional")
    assert users.identify(Credentials(name="alice", passcode="open sesame")) == "alice"
    for name, passcode in (("alice", "open"), ("alice", ""), ("alice", None), ("eve", "open sesame"), ("", "")):
        with pytest.raises(UserRefused):
            users.identify(Credentials(name=name, passcode=passcode))


def test_a_name_is_enough_where_the_user_has_no_passcode():
    """Any passcode is accepted with it."""
    users = Users([ALICE, BOB], "required")
    assert users.identify(Credentials(name="bob")) == "bob"
    assert users.identify(Credentials(name="bob", passcode="x")) == "bob"


def test_a_user_must_be_named_only_where_one_is_required():
    """With "ignored" no user is identified; with "optional" a user that is named must be known."""
    assert Users(demand="ignored").identify(Credentials(name="eve", passcode="x")) == ""
    assert Users(demand="optional").identify(None) == ""
    with pytest.raises(UserRefused, match=r"access\.users"):
        Users(demand="required").identify(None)
    with pytest.raises(UserRefused, match="not supported"):
        Users(demand="optional").identify(Credentials())


def test_a_hash_does_not_reveal_the_passcode_and_differs_each_time():
    """It is salted, and other texts are refused as hash."""
    assert hash_passcode("open sesame") != hash_passcode("open sesame")
    assert "sesame" not in hash_passcode("open sesame")
    check_hash(ALICE.passcode)
    for wrong in ("open sesame", "scrypt$1$2$3", "scrypt$99999999$8$1$AA==$AA==", "md5$16384$8$1$AA==$AA==", "$" * 5):
        with pytest.raises(ValueError, match="pacs passcode"):
            check_hash(wrong)


def claims(**others: object) -> dict[str, object]:
    """Return the claims of a valid token."""
    return {"sub": "carol", "exp": time.time() + 60, "aud": "pacs", "iss": "door"} | others


def test_a_token_signed_with_the_secret_names_its_subject():
    """The algorithm is HS256."""
    users = Users(demand="required", subject_of=subject_checker(SECRET, "HS256", "pacs", "door"))
    assert users.identify(Credentials(token=jwt.encode(claims(), SECRET, "HS256"))) == "carol"


@pytest.mark.parametrize(
    ("changed", "key", "algorithm"),
    [
        ({"exp": time.time() - 60}, SECRET, "HS256"),
        ({"exp": None}, SECRET, "HS256"),
        ({"aud": "another"}, SECRET, "HS256"),
        ({"iss": "another"}, SECRET, "HS256"),
        ({"sub": None}, SECRET, "HS256"),
        ({"nbf": time.time() + 3600}, SECRET, "HS256"),
        ({}, "another secret of more than thirty-two bytes", "HS256"),
        ({}, SECRET * 2, "HS512"),
        ({}, None, "none"),
    ],
)
def test_an_invalid_token_is_refused(changed, key, algorithm):
    """Expired, other audience or issuer, no subject, or another key or algorithm."""
    kept = {name: value for name, value in (claims() | changed).items() if value is not None}
    users = Users(demand="optional", subject_of=subject_checker(SECRET, "HS256", "pacs", "door"))
    with pytest.raises(UserRefused):
        users.identify(Credentials(token=jwt.encode(kept, key, algorithm)))


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 10_000, "\0", "é"])
def test_a_text_that_is_no_token_is_refused(token):
    """It may be any text."""
    with pytest.raises(UserRefused):
        Users(demand="optional", subject_of=subject_checker(SECRET, "HS256")).identify(Credentials(token=token))
    with pytest.raises(UserRefused, match=r"jwt\.key"):
        Users(demand="optional").identify(Credentials(token=token))


def test_a_token_signed_with_a_private_key_is_checked_with_the_public_one():
    """ES256; the public key is no secret for The algorithm is HS256."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    check = subject_checker(public.decode(), "ES256")
    assert check(jwt.encode({"sub": "dan", "exp": time.time() + 60}, private, "ES256")) == "dan"
    with pytest.raises(ConfigurationError, match=r"jwt\.key"):
        subject_checker(public.decode(), "HS256")
    with pytest.raises(ConfigurationError, match="a public key in PEM"):
        subject_checker(SECRET, "ES256")
