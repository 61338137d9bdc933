"""A Postgres URL: what of it is perdure's own, and how to connect."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from perdure.errors import InvalidOption

CONNECT_S = 10.0
MAX_SCHEMA = 48
"""Bytes of a schema's name; the channel of its notifications is named after it."""


@dataclass(frozen=True, slots=True)
class Address:
    """
    Where the database is, and how perdure uses it.

    Attributes:
        dsn: For the driver.
        schema: Where perdure's tables are.
        listen: Whether to be told of other processes' commits by LISTEN; without it, perdure asks for them.
        pooled: Connections lead to a transaction-mode pooler: nothing is kept on them between transactions.
    """

    dsn: str
    schema: str = "perdure"
    listen: bool = True
    pooled: bool = False

    @property
    def where(self) -> str:
        """What errors call it: no password."""
        parts = urlsplit(self.dsn)
        place = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "")
        return f"{place}{parts.path}, schema {self.schema}"

    async def connect(self, **settings: str) -> asyncpg.Connection:
        """
        A new connection.

        Args:
            settings: Of the session; a pooler would refuse them, so it gets none.

        Raises:
            InvalidOption: The driver cannot read the URL: its port, or one of the parameters that are the driver's.
        """
        server = {} if self.pooled else {"application_name": "perdure", **settings}
        if "application_name" in dict(parse_qsl(urlsplit(self.dsn).query)):
            # The driver would put ours over it.
            server.pop("application_name", None)
        try:
            return await asyncpg.connect(
                self.dsn, timeout=CONNECT_S, server_settings=server, statement_cache_size=0 if self.pooled else 200,
                max_cached_statement_lifetime=0,
            )  # fmt: skip
        except ValueError as error:  # the driver's only way to say that it cannot read the URL
            option = "url"
            raise InvalidOption(option, f"{error} ({self.where})") from error

    def on_standby(self, connection: asyncpg.Connection) -> bool:
        """Whether the server follows another one, and may lack its last commits."""
        # What a pooler says of its server may be old; there the first statement that writes tells.
        return not self.pooled and getattr(connection.get_settings(), "in_hot_standby", "off") == "on"

    def check_primary(self, connection: asyncpg.Connection) -> None:
        """
        Let go of a server that follows another one.

        Raises:
            asyncpg.ReadOnlySQLTransactionError: It does, as it would say to the first statement that writes.
        """
        if self.on_standby(connection):
            connection.terminate()
            problem = "the server is a standby"
            raise asyncpg.ReadOnlySQLTransactionError(problem)


def address(url: str) -> Address:
    """
    Take a URL apart: `postgresql://user:password@host/database?schema=perdure&listen=off&pooler=transaction`.

    Everything that is not perdure's own (sslmode, …) goes to the driver.

    Raises:
        InvalidOption: It is no URL, or one of perdure's own parameters has a value that it does not know.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        option = "url"
        raise InvalidOption(option, f"{error}; write postgresql://user@host/database") from error
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = given.pop("schema", "perdure")
    pooler, listen = given.pop("pooler", "off"), given.pop("listen", None)
    if not schema or len(schema.encode()) > MAX_SCHEMA or "\0" in schema:
        option = "url schema"
        raise InvalidOption(option, f"{schema!r} is not a name of 1 to {MAX_SCHEMA} bytes")
    for option, value, known in (("url pooler", pooler, ("off", "transaction")), ("url listen", listen, ("on", "off"))):
        if value is not None and value not in known:
            raise InvalidOption(option, f"{value!r} is neither {known[0]} nor {known[1]}")
    pooled = pooler == "transaction"
    dsn = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(given), ""))
    if not parts.netloc:
        # urlunsplit leaves the slashes out where there is no host, as with a socket's path in the query.
        dsn = f"{parts.scheme}://{parts.path}?{urlencode(given)}"
    return Address(dsn, schema, listen == "on" or (listen is None and not pooled), pooled)
