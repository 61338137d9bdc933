"""One workflow function on another engine: what the function asks for, what the engine has to give."""

from perdure.platform.context import run_on
from perdure.platform.engine import BodyFailed, Platform
from perdure.platform.steps import Steps

__all__ = ["BodyFailed", "Platform", "Steps", "run_on"]
