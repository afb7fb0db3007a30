"""What a check tries of a Config: every choice it offers, and which fields are read."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError

from alignbench.api import Config, MethodConfig

C = TypeVar("C", bound=Config)


def variations(config: type[Config]) -> list[dict[str, Any]]:
    """The defaults, and options that between them take every other value of each Literal and bool field; those that the
    validators refuse are left out."""
    choices = {
        name: [True, False] if field.annotation is bool else list(get_args(field.annotation))
        for name, field in config.model_fields.items()
        if field.annotation is bool or get_origin(field.annotation) is Literal
    }
    accepted: list[dict[str, Any]] = [{}]
    for name, values in choices.items():
        for value in values:
            with suppress(ValidationError):
                if config(**{name: value}) != config():
                    accepted.append({name: value})
    return accepted


def own_choices(config: type[Config]) -> list[dict[str, Any]]:
    """The variations without those of the optimiser, which is the harness's."""
    return [options for options in variations(config) if not options.keys() & MethodConfig.model_fields.keys()]


def noting_reads(config: type[C], read: set[str]) -> type[C]:
    """The same Config, whose instances note in `read` which fields are asked for once they are made: what validation
    looks at does not count."""

    class Noting(config):  # type: ignore[misc, valid-type]
        def __init__(self, **data: Any) -> None:
            before = read.copy()
            super().__init__(**data)
            read.intersection_update(before)

        def __getattribute__(self, name: str) -> Any:
            if name in type(self).__dict__.get("__pydantic_fields__", {}):
                read.add(name)
            return super().__getattribute__(name)

    Noting.__module__ = config.__module__
    return Noting
