"""`perdure sink`: what operators see of sinks, and do about events that were given up."""

import asyncio

from clikit import shop as clikit_shop

from perdure import App, Terminal


def selling(url, *, broken: bool) -> App:
    """The shop with a sink that takes what it is given, or nothing."""
    app = App(url)
    app.registry = type(clikit_shop.app.registry)()
    app.workflow(clikit_shop.buy.fn)
    told: list[str] = []

    @app.sink("till", events=["started", "completed"])
    async def till(event) -> None:
        if broken:
            raise Terminal("no paper")
        told.append(f"{event.run_id} {event.kind}")

    app.told = told
    return app


def sell(app: App, *ids: str) -> None:
    async def main():
        async with app:
            for run_id in ids:
                await (await app.start("buy", "tea", id=run_id)).result()

    asyncio.run(main())


def test_what_was_given_up_is_listed_replayed_and_skipped(shop):
    """Nobody could find out what a receiver has missed, or make up for it."""
    assert shop.done("sink", "list").err.startswith("No sinks.")
    sell(selling(shop.url, broken=True), "a", "b")
    assert shop.done("sink", "list", "--json").json["sinks"][0]["dead"] == 2
    assert "till" in shop.done("sink", "list").out
    listed = shop.done("sink", "dead", "till", "--json").json["dead"]
    assert [(event["run_id"], event["seq"], event["error"]) for event in listed] == [
        ("a", 0, "Terminal: no paper"), ("b", 0, "Terminal: no paper"),
    ]  # fmt: skip
    assert "no paper" in shop.done("sink", "dead", "till").out
    assert "There may be more" in shop.done("sink", "dead", "till", "--limit", 1).err
    assert shop.done("sink", "skip", "till", "b", "--json").json == {"sink": "till", "run": "b", "skipped": 0}
    assert "1 run(s)" in shop.done("sink", "replay", "till", "--run", "a").out
    assert shop.done("sink", "replay", "till", "--json").json == {"sink": "till", "replayed": 0}
    assert shop.done("sink", "dead", "till").err.startswith("No events")
    repaired = selling(shop.url, broken=False)
    sell(repaired)
    assert sorted(repaired.told) == ["a completed", "a started", "b completed"]


def test_a_sink_is_removed(shop):
    """A sink that no app has any more would keep runs from being pruned for ever."""
    sell(selling(shop.url, broken=True), "a")
    assert shop.done("db", "prune", "--older-than", "0s", "--json").json == {"removed": 0}
    assert "removed" in shop.done("sink", "remove", "till").out
    assert shop.run("sink", "remove", "till", "--json").problem["code"] == "unknown_sink"
    assert shop.done("db", "prune", "--older-than", "0s", "--json").json == {"removed": 1}


def test_a_prune_that_does_not_wait_for_sinks(shop):
    """Who knows that a sink is gone could not make room."""
    sell(selling(shop.url, broken=True), "a")
    assert shop.done("db", "prune", "--older-than", "0s", "--undelivered", "--json").json == {"removed": 1}
