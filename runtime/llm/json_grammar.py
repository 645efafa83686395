"""From a JSON Schema to a grammar all of whose texts are JSON that conforms to it.

xgrammar's own conversion leaves four doors open, closed here: keywords that it ignores, strings with a
length or a pattern that hold raw control characters, quotation marks or backslashes, escapes of lone
surrogates, and numbers so large that they are read as infinity.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import xgrammar

from weft.graph.enforceable import DATA, NAMED, refusal

from .errors import RequestError
from .json_formats import ENFORCED, PATTERNS

__all__ = ["GrammarError", "json_grammar", "regex_grammar"]

_LENGTHS = {"minLength", "maxLength"}

_MOST_DIGITS = 64  # before a point, and after it; each takes a while to compile
_MOST_OF_EXPONENT = 2  # of its digits
_DIGIT: list[int] = [0, 0x30, 0x39]  # operands of the class [0-9]

Ranges = list[tuple[int, int]]
_UNESCAPED: Ranges = [(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C)]  # what a JSON string cannot hold as it is
_SAFE_FIRST_HEX: Ranges = [(0x41, 0x43), (0x61, 0x63), (0x30, 0x39)]  # \uD... would begin a surrogate


class GrammarError(RequestError):
    """A constraint that cannot be enforced; the message says why and what to change."""


def json_grammar(schema: str) -> xgrammar.Grammar:
    """Convert a JSON Schema, with separators `", "` and `": "` and no free whitespace.

    Raises:
        GrammarError: `schema` is no JSON, or uses a keyword or pattern that cannot be enforced.
    """
    try:
        parsed = json.loads(schema)
    except ValueError as error:
        raise GrammarError(f"the schema is not valid JSON: {error}") from error
    if reason := refusal(parsed):
        raise GrammarError(reason)
    try:
        grammar = xgrammar.Grammar.from_json_schema(
            json.dumps(_as_enforced(parsed)), any_whitespace=False, separators=(", ", ": ")
        )
    except RuntimeError as error:
        raise GrammarError(f"the schema cannot be enforced: {_reason(error)}") from error
    return xgrammar.Grammar.deserialize_json(_harden(grammar.serialize_json()))


def regex_grammar(pattern: str) -> xgrammar.Grammar:
    """Convert a regex that the whole text must match; raises GrammarError with the reason if it cannot."""
    try:
        return xgrammar.Grammar.from_regex(pattern)
    except RuntimeError as error:
        raise GrammarError(f"the regex {pattern!r} cannot be enforced: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the message of an xgrammar error without its time stamp and source position."""
    return str(error).strip().split(": ", 1)[-1]


def _as_enforced(schema: Any) -> Any:
    """A schema with `anyOf` for each `oneOf`, and a pattern for each format that xgrammar is too lax with.

    Of `oneOf` it enforces no more, but warns on standard error. Beside a format it ignores a pattern, and
    beside either lengths with a warning: here the pattern stands alone, and lengths are left out.
    """
    if isinstance(schema, list):
        return [_as_enforced(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    formatted = str(schema.get("format")) in ENFORCED
    parts: dict[str, Any] = {}
    for keyword, value in schema.items():
        patterned = "pattern" in schema
        if (keyword in _LENGTHS and (formatted or patterned)) or (keyword == "format" and patterned):
            continue
        name = "anyOf" if keyword == "oneOf" and "anyOf" not in schema else keyword
        if keyword == "format" and formatted and value in PATTERNS:
            parts["pattern"] = PATTERNS[value]
        elif keyword in NAMED and isinstance(value, dict):
            parts[name] = {key: _as_enforced(part) for key, part in value.items()}
        else:
            parts[name] = value if keyword in DATA else _as_enforced(value)
    return parts


def _harden(serialized: str) -> str:
    """Keep characters that JSON must escape out of all character classes of a serialized grammar."""
    form: dict[str, Any] = json.loads(serialized)
    data, starts = form["grammar_expr_data"], [*form["grammar_expr_indptr"], len(form["grammar_expr_data"])]
    expressions = [data[low:high] for low, high in pairwise(starts)]
    _end_numbers(form["rules"], expressions)
    _inline_patterns(form["rules"], expressions)
    bodies = {name: body for name, body, *_ in form["rules"]}
    escapes = _harden_escapes(expressions, bodies["basic_escape"]) if "basic_escape" in bodies else set()
    for index, (kind, _, *operands) in enumerate(expressions):
        if kind in (1, 2) and index not in escapes:
            expressions[index] = _character_class(kind, operands)
        elif kind == 0 and any(byte < 0x20 for byte in operands):
            raise GrammarError("a pattern of the schema asks for a control character, which JSON must escape")
    form["grammar_expr_data"] = [item for expression in expressions for item in expression]
    form["grammar_expr_indptr"] = list(accumulate(map(len, expressions[:-1]), initial=0))
    return json.dumps(form)


def _end_numbers(rules: list[list[Any]], expressions: list[list[int]]) -> None:
    """Give an end to the digits of numbers, of which no rule is a pattern's yet."""
    names = [name for name, *_ in rules]
    digit = names.index("basic_number_digits")
    exponent = _parts(expressions, rules[names.index("basic_number_5")][1])
    for index, (kind, _, *operands) in enumerate(expressions):
        if kind == 2 and operands == _DIGIT:
            expressions[index] = [8, 3, digit, 0, _MOST_DIGITS]
        elif kind == 8 and operands[2] == -1 and _is_digit(expressions, rules[operands[0]][1]):
            most = _MOST_OF_EXPONENT if index in exponent else _MOST_DIGITS
            expressions[index] = [8, 3, *operands[:2], most]


def _parts(expressions: list[list[int]], index: int) -> set[int]:
    """An expression and what it consists of."""
    kind, _, *operands = expressions[index]
    inner = operands if kind in (5, 6) else ()
    return {index}.union(*(_parts(expressions, part) for part in inner))


def _is_digit(expressions: list[list[int]], index: int) -> bool:
    """Whether an expression is the class of a digit, maybe as the one choice of one part."""
    kind, _, *operands = expressions[index]
    if kind in (5, 6) and len(operands) == 1:
        return _is_digit(expressions, operands[0])
    return kind == 1 and operands == _DIGIT


def _inline_patterns(rules: list[list[Any]], expressions: list[list[int]]) -> None:
    """Put the rules of a regex in place of each rule that is one."""
    for rule in list(rules):
        kind, _, *operands = expressions[rule[1]]
        if kind != 12:
            continue
        form = json.loads(regex_grammar(bytes(operands[1:]).decode()).serialize_json())
        shift_rule, shift = len(rules), len(expressions)
        for name, body, *rest in form["rules"]:
            rules.append([f"pattern_{shift_rule}_{name}", body + shift, *rest])
        for low, high in pairwise([*form["grammar_expr_indptr"], len(form["grammar_expr_data"])]):
            expressions.append(_shifted(form["grammar_expr_data"][low:high], shift_rule, shift))
        rule[1] = form["rules"][form["root_rule_id"]][1] + shift


def _shifted(expression: list[int], rules: int, expressions: int) -> list[int]:
    """Renumber what an expression refers to."""
    kind, count, *operands = expression
    match kind:
        case 4 | 8:  # rule reference, repetition
            operands[0] += rules
        case 5 | 6:  # sequence, choices
            operands = [operand + expressions for operand in operands]
    return [kind, count, *operands]


def _harden_escapes(expressions: list[list[int]], body: int) -> set[int]:
    """Mend the rule for what follows a backslash; return the character classes in it."""
    classes: set[int] = set()
    for choice in expressions[body][2:]:
        first, *hexadecimal = expressions[choice][2:]
        classes.update([first, *hexadecimal])
        if hexadecimal:
            expressions[hexadecimal[0]] = _serialize(1, False, _SAFE_FIRST_HEX)
    return classes


def _character_class(kind: int, operands: list[int]) -> list[int]:
    negative, *ends = operands
    ranges = list(zip(ends[::2], ends[1::2], strict=True))
    kept = (
        [*ranges, *_UNESCAPED] if negative else [part for span in ranges for part in _without_unescaped(span)]
    )
    if not kept:
        raise GrammarError("a pattern of the schema allows only characters that JSON must escape")
    return _serialize(kind, bool(negative), kept)


def _serialize(kind: int, negative: bool, ranges: Ranges) -> list[int]:
    operands = [int(negative), *(end for span in ranges for end in span)]
    return [kind, len(operands), *operands]


def _without_unescaped(span: tuple[int, int]) -> Iterator[tuple[int, int]]:
    low, high = span
    for first, last in _UNESCAPED:
        if low < first:
            yield low, min(high, first - 1)
        low = max(low, last + 1)
        if low > high:
            return
    yield low, high
