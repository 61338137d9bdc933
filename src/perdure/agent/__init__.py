"""A toolbox for agents: what telemetry may show, which sub-agent a message is for, whether a profile is sound."""

from perdure.agent.intent import Classified, Matcher, classify_intent
from perdure.agent.profile import AgentProfile, Conformance, SubAgent, check_profile
from perdure.agent.telemetry import REDACTED, Disclosure, Summary, sanitised, sse_run_event, telemetry

__all__ = [
    "REDACTED",
    "AgentProfile",
    "Classified",
    "Conformance",
    "Disclosure",
    "Matcher",
    "SubAgent",
    "Summary",
    "check_profile",
    "classify_intent",
    "sanitised",
    "sse_run_event",
    "telemetry",
]
