"""`perdure run annotate`, `perdure run annotations` and `perdure usage`."""

import asyncio

from perdure import App, Context, current_step


def test_remarks_are_made_and_listed(shop):
    """An operator's reason for what he did would stand nowhere."""
    shop.bought("a")
    assert shop.done("run", "annotations", "a").err.startswith("No remarks.")
    shop.done(
        "run", "annotate", "a", "approval.outcome", "yes", "--actor", "ada", "--actor-kind", "human", "--dedupe", "t"
    )
    assert "already" in shop.done("run", "annotate", "a", "approval.outcome", "no", "--dedupe", "t").out
    shop.done("run", "annotate", "a", "seen", '{"by": 2}', "--scope", "step", "--scope-id", "price")
    listed = shop.done("run", "annotations", "a", "--json").json["annotations"]
    assert [(each["key"], each["value"], each["scope"], each["scope_id"]) for each in listed] == [
        ("approval.outcome", "yes", "run", None), ("seen", {"by": 2}, "step", "price"),
    ]  # fmt: skip
    assert listed[0]["actor"] == {"id": "ada", "kind": "human", "version": ""}
    text = shop.done("run", "annotations", "a", "--prefix", "approval.").out
    assert "ada" in text
    assert "seen" not in text
    assert shop.run("run", "annotate", "nobody", "k", "v", "--json").problem["code"] == "run_not_found"


def test_usage_is_summed_up(shop):
    """Nobody would know what was paid for."""
    app = App(shop.url)

    @app.workflow
    async def ask(ctx: Context) -> None:
        def body() -> None:
            current_step().usage("gpt", provider="openai", topic="research.search", input_tokens=1200, cost="0.0125")

        await ctx.step("ask", body)

    async def main():
        async with app:
            await (await app.start(ask, id="a")).result()

    asyncio.run(main())
    total = shop.done("usage", "--json").json["total"]
    assert (total["calls"], total["input_tokens"], total["cost"]) == (1, 1200, "0.0125")
    assert shop.done("usage", "--run", "a", "--topic", "research", "--json").json["models"]["openai/gpt"]["calls"] == 1
    assert shop.done("usage", "--model", "other", "--json").json["total"]["cost"] == "0"
    text = shop.done("usage", "--run", "a").out
    assert "openai/gpt" in text
    assert "1,200" in text
