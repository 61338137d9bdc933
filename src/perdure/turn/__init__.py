"""Turns: answers that stream while they are made, and go on when their process dies."""

from perdure.turn.follow import TurnEvent, follow, interrupt, regenerate
from perdure.turn.log import Event, said
from perdure.turn.producer import Turn, TurnResult
from perdure.turn.workflow import TurnOptions, turn_workflow

__all__ = [
    "Event",
    "Turn",
    "TurnEvent",
    "TurnOptions",
    "TurnResult",
    "follow",
    "interrupt",
    "regenerate",
    "said",
    "turn_workflow",
]
