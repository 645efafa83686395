"""The conversation in the terminal."""

from __future__ import annotations

from rich.console import Console

from .program import Turn, reply

__all__ = ["talk"]


def talk(console: Console, index: str = "handbook") -> None:
    """Read messages and write replies, as the model writes them, until an empty message or the end."""
    history: list[Turn] = []
    while message := _message(console):
        written = ""
        for piece in reply.stream(message, history, index=index):
            written += piece
            console.out(piece, end="", highlight=False)
        console.out("")
        history.append(Turn(user=message, assistant=written))


def _message(console: Console) -> str:
    try:
        return console.input("> ").strip()
    except EOFError:
        return ""
