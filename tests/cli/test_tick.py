"""`perdure tick`: one round of due work."""


def test_a_round_drives_what_is_due_and_ends(shop):
    """A crontab would start a worker that never ends, or nothing would be driven."""
    shop.done("run", "start", "buy", "tea", "--id", "a", "--app", "clikit.shop:app")
    done = shop.done("tick", "--app", "clikit.shop:app", "--json").json
    assert (done["claimed"], done["ended"], done["more"]) == (1, 1, False)
    assert shop.done("tick", "--app", "clikit.shop:app", "--within", "1s").out == "Nothing was due.\n"
    assert shop.run("tick", "--json").problem["code"] == "invalid_option"


def test_a_run_that_is_paused_is_not_said_to_wait(shop):
    """Who reads the mail of his crontab would not see that runs need him: that a deployment does not fit them."""
    shop.parked("a")
    shop.damage("update perdure_journal set key = 'other' where kind = 'receive_started'")
    shop.done("run", "signal", "a", "approval", "yes")
    shop.done("run", "start", "order", "--id", "b", "--app", "clikit.shop:app")
    out = shop.done("tick", "--app", "clikit.shop:app").out
    assert out == "Runs: 2 taken up, 1 waiting, 1 paused. Nothing more is due.\n"
