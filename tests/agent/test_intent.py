"""Which sub-agent a message is for."""

import pytest

from perdure.agent import Matcher, classify_intent
from perdure.errors import InvalidOption

AGENTS = {
    "billing": Matcher(keywords=["invoice", "refund"], patterns=[r"\bcharged? twice\b"]),
    "support": Matcher(keywords=["error", "refund"], weight=2, min_score=3),
}


@pytest.mark.parametrize(
    ("message", "name", "score"),
    [
        ("Where is my INVOICE?", "billing", 1),
        ("You charged twice, I want a refund for this invoice", "billing", 3.5),
        ("An error, and a refund", "support", 4),
        ("A refund, please", "billing", 1),  # support has 2, and asks for 3
        ("Hello", None, 0),
        ("", None, 0),
    ],
)
def test_the_best_that_is_good_enough_wins(message, name, score):
    """X25: a message would go to the wrong one, or to one that nothing speaks for."""
    found = classify_intent(AGENTS, message)
    assert (found.name, found.score) == (name, score)
    assert set(found.scores) == set(AGENTS)


def test_the_first_declared_of_equal_ones():
    """X25: the choice would depend on chance."""
    same = {"b": Matcher(keywords=["x"]), "a": Matcher(keywords=["x"])}
    assert classify_intent(same, "x").name == "b"


def test_each_matcher_of_a_list_keeps_its_weight():
    """X25: the weights of a list of matchers would be dropped."""
    agents = {"a": [Matcher(keywords=["x"], weight=3), Matcher(keywords=["y"], min_score=4)], "b": []}
    found = classify_intent(agents, "x y")
    assert (found.name, found.score, found.scores) == ("a", 4, {"a": 4})
    assert classify_intent(agents, "y").score == 1, "the lowest of what is asked for holds"


def test_some_are_left_out():
    """X25: a message would come back to who has just passed it on."""
    assert classify_intent(AGENTS, "invoice", skip={"billing"}).name is None


def test_case_of_any_language():
    """A message would not be understood because of its case."""
    assert classify_intent({"a": Matcher(keywords=["STRASSE"])}, "die Straße").name == "a"


@pytest.mark.parametrize(
    "options",
    [
        {"patterns": ["("]},
        {"keywords": [""]},
        {"keywords": "refund"},
        {"weight": 0},
        {"min_score": -1},
        {"weight": "a lot"},
    ],
    ids=str,
)
def test_a_matcher_that_cannot_be_is_refused(options):
    """A mistake would be found with the first message, or never."""
    with pytest.raises(InvalidOption, match="Matcher"):
        Matcher(**options)


def test_one_name_to_skip_is_that_one():
    """Agents whose names are parts of the skipped one's would be left out too."""
    agents = {"bill": Matcher(["invoice"]), "billing": Matcher(["invoice"])}
    assert classify_intent(agents, "invoice", skip="billing").name == "bill"
    with pytest.raises(InvalidOption, match="skip: 3 are not all texts"):
        classify_intent(agents, "invoice", skip=3)
    with pytest.raises(InvalidOption, match="write a list of texts"):
        Matcher([3])
