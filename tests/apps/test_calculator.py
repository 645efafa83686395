from __future__ import annotations

import pytest

from weft.apps.calculator import calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("480 - 75", "405"),
        ("275 * 4703", "1293325"),
        ("-(1 + 2) * 3", "-9"),
        ("7 / 2", "3.5"),
        ("6 / 2", "3"),
        ("1 / 0", "error: division by zero"),
        ("2 ** 9999999", "error: only numbers and + - * / ( ) can be computed"),
        ("__import__('os')", "error: only numbers and + - * / ( ) can be computed"),
        ("'a' * 3", "error: only numbers and + - * / ( ) can be computed"),
    ],
)
def test_the_calculator(expression: str, value: str) -> None:
    assert calculator(expression) == value


def test_what_is_no_expression_is_told() -> None:
    assert str(calculator("1 +")).startswith("error: ")
