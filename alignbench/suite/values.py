"""Values that a suite file may hold, each with what is wrong with another."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from alignbench.suite.source import shown


def _one_line(text: str) -> str:
    if not text.isprintable() or not text or text != text.strip():
        raise ValueError(f"should be one line of text without spaces around it, got {shown(text)}")
    return text


def device_name(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", text):
        raise ValueError(f"should be auto, cpu, mps, cuda or cuda:N, got {shown(text)}")
    return text


def suite_name(text: str) -> str:  # it names folders
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text) or text[0] in ".-":
        raise ValueError(f"should be letters, digits, '.', '_' and '-', not opening with '.' or '-', got {shown(text)}")
    return text


def short(text: str) -> str:  # a file name has at most 255 bytes, and a table must be read
    if len(text) > LONGEST_NAME:
        raise ValueError(f"should have at most {LONGEST_NAME} characters, got {len(text)}; shorten it")
    return text


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"should be distinct, got {shown(values)}")
    return values


LONGEST_NAME = 100  # characters
Text = Annotated[str, AfterValidator(_one_line)]
Label = Annotated[Text, AfterValidator(short)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of NumPy's generators
