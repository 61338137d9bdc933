"""The hub that tells those who wait in this process."""

import asyncio

from perdure.store.changes import Changes


def play(main):
    return asyncio.run(main(Changes()))


def tell(changes, changed=(), ended=(), mail=(), *, due=False):
    changes.committed(set(changed), dict.fromkeys(ended), set(mail), due=due)


async def told(follower):
    """Whether a follower has been told since the last time."""
    try:
        async with asyncio.timeout(0):
            await follower.behind(0)
    except TimeoutError:
        return False
    return True


def test_only_those_who_are_concerned_are_told():
    """Everybody would look after each commit, or the one who waits would not."""

    async def main(changes):
        one, other = changes.follow(1), changes.follow(2)
        tell(changes, changed=[1, 3])
        assert (await told(one), await told(other)) == (True, False)
        tell(changes, changed=[2])
        assert (await told(one), await told(other)) == (False, True)

    play(main)


def test_who_waits_for_an_end_is_not_told_of_steps():
    """Whoever waits for a result would read the run after each of its steps."""

    async def main(changes):
        ender = changes.watch(1)
        tell(changes, changed=[1])
        assert not ender.done()
        tell(changes, changed=[1], ended=[1])
        assert ender.done()

    play(main)


def test_all_who_watch_one_run_are_told():
    """The second waiter for a result would wait for ever."""

    async def main(changes):
        waiters = [changes.watch(1) for _ in range(5)]
        waiters[2].cancel()
        await asyncio.sleep(0)
        tell(changes, ended=[1])
        assert [waiter.done() for waiter in waiters] == [True] * 5
        assert [waiter.cancelled() for waiter in waiters] == [False, False, True, False, False]

    play(main)


def test_a_watch_is_over_when_it_was_told_or_given_up():
    """The hub would grow with every result that anybody ever waited for (I10)."""

    async def main(changes):
        assert not changes.watched
        first, second, third = changes.follow(1), changes.watch(2), changes.follow(1)
        assert changes.watched
        assert changes.awaited == [2]
        first.close()
        assert changes.watched
        third.close()
        tell(changes, ended=[2])
        await second
        await asyncio.sleep(0)
        assert not changes.watched
        assert changes.awaited == []

    play(main)


def test_a_new_watch_is_not_disturbed_by_the_end_of_an_old_one():
    """A waiter that looks again at once would be forgotten together with its former self."""

    async def main(changes):
        changes.watch(1)
        tell(changes, ended=[1])
        again = changes.watch(1)
        await asyncio.sleep(0)
        tell(changes, ended=[1])
        assert again.done()

    play(main)


def test_listeners_hear_of_due_runs_and_of_mail():
    """A worker would not look for what it could drive, or would look for nothing."""

    async def main(changes):
        heard = []
        changes.on_due(lambda _: heard.append("due"))
        changes.on_mail(heard.append)
        tell(changes, changed=[1])
        assert heard == []
        tell(changes, due=True)
        tell(changes, mail=[4, 5])
        assert heard == ["due", {4, 5}]

    play(main)


def test_a_listener_that_left_hears_nothing_more():
    """A worker that has stopped would claim runs."""

    async def main(changes):
        heard = []

        def once(_elsewhere):
            heard.append("once")
            changes.forget(once)

        changes.on_due(once)
        changes.on_due(lambda _: heard.append("always"))
        for _ in range(2):
            tell(changes, due=True)
        changes.forget(once)
        assert heard == ["once", "always", "always"]

    play(main)


def test_another_processs_commit_may_concern_everybody():
    """Somebody who waits for a run of another process would wait for ever."""

    async def main(changes):
        heard = []
        changes.on_due(lambda _: heard.append("due"))
        changes.on_mail(heard.append)
        follower, ender = changes.follow(1), changes.watch(2)
        changes.committed_elsewhere()
        assert heard == ["due", None]
        assert (await told(follower), ender.done()) == (True, True)

    play(main)


def test_of_those_who_wait_for_an_end_only_the_known_ends_are_told():
    """Each commit of another process would wake all who wait for results."""

    async def main(changes):
        follower = changes.follow(3)
        enders = {number: changes.watch(number) for number in (1, 2)}
        changes.committed_elsewhere({1})
        assert {number: ender.done() for number, ender in enders.items()} == {1: True, 2: False}
        assert await told(follower)

    play(main)
