"""docs/scenarios.md: complete, and every test that it names exists."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "scenarios.md"
COUNTS = {1: 20, 2: 5, 3: 18, 4: 19, 5: 16, 6: 13, 7: 15, 8: 22, 9: 20, 10: 7}


def rows() -> dict[str, str]:
    return dict(re.findall(r"^\| (\d+-\d+) \| [^|]+ \| ([^|]+) \|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_scenario_has_a_row():
    """A scenario would be forgotten, and nobody know."""
    assert list(rows()) == [f"{group}-{n}" for group, count in COUNTS.items() for n in range(1, count + 1)]


def test_every_named_test_exists_and_names_its_scenario():
    """The table would point to a test that was renamed, or that shows something else."""
    wrong = []
    for scenario, text in rows().items():
        found = re.findall(r"`(\w+)::(\w+)`", text)
        if not found and not text.startswith("no: "):
            wrong.append(f"{scenario}: neither a test nor a reason")
        for module, name in found:
            docstring = functions(module).get(name)
            if docstring is None:
                wrong.append(f"{scenario}: {module} has no {name}")
            elif not text.startswith("no: ") and scenario not in re.findall(r"\d+-\d+", docstring):
                wrong.append(f"{scenario}: {name} does not say so")
    assert wrong == []


def functions(module: str) -> dict[str, str]:
    """The tests of a module, with their docstrings."""
    place = HERE.parent / "observe" if module == "test_hooks" else HERE
    tree = ast.parse((place / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef)}
