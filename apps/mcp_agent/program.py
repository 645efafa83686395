"""Answer a question step by step, with the tools of any MCP server."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, WithJsonSchema, create_model

from weft import Context, interrupt, program, tool

from .toolbox import SAMPLE, Offer, Toolbox

Approve = Literal["none", "writes", "all"]
"""For which calls a person is asked: those of tools that do not declare that they only read, or all."""


@tool(timeout=120)
async def call(toolbox: str, name: str, arguments: dict[str, Any]) -> str:
    """What a tool of an open toolbox says."""
    return await Toolbox.opened[toolbox].call(name, arguments)


@program
async def agent(question: str, server: str = SAMPLE, steps: int = 8, approve: Approve = "writes") -> str:
    """The answer to `question`, after at most `steps` steps.

    `server` is the URL of an MCP server, or the command that starts one.
    """
    async with Toolbox(server) as toolbox:
        offers = {offer.name: offer for offer in toolbox.offers}
        context = Context(system=_instruction(toolbox.offers)).user(f"Question: {question}")
        for _ in range(steps):
            step: Any = await context.gen(type=_step(offers), max_tokens=256)
            if step.tool == "finish":
                return str(step.input)
            offer = offers[step.tool]
            arguments = await _arguments(offer, step.input, context)
            if approve == "all" or (approve == "writes" and not offer.reads_only):
                request = {"tool": offer.name, "arguments": arguments, "question": "May it be called?"}
                if not await interrupt(request, type=bool, name="approve"):
                    context.user("Observation: error: a person has refused this call")
                    continue
            context.user(f"Observation: {call(toolbox.id, offer.name, arguments)}")
    return "gave up"


def _instruction(offers: list[Offer]) -> str:
    tools = [*(f"{offer.name} {offer.purpose}" for offer in offers), "finish gives the final answer"]
    return (
        f"You are an agent that answers a question step by step. Tools: {', '.join(tools)}. "
        "Reply with one JSON object with the keys tool and input."
    )


def _step(offers: dict[str, Offer]) -> type[BaseModel]:
    """The type of a step: one of the tools, and what it is given."""
    fields: dict[str, Any] = {"tool": (Literal[(*offers, "finish")], ...), "input": (str, ...)}
    return create_model("Step", **fields)


async def _arguments(offer: Offer, said: str, context: Context) -> dict[str, Any]:
    """A single text has been said already; other arguments the model writes by the tool's own schema."""
    if offer.only_text:
        return {offer.only_text: said}
    (aside,) = context.fork(1)
    aside.user(f"Write the arguments of {offer.name} as JSON: {said}")
    kind = Annotated[dict[str, Any], WithJsonSchema(offer.schema)]
    written: dict[str, Any] = await aside.gen(type=kind, max_tokens=512, name=offer.name)
    return written
