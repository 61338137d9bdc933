"""
An agent whose every turn is durable: the model and its tools are steps, so a crash costs one call at most.

    python examples/agent.py

The model is scripted, to need no key and no network; `ask_model` is where a real one goes.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from pydantic import BaseModel

from perdure import App, Context, Retry, Step, Terminal, current_step

app = App("sqlite://")
MOST_TURNS = 6


class ToolCall(BaseModel):
    tool: str
    argument: str


class Message(BaseModel):
    role: Literal["user", "model", "tool"]
    text: str = ""
    calls: list[ToolCall] = []


PATIENT = Retry(max_attempts=4, delay=0.02)


@app.step(retry=PATIENT, timeout=60)
async def ask_model(conversation: list[Message]) -> Message:
    """What a real agent sends to its provider; here the answers follow from what the tools said."""
    said = [message.text for message in conversation if message.role == "tool"]
    if not said:
        calls = [ToolCall(tool="look_up", argument=city) for city in ("Paris", "Berlin", "Atlantis")]
        return Message(role="model", text="Let me look that up.", calls=calls)
    if not any(text.startswith("sum") for text in said):
        known = "+".join(text.split()[-1] for text in said if text.split()[-1].isdigit())
        return Message(role="model", text="Now the sum.", calls=[ToolCall(tool="add", argument=known)])
    return Message(role="model", text=f"Those I could find have {said[-1].split()[-1]} inhabitants together.")


@app.step(retry=PATIENT)
async def look_up(city: str) -> str:
    people = {"Paris": 2_100_000, "Berlin": 3_700_000}
    if current_step().attempt == 1 and city == "Paris":
        raise ConnectionError("the encyclopedia is busy")  # tried again, by the policy
    if city not in people:
        raise Terminal(f"there is no city named {city}")  # not tried again
    return f"{city}: {people[city]}"


@app.step
def add(numbers: str) -> str:
    return f"sum: {sum(int(number) for number in numbers.split('+'))}"


TOOLS: dict[str, Step[[str], str]] = {"look_up": look_up, "add": add}


async def use_tool(ctx: Context, call: ToolCall) -> Message:
    """A failed tool is an answer too: the model decides what to do about it."""
    await ctx.emit("tool", {"tool": call.tool, "argument": call.argument})
    tool = TOOLS.get(call.tool)
    if tool is None:
        return Message(role="tool", text=f"there is no tool {call.tool}")
    try:
        return Message(role="tool", text=await ctx.step(tool, call.argument))
    except Terminal as error:
        return Message(role="tool", text=f"error: {error}")


@app.workflow
async def agent(ctx: Context, question: str) -> str:
    conversation = [Message(role="user", text=question)]
    for _ in range(MOST_TURNS):
        reply = await ctx.step(ask_model, conversation)
        await ctx.emit("said", reply.text)
        conversation.append(reply)
        if not reply.calls:
            return reply.text
        conversation += await asyncio.gather(*(use_tool(ctx, call) for call in reply.calls))
    raise RuntimeError(f"no answer within {MOST_TURNS} turns")


async def main() -> None:
    async with app:
        run = await app.start(agent, "How many people live in Paris, Berlin and Atlantis together?")
        async for event in run.events():
            if event.kind == "emitted":
                print(f"{event.data['name']:>5}: {event.data['data']}")
            elif event.kind in {"attempt_failed", "step_failed"}:
                print(f"       {event.key}: {event.kind.replace('_', ' ')}")
        print(await run.result())


if __name__ == "__main__":
    asyncio.run(main())
