"""The server's clock, by which all who use a database go; see docs/adr/0012-one-clock.md."""

from __future__ import annotations

import logging

from perdure.clock import SECOND, ComparedClock

NOW = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"
SERVER_TIME = f"select {NOW}"
SKEW_LIMIT = 1 * SECOND
"""A machine whose clock differs by more than this is reported."""
log = logging.getLogger("perdure.store")


class ServerClock(ComparedClock):
    """This machine's clock, corrected by the server's; tells if they differ by much."""

    _reported = 0

    def told(self, before: int, theirs: int) -> None:
        """
        The server has just said what time it is.

        Args:
            before: `reading` before it was asked.
            theirs: The answer.
        """
        self.compare(before, theirs, self.reading())
        if abs(self.correction - self._reported) > SKEW_LIMIT:
            self._reported = self.correction
            log.warning(
                "this machine's clock is %.1f s %s that of the database server; perdure goes by the server's. "
                "Keep both right, with NTP for example",
                abs(self.correction) / SECOND,
                "behind" if self.correction > 0 else "ahead of",
            )
