"""Exit codes, and how errors look."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from perdure import errors
from perdure.cli.exits import MEANINGS, error_classes
from perdure.cli.main import _report

CLASSES = error_classes()


def test_the_table_knows_every_class_of_error(terminal):
    """A new class of error would end a command with a code that nobody explains."""
    assert {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.PerdureError)} == {
        *CLASSES
    }
    rows = terminal.done("exit-codes", "--json").json["exit_codes"]
    assert [row["exit_code"] for row in rows] == sorted(MEANINGS)
    listed = {code: row["exit_code"] for row in rows for code in row["errors"]}
    assert listed == {cls.code: cls.exit_code for cls in CLASSES}
    assert all(row["meaning"] for row in rows)


def test_the_table_for_people(terminal):
    """`perdure exit-codes` would not tell what a script may get."""
    lines = terminal.done("exit-codes").out.splitlines()
    assert len(lines) == 1 + len(MEANINGS)
    assert any(line.startswith("4 ") and "run_not_found" in line for line in lines)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_each_error_as_json_and_as_text(cls, capsys):
    """A script could not tell errors apart, or would get a traceback instead of one."""
    error = cls.__new__(cls)
    error.args = ("it is so\x1b[31m",)
    error.run_id = "a"
    assert _report(error, as_json=True, debug=False) == cls.exit_code
    problem = json.loads(capsys.readouterr().err)
    assert problem == {"code": cls.code, "message": "it is so\x1b[31m", "exit_code": cls.exit_code, "run_id": "a"}
    assert _report(error, as_json=False, debug=False) == cls.exit_code
    assert capsys.readouterr().err == "Error: it is so\\x1b[31m\n"


def test_the_cause_of_a_failure_is_told(capsys):
    """`run start --wait --json` would not say why the run failed."""
    _report(errors.RunFailed("a", ValueError("no")), as_json=True, debug=False)
    assert json.loads(capsys.readouterr().err)["cause"] == {"type": "builtins:ValueError", "message": "no"}


def test_an_unexpected_error_is_short_without_debug(capsys):
    """A bug would cover the screen with frames, or with --debug not show any."""
    with pytest.raises(ZeroDivisionError) as caught:
        raise ZeroDivisionError("by zero")
    assert _report(caught.value, as_json=False, debug=False) == 1
    short = capsys.readouterr().err
    assert "ZeroDivisionError: by zero" in short
    assert "Traceback" not in short
    assert _report(caught.value, as_json=False, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_command_line(terminal):
    """A script that asks for JSON would get the usage text instead of an error that it can read."""
    answer = terminal.run("run", "lst")
    assert answer.code == 2
    assert "No such command 'lst'. Did you mean 'list'?" in answer.err
    answer = terminal.run("run", "list", "--limit", "0", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert answer.problem["code"] == "usage_error"
    assert "--limit" in answer.problem["message"]


def test_flags_behind_two_dashes_are_words(shop):
    """A run named --json could not be shown."""
    answer = shop.run("run", "show", "--", "--json")
    assert answer.code == 4
    assert answer.err.startswith("Error: There is no run with the id '--json'")


def test_a_group_alone_shows_its_help(terminal):
    """`perdure run` would say no more than that a command is missing."""
    answer = terminal.run("run")
    assert answer.code == 2
    assert "Error" not in answer.err
    assert "signal " in answer.err


def test_help_does_not_import_pydantic():
    """`perdure --help` would take a tenth of a second longer."""
    code = (
        "import sys\nfrom perdure.cli.main import main\nsys.argv = ['perdure', '--help']\ntry:\n    main()\n"
        "except SystemExit:\n    pass\nprint('pydantic' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "doctor" in answer.stdout
    assert answer.stdout.splitlines()[-1] == "False"


def test_an_interrupt_while_the_command_is_loaded_is_no_error():
    """Ctrl-C in the first moments would print a traceback through other people's modules."""
    code = (
        "import sys\nclass Key:\n    def find_spec(self, name, *_):\n        if name == 'typer':\n"
        "            raise KeyboardInterrupt\nsys.meta_path.insert(0, Key())\n"
        "from perdure.cli.__main__ import main\nmain()"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (130, "", "")
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["perdure"] == "perdure.cli.__main__:main"


def test_version(terminal):
    """Nobody could tell which perdure reports a bug."""
    assert terminal.done("--version").out.startswith("perdure 0.")
