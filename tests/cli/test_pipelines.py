"""`perdure pipeline`, and runs of pipelines on the command line."""


def test_show(shop):
    """Somebody cannot see which stages a pipeline has, or what they can be told."""
    text = shop.done("pipeline", "show", "papers", "--app", "clikit.shop:app").out
    lines = [line.split() for line in text.splitlines()]
    assert lines == [
        ["GROUP", "STAGE", "KIND", "DEFAULTS"], ["1", "read", "stage"], ["2", "count", "stage", "least=1"],
        ["2", "last", "stage"],
    ]  # fmt: skip
    diagram = shop.done("pipeline", "show", "papers", "--mermaid", "--app", "clikit.shop:app").out
    assert diagram.startswith("flowchart TD")
    data = shop.done("pipeline", "show", "papers", "--json", "--app", "clikit.shop:app").json
    assert data["order"] == "read → count + last"
    assert shop.run("pipeline", "show", "papers").code == 2
    assert shop.run("pipeline", "show", "buy", "--app", "clikit.shop:app").code == 2


def test_show_a_run(shop):
    """Somebody cannot see how far a run has come."""
    given = ("--app", "clikit.shop:app")
    shop.play(lambda app: _result(app, "a bb", {"count": {"least": 2}}))
    shown = shop.done("pipeline", "show", "papers", "--run", "p", *given).out
    assert [line.split()[-1] for line in shown.splitlines()] == ["STATUS", "completed", "completed", "completed"]
    assert shop.run("pipeline", "show", "papers", "--run", "nobody", *given).code == 4


def test_start_checks_the_config(shop):
    """A run is started whose config its stages do not understand."""
    words = ("run", "start", "papers", "--app", "clikit.shop:app", "--json")
    refused = shop.run(*words, "a bb", '{"count": {"least": "many"}, "nobody": {}}')
    assert (refused.code, refused.problem["code"]) == (2, "invalid_config")
    assert [problem.partition(":")[0] for problem in refused.problem["problems"]] == ["nobody", "count.least"]
    assert shop.done("run", "list", "--json").json["runs"] == []
    shop.done(*words, "a bb", '{"count": {"least": 2}}')


def test_rerun_from_a_stage(shop):  # A061 A062
    """A run cannot be done again from a stage by its name."""
    shop.play(lambda app: _result(app, "a bb", {}))
    given = ("--app", "clikit.shop:app", "--json")
    assert shop.run("run", "rerun", "p", "--from", "nobody", *given).code == 2
    assert shop.run("run", "rerun", "p", "--from", "count", "--keep", *given).code == 2
    assert shop.run("run", "rerun", "p", "--from", "count").code == 2  # nobody knows its stages without the app
    shown = shop.done("run", "rerun", "p", "--from", "last", *given).json
    assert (shown["run"]["generation"], shown["run"]["status"]) == (2, "queued")
    painted = shop.done("pipeline", "show", "papers", "--run", "p", *given).json
    assert [stage["status"] for group in painted["groups"] for stage in group["stages"]] == [
        "completed", "pending", "pending",
    ]  # fmt: skip
    forked = shop.done("run", "fork", "p", "--from", "read", "--id", "f", *given).json
    assert forked["run"]["id"] == "f"


def test_artifacts(shop, tmp_path):  # A029
    """What a run keeps cannot be listed, or comes out as something else."""
    shop.play(lambda app: _result(app, "a bb", {}))
    listed = shop.done("run", "artifacts", "p")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "scan", "text.txt", "words/all"]
    found = shop.done("run", "artifacts", "p", "--json").json["artifacts"]
    assert [(one["name"], one["media_type"], one["size"], one["step"]) for one in found] == [
        ("scan", "application/octet-stream", 2, "read"), ("text.txt", "text/plain", 4, "read"),
        ("words/all", "application/json", 10, "read"),
    ]  # fmt: skip
    assert shop.done("run", "artifact", "p", "text.txt").out == "a bb"
    assert shop.done("run", "artifact", "p", "text.txt", "--json").json == "a bb"
    assert shop.done("run", "artifact", "p", "words/all").json == ["a", "bb"]
    for name, content in (("scan", b"\x00\xff"), ("text.txt", b"a bb")):
        file = tmp_path / "taken"
        shop.done("run", "artifact", "p", name, "--to", file)
        assert file.read_bytes() == content
        assert shop.run("run", "artifact", "p", name, "--to", file).code == 2
        file.unlink()
    assert shop.run("run", "artifact", "p", "scan", "--json").code == 2
    assert shop.run("run", "artifact", "p", "nothing").code == 4
    assert shop.done("run", "artifacts", shop.bought("b") or "b").err == "No artifacts.\n"


async def _result(app, *args):
    return await (await app.start("papers", *args, id="p")).result()
