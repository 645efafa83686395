"""Fill the fields of a pydantic model from a text, each field by a question of its own."""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel, Field

from weft import cond, gen, program
from weft.apps.instructions import BRIEF, NOT_FOUND


class Company(BaseModel):
    """What a text says about a company. The descriptions are the questions that fill the fields."""

    founder: str | None = Field(None, description="Who founded {subject}?")
    chief_executive: str | None = Field(None, description="Who is the chief executive of {subject}?")
    headquarters: str | None = Field(None, description="Where is {subject} based?")
    founding_year: int | None = Field(None, description="When was {subject} founded?")
    employees: int | None = Field(None, description="How many people does {subject} employ?")
    industry: str | None = Field(None, description="In which industry is {subject} active?")
    logo_colour: str | None = Field(None, description="What colour is the logo of {subject}?")


@program
def extract(text: str, subject: str) -> Company:
    """What `text` says about `subject`; the fields are asked for side by side, and the text is read once."""
    fields: dict[str, Any] = {}
    for name, field in Company.model_fields.items():
        question = str(field.description).format(subject=subject)
        value = gen(f"Context:\n{text}\n\nQuestion: {question}", system=BRIEF, max_tokens=32, name=name)
        fields[name] = cond(value.equals(NOT_FOUND), None, value)
    return cast(Company, fields)  # becomes one when the values are there
