"""A reader that follows a journal: what it is handed, and when it must look for itself."""

import asyncio

import pytest

from perdure.model.entry import Entry
from perdure.store.changes import Changes
from perdure.store.follower import MOST_HANDED


def entries(first, last):
    return [Entry(seq, "step_emitted", "s", seq) for seq in range(first, last + 1)]


def play(main):
    changes = Changes()
    follower = changes.follow(1)

    def tell(appended):
        changes.committed({1}, {}, set(), due=False, handed={} if appended is None else {1: appended})

    async def whole():
        async with asyncio.timeout(30):
            return await main(follower, tell)

    return asyncio.run(whole())


def test_what_is_committed_is_handed_on():
    """Each reader would read from the store what the commit has just written there."""

    async def main(follower, tell):
        waiting = asyncio.create_task(follower.behind(4))
        await asyncio.sleep(0)
        tell(entries(5, 6))
        assert await waiting == entries(5, 6)

    play(main)


def test_commits_that_come_before_the_reader_has_woken_are_not_lost():
    """A reader would miss what comes between its wake-up and its next wait."""

    async def main(follower, tell):
        waiting = asyncio.create_task(follower.behind(0))
        await asyncio.sleep(0)
        for seq in range(1, 4):
            tell(entries(seq, seq))
        assert await waiting == entries(1, 3)
        tell(entries(4, 4))
        tell(entries(5, 5))
        assert await follower.behind(3) == entries(4, 5)

    play(main)


def test_what_a_look_has_found_already_is_not_handed_again():
    """A commit during the look would be told twice."""

    async def main(follower, tell):
        tell(entries(1, 3))
        assert await follower.behind(2) == entries(3, 3)
        tell(entries(4, 5))
        waiting = asyncio.create_task(follower.behind(5))
        await asyncio.sleep(0)
        assert not waiting.done()
        tell(entries(6, 6))
        assert await waiting == entries(6, 6)

    play(main)


@pytest.mark.parametrize(
    "commits",
    [[entries(2, 3)], [entries(1, 1), entries(3, 3)], [None], [entries(1, 1), None], [None, entries(2, 2)]],
    ids=["gap", "gap between", "unknown", "unknown behind", "unknown before"],
)
def test_where_something_is_not_known_the_store_must_tell(commits):
    """A reader would pass over entries that somebody else has written, and never see them."""

    async def main(follower, tell):
        for appended in commits:
            tell(appended)
        assert await follower.behind(0) == []
        tell(entries(4, 4))
        assert await follower.behind(3) == entries(4, 4), "from the place of the look on it is handed again"

    play(main)


def test_a_busy_reader_is_not_waited_for():
    """What one slow client has not read would fill the memory (I10)."""

    async def main(follower, tell):
        for seq in range(1, MOST_HANDED + 2):
            tell(entries(seq, seq))
        assert not follower._handed
        assert await follower.behind(0) == []

    play(main)
