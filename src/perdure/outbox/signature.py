"""
Sign webhooks and check their signatures, as the Standard Webhooks specification has it.

https://github.com/standard-webhooks/standard-webhooks
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Mapping
from datetime import timedelta
from hashlib import sha256

from perdure.clock import SECOND, Clock, SystemClock, micros
from perdure.errors import InvalidOption, InvalidSignature

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
FEWEST = 16
_PREFIX = "whsec_"


def key_of(secret: object) -> bytes:
    """
    The bytes that a secret stands for: after ``whsec_`` base64, else its own in UTF-8.

    Raises:
        InvalidOption: It is no text, has less than 16 bytes, or is no base64.
    """
    option = "secret"
    if not isinstance(secret, str):
        raise InvalidOption(option, "it is no text")
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True) if secret.startswith(_PREFIX) else secret.encode()
    except NotBase64:
        raise InvalidOption(option, "what follows whsec_ is not base64") from None
    if len(key) < FEWEST:
        raise InvalidOption(option, f"it has {len(key)} bytes; {FEWEST} or more keep it from being guessed")
    return key


def keys_of(secrets: str | Iterable[str]) -> list[bytes]:
    """
    The keys of one secret, or of several.

    Raises:
        InvalidOption: There is none, or as for `key_of`.
    """
    option, given = "secret", [secrets] if isinstance(secrets, str) else list(secrets or ())
    if not given:
        raise InvalidOption(option, "there is none")
    return [key_of(each) for each in given]


def sign(keys: Iterable[bytes], event_id: str, timestamp: int, body: bytes) -> str:
    """
    The value of the header webhook-signature: one signature for each key, so that keys can be changed.

    Args:
        timestamp: Seconds since 1970.
    """
    signed = f"{event_id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{b64encode(hmac.new(key, signed, sha256).digest()).decode()}" for key in keys)


def verify(
    secret: str | Iterable[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance: float | timedelta = 300.0,
    clock: Clock | None = None,
) -> str:
    """
    Check, in a receiver, that a webhook is from somebody who has the secret, and that it is fresh.

    Args:
        secret: Or several, while they are being changed.
        headers: Of the request; names in any case.
        body: Exactly as it was received.
        tolerance: Seconds or timedelta that its time may be off.
        clock: Whose time it is compared with; the machine's when left out.

    Returns:
        The event's id, to tell a repetition by.

    Raises:
        InvalidOption: There is no secret, or it is none.
        InvalidSignature: It is not signed, by another secret, too old, or its time is in the future.
    """
    given = {name.lower(): value for name, value in headers.items()}
    event_id, sent, signatures = (given.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not (event_id and signatures and sent.isdecimal()):
        problem = f"it lacks one of the headers {ID}, {TIMESTAMP}, {SIGNATURE}"
        raise InvalidSignature(problem)
    now = (clock or SystemClock()).now() / SECOND
    if abs(now - int(sent)) > micros(tolerance, "tolerance") / SECOND:
        problem = "it was sent too long ago, or the clocks differ"
        raise InvalidSignature(problem)
    expected = sign(keys_of(secret), event_id, int(sent), body).split()
    # All are compared, in a time that does not tell which one fits.
    matches = [
        hmac.compare_digest(mine.encode(), theirs.encode()) for mine in expected for theirs in signatures.split()
    ]
    if not any(matches):
        problem = "no signature fits: another secret, or the body is not what was sent"
        raise InvalidSignature(problem)
    return event_id
