"""Which sub-agent a message is for, by words and patterns: no model is asked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from perdure.errors import InvalidOption
from perdure.model.check import check_number, check_texts

PATTERN_COUNTS = 1.5
"""What a pattern that is found counts for, in keywords."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """
    What speaks for a sub-agent.

    Attributes:
        keywords: Texts, looked for anywhere in the message, whatever their case.
        patterns: Regular expressions, whatever the case.
        weight: What a keyword counts for, more than 0; a pattern counts for 1.5 of them.
        min_score: The score that it takes to be chosen, more than 0.

    Raises:
        InvalidOption: A pattern is none, a keyword is empty, or a number is out of its range.
    """

    keywords: Sequence[str] = ()
    patterns: Sequence[str] = ()
    weight: float = 1.0
    min_score: float = 1.0
    _compiled: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for option in ("Matcher(weight)", "Matcher(min_score)"):
            value = getattr(self, option[len("Matcher(") : -1])
            check_number(option, value, 0, whole=False)
            if not value:
                problem = "it must be more than 0"
                raise InvalidOption(option, problem)
        for option, texts in (("Matcher(keywords)", self.keywords), ("Matcher(patterns)", self.patterns)):
            if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                problem = "write a list of texts"
                raise InvalidOption(option, problem)
        option = "Matcher(keywords)"
        if not all(word.strip() for word in self.keywords):
            raise InvalidOption(option, "an empty text is in every message")
        try:
            compiled = tuple(re.compile(pattern, re.IGNORECASE) for pattern in self.patterns)
        except re.error as error:
            option = "Matcher(patterns)"
            raise InvalidOption(option, f"{error.pattern!r} is no regular expression: {error}") from error
        object.__setattr__(self, "_compiled", compiled)

    def score(self, message: str) -> float:
        """How much speaks for it; each keyword and each pattern counts once."""
        text = message.casefold()
        words = sum(word.casefold() in text for word in self.keywords)
        patterns = sum(bool(pattern.search(message)) for pattern in self._compiled)
        return (words + PATTERN_COUNTS * patterns) * self.weight


@dataclass(frozen=True, slots=True)
class Classified:
    """
    What was found.

    Attributes:
        name: The sub-agent that was chosen; None when nothing speaks enough for any.
        score: Its score, 0 for none.
        scores: Those of all that were looked at.
    """

    name: str | None
    score: float
    scores: dict[str, float]


def classify_intent(
    agents: Mapping[str, Matcher | Sequence[Matcher]], message: str, *, skip: Collection[str] = ()
) -> Classified:
    """
    Choose the sub-agent that a message is for.

    The highest score wins that reaches what its own matcher asks for; the first declared of equal ones. Of several
    matchers of one sub-agent each counts with its own weight, the scores add up, and the lowest `min_score` holds.

    Args:
        agents: By name, in the order in which they are preferred.
        skip: Names to leave out, such as the one that has just passed the message on.

    Raises:
        InvalidOption: `skip` are not names.
    """
    left_out = check_texts("skip", skip)
    scores: dict[str, float] = {}
    best: tuple[str | None, float] = (None, 0.0)
    for name, given in agents.items():
        matchers = [given] if isinstance(given, Matcher) else list(given)
        if name in left_out or not matchers:
            continue
        scores[name] = score = sum(matcher.score(message) for matcher in matchers)
        if score > best[1] and score >= min(matcher.min_score for matcher in matchers):
            best = (name, score)
    return Classified(*best, scores)
