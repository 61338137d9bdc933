"""Which database and which app a command is about."""

import pytest
from clikit import shop as kit

from perdure import App
from perdure.codec.payload import Compressed


def test_no_database_named(terminal):
    """A command would make up a database in whatever folder it is called in."""
    answer = terminal.run("run", "list", "--json")
    assert (answer.code, answer.problem["code"], answer.problem["option"]) == (2, "invalid_option", "--url")
    assert "--url sqlite:///file.db" in answer.problem["message"]
    assert list(terminal.folder.iterdir()) == []


def test_a_database_that_is_not_there(terminal):
    """A misspelt name would make an empty database, in which nothing is found."""
    answer = terminal.run("run", "list", "--url", "sqlite:///typo.db")
    assert answer.code == 7
    assert "no database typo.db" in answer.err
    assert list(terminal.folder.iterdir()) == []


@pytest.mark.parametrize("url", ["sqlite://", "oracle://x", "file.db"])
def test_a_database_that_cannot_be(terminal, url):
    """A database in memory would always be empty; another URL would fail without a word on what is possible."""
    answer = terminal.run("run", "list", "--url", url)
    assert answer.code == 2
    assert "sqlite:///file.db" in answer.err


def test_the_order_in_which_a_database_is_chosen(terminal, monkeypatch):
    """A command would act on another database than the one that was named."""

    def chosen(*words):
        return terminal.done("db", "info", "--json", *words).json["url"]

    for name in ("perdure", "shop", "env", "named"):
        terminal.done("db", "migrate", "--url", f"sqlite:///{name}.db")
    assert chosen() == "sqlite:///perdure.db"
    assert chosen("--app", "clikit.shop:app") == "sqlite:///shop.db"
    monkeypatch.setenv("PERDURE_APP", "clikit.shop:app")
    assert chosen() == "sqlite:///shop.db"
    monkeypatch.setenv("PERDURE_URL", "sqlite:///env.db")
    assert chosen("--app", "clikit.shop:app") == "sqlite:///env.db"
    assert chosen("--url", "sqlite:///named.db") == "sqlite:///named.db"


def test_an_app_in_the_current_folder(terminal):
    """`perdure worker orders:app` would not find orders.py next to it."""
    (terminal.folder / "cornershop.py").write_text("from perdure import App\napp = App('sqlite:///corner.db')\n")
    terminal.done("db", "migrate", "--app", "cornershop:app")
    assert (terminal.folder / "corner.db").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("shop", "write module:attribute"),
        ("clikit.shop:", "write module:attribute"),
        ("clikit.shop:none", "has no 'none'; its apps are app"),
        ("clikit.shop:not_an_app", "is a int, not a perdure App"),
        ("clikit.nowhere:app", "there is no module 'clikit.nowhere'"),
        ("nowhere.shop:app", "there is no module 'nowhere'"),
        ("broken_shop:app", "importing 'broken_shop' failed (ZeroDivisionError"),
        ("needy_shop:app", "importing 'needy_shop' failed (ModuleNotFoundError: No module named 'a_missing_one'"),
    ],
)
def test_an_app_that_cannot_be_had(shop, name, told):
    """Somebody who mistypes an app would look for the mistake in a traceback of importlib."""
    (shop.folder / "broken_shop.py").write_text("1 / 0\n")
    (shop.folder / "needy_shop.py").write_text("import a_missing_one\n")
    answer = shop.run("run", "list", "--app", name)
    assert answer.code == 2
    assert told in answer.err
    assert "Traceback" not in answer.err


def test_debug_shows_where_an_app_fails(shop):
    """An error in the user's own module could not be found."""
    (shop.folder / "bad_shop.py").write_text("def f():\n    return 1 / 0\nf()\n")
    answer = shop.run("run", "list", "--app", "bad_shop:app", "--debug")
    assert answer.code == 2
    assert 'bad_shop.py", line 2, in f' in answer.err


def test_sealed_payloads_are_read_with_the_app(terminal):
    """Runs of an app with a codec could not be looked at."""
    app = App(terminal.url, codec=Compressed(at_least=1))
    app.registry = kit.app.registry
    terminal.play(_one, app)
    (terminal.folder / "sealed_shop.py").write_text(
        f"from perdure import App, Compressed\napp = App({terminal.url!r}, codec=Compressed(at_least=1))\n"
    )
    without = terminal.run("run", "show", "a", "--url", terminal.url, "--json")
    assert (without.code, without.problem["code"]) == (7, "store_corrupt")
    told = terminal.done("run", "show", "a", "--app", "sealed_shop:app", "--json").json
    assert told["run"]["input"] == {"item": "tea"}


async def _one(app):
    await (await app.start("buy", "tea", id="a")).result()


def test_a_schema_that_does_not_fit(terminal):
    """A command of an older perdure would write into a database that it does not understand."""
    terminal.done("db", "migrate", "--url", terminal.url)
    terminal.damage("update perdure_schema set version = version + 9998")
    for words in (("run", "list"), ("db", "migrate"), ("doctor",)):
        answer = terminal.run(*words, "--url", terminal.url, "--json")
        assert (answer.code, answer.problem["code"]) == (7, "schema_too_new")


def test_a_schema_that_is_missing(terminal):
    """A command that only looks would put its tables into some other program's database."""
    terminal.damage("create table mine (x)")
    answer = terminal.run("run", "list", "--url", terminal.url, "--json")
    assert (answer.code, answer.problem["code"]) == (7, "schema_missing")
    assert "perdure db migrate" in answer.problem["message"]
    terminal.done("db", "migrate", "--url", terminal.url)
    terminal.done("run", "list", "--url", terminal.url)
