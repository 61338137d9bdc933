"""`perdure tick`: one round of due work."""


def test_a_round_drives_what_is_due_and_ends(shop):
    """A crontab would start a worker that never ends, or nothing would be driven."""
    shop.done("run", "start", "buy", "tea", "--id", "a", "--app", "clikit.shop:app")
    done = shop.done("tick", "--app", "clikit.shop:app", "--json").json
    assert (done["claimed"], done["ended"], done["more"]) == (1, 1, False)
    assert "0 run(s) taken up" in shop.done("tick", "--app", "clikit.shop:app", "--within", "1s").out
    assert shop.run("tick", "--json").problem["code"] == "invalid_option"
