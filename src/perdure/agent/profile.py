"""Whether what an agent is made of can work: prompts long enough to say something, tools that somebody provides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from perdure.model.check import check_texts

SHELL = frozenset({"bash", "sh", "shell", "python", "node", "curl", "web", "browser"})
"""Capabilities of the place where an agent runs, which are no tools to be declared."""
LEAST_PROMPT = 800
LEAST_DESCRIPTION = 40
LEAST_SUB_PROMPT = 100
SCAFFOLD = ("todo", "lorem ipsum", "<your ", "[your ", "placeholder", "example agent")
"""What a template leaves behind."""


@dataclass(frozen=True, slots=True)
class SubAgent:
    """An agent that another one hands work to, by its description."""

    name: str
    description: str
    prompt: str


@dataclass(frozen=True, slots=True)
class AgentProfile:
    """
    What an agent is made of.

    Attributes:
        prompt: Its system prompt.
        tools: Names of the tools that it is told of.
        provided: Names of the tools that something provides: functions, MCP servers.

    Raises:
        InvalidOption: `tools` or `provided` are not names.
    """

    prompt: str
    tools: Collection[str] = ()
    provided: Collection[str] = ()
    subagents: Collection[SubAgent] = ()

    def __post_init__(self) -> None:
        for option in ("tools", "provided"):
            object.__setattr__(self, option, check_texts(f"AgentProfile({option})", getattr(self, option)))


@dataclass(frozen=True, slots=True)
class Remark:
    """
    Something that is wrong with a profile.

    Attributes:
        code: Stable name of the rule.
        path: Which part of the profile it is about, such as "subagents.billing.prompt".
    """

    severity: Literal["error", "warning"]
    code: str
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Conformance:
    """What was found; it is valid without errors."""

    errors: list[Remark]
    warnings: list[Remark]

    @property
    def valid(self) -> bool:
        """Whether there are no errors."""
        return not self.errors


def check_profile(
    profile: AgentProfile, *, least_prompt: int = LEAST_PROMPT, allowed: Iterable[str] = (), strict: bool = False
) -> Conformance:
    """
    Look for what makes agents fail that look complete.

    Args:
        least_prompt: Characters that a system prompt has at least, without surrounding space.
        allowed: Tools that may be declared although nothing is known to provide them.
        strict: Remains of a template are errors, not warnings.
    """
    found = [
        *_prompt(profile, least_prompt),
        *_tools(profile, frozenset(check_texts("allowed", allowed))),
        *_subagents(profile, strict=strict),
    ]
    return Conformance(
        [remark for remark in found if remark.severity == "error"],
        [remark for remark in found if remark.severity == "warning"],
    )


def _prompt(profile: AgentProfile, least: int) -> Iterator[Remark]:
    size = len(profile.prompt.strip())
    if size < least:
        problem = f"The system prompt has {size} characters, at least {least} are needed to say who does what, and how."
        yield Remark("error", "system_prompt_too_short", "prompt", problem)


def _tools(profile: AgentProfile, allowed: frozenset[str]) -> Iterator[Remark]:
    for tool in profile.tools:
        path = f"tools.{tool}"
        if tool in allowed:
            continue
        if tool.lower() in SHELL:
            problem = f"{tool!r} is a capability of the place where the agent runs, not a tool to declare."
            yield Remark("error", "shell_capability_as_tool", path, problem)
        elif tool not in profile.provided:
            problem = f"{tool!r} is declared, and nothing provides it: the model will call it in vain."
            yield Remark("error", "tool_without_provider", path, problem)


def _subagents(profile: AgentProfile, *, strict: bool) -> Iterator[Remark]:
    for agent in profile.subagents:
        for part, text, least in (
            ("description", agent.description, LEAST_DESCRIPTION),
            ("prompt", agent.prompt, LEAST_SUB_PROMPT),
        ):
            path = f"subagents.{agent.name}.{part}"
            if len(text.strip()) < least:
                problem = f"It has {len(text.strip())} characters, at least {least} are needed."
                yield Remark("error", f"subagent_{part}_too_short", path, problem)
            left = [phrase for phrase in SCAFFOLD if phrase in text.lower()]
            if left:
                problem = f"{left[0]!r} has been left over from a template."
                yield Remark("error" if strict else "warning", "subagent_scaffold_left", path, problem)
