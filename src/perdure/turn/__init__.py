"""Turns: answers that stream while they are made, and go on when their process dies."""

from importlib import import_module
from typing import TYPE_CHECKING

from perdure.turn.chat import ChatAnswer, ChatIdentity, ChatOptions, handle_chat_turn
from perdure.turn.follow import TurnEvent, follow, interrupt, regenerate
from perdure.turn.log import Event, said
from perdure.turn.producer import Turn, TurnResult
from perdure.turn.spool import SpooledProcess
from perdure.turn.sse import ServerSentEvent
from perdure.turn.supervise import Adapter, Supplied, supervise
from perdure.turn.workflow import TurnOptions

if TYPE_CHECKING:
    from perdure.turn.source import HttpEvents
else:

    def __getattr__(name: str) -> object:
        """Import what needs `perdure[sse]` when it is asked for."""
        if name != "HttpEvents":
            problem = f"module 'perdure.turn' has no attribute {name!r}"
            raise AttributeError(problem)
        return import_module("perdure.turn.source").HttpEvents


__all__ = [
    "Adapter",
    "ChatAnswer",
    "ChatIdentity",
    "ChatOptions",
    "Event",
    "HttpEvents",
    "ServerSentEvent",
    "SpooledProcess",
    "Supplied",
    "Turn",
    "TurnEvent",
    "TurnOptions",
    "TurnResult",
    "follow",
    "handle_chat_turn",
    "interrupt",
    "regenerate",
    "said",
    "supervise",
]
