"""A sink that posts events to a URL, signed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from perdure.clock import SECOND, Clock, SystemClock
from perdure.errors import DeliveryFailed, InvalidOption, RetryAfter, Terminal
from perdure.model.event import Event
from perdure.outbox.signature import ID, SIGNATURE, TIMESTAMP, keys_of, sign

if TYPE_CHECKING:
    import httpx

GONE = 410
BUSY = (429, 503)


class Webhook:
    """
    Post events as JSON: ``app.sink("billing", Webhook("https://example.com/hook", secret), events=["completed"])``.

    Each request has the headers ``webhook-id`` (the event's id, the same for each attempt), ``webhook-timestamp``
    (seconds since 1970, of this attempt) and ``webhook-signature``; `perdure.outbox.signature.verify` checks them. Any
    2xx is success; 410 gives the sink up at once; 429 and 503 are heeded if they say after how many seconds to try
    again; anything else, a redirect too, is tried again by the sink's policy. Certificates are checked.

    Args:
        url: http or https.
        secret: Shared with the receiver, 16 bytes or more: ``whsec_`` and base64, or any text. Of several, all sign.
        headers: Sent with each request, such as an authorization.
        ca: A file of certificates to trust instead of the usual ones.
        clock, transport: For tests.
    """

    def __init__(
        self,
        url: str,
        secret: str | Iterable[str],
        *,
        headers: Mapping[str, str] | None = None,
        ca: str | None = None,
        clock: Clock | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if importlib.util.find_spec("httpx") is None:
            option = "Webhook"
            raise InvalidOption(option, "it needs httpx: pip install 'perdure[webhooks]'")
        parts = urlsplit(url or "")
        self.host = parts.hostname or ""
        if parts.scheme not in {"http", "https"} or not self.host:
            option = "url"
            raise InvalidOption(option, f"{parts.scheme}://{self.host} is no address of a web server")
        self._url = url
        self._keys = keys_of(secret)
        self._headers = {"content-type": "application/json", "user-agent": "perdure", **(headers or {})}
        self._ca = ca
        self._clock = clock or SystemClock()
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"<webhook at {self.host}>"

    async def __call__(self, event: Event) -> None:
        """
        Post one event.

        Raises:
            DeliveryFailed: No connection, or an answer that is no success.
            RetryAfter: The receiver asks to wait.
            Terminal: It is gone for good.
        """
        import httpx  # noqa: PLC0415 - an extra, and it takes its time

        body = event.json().encode()
        timestamp = self._clock.now() // SECOND
        headers = {
            ID: event.id.encode("ascii", "backslashreplace").decode(), TIMESTAMP: str(timestamp),
        }  # fmt: skip
        headers[SIGNATURE] = sign(self._keys, headers[ID], timestamp, body)
        try:
            answer = await self._open().post(self._url, content=body, headers=self._headers | headers)
        except httpx.HTTPError as error:
            # Neither the address nor what the library says of it: both may hold secrets.
            raise DeliveryFailed(self.host, type(error).__name__) from None
        if answer.is_success:
            return
        status = f"it was answered with status {answer.status_code}"
        if answer.status_code == GONE:
            raise Terminal(status)
        wait = answer.headers.get("retry-after", "")
        if answer.status_code in BUSY and wait.isdecimal():
            raise RetryAfter(int(wait), status)
        raise DeliveryFailed(self.host, status)

    def _open(self) -> httpx.AsyncClient:
        import httpx  # noqa: PLC0415 - as above

        if self._client is None:
            import ssl  # noqa: PLC0415 - as above

            verify = ssl.create_default_context(cafile=self._ca) if self._ca else True
            # The sink has a timeout of its own, for all of it.
            self._client = httpx.AsyncClient(
                transport=self._transport, verify=verify, follow_redirects=False,
                timeout=None,  # noqa: S113 - the sink has one, for all of it
            )  # fmt: skip
        return self._client

    async def aclose(self) -> None:
        """Close its connections; they are opened again when needed."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
