"""The option `--plugin` of the commands that have it, and the catalog it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from alignbench.errors import UserError
from alignbench.plugins import NO_STEPS, Catalog, Steps, load_catalog
from alignbench.terminal import add_current_folder

PluginModules = Annotated[
    list[str] | None, typer.Option("--plugin", help="also load this module, without installing it; may be repeated")
]


def catalog_with(modules: Sequence[str] | None, steps: Steps = NO_STEPS) -> Catalog:
    """Of what is installed, and of `modules`, which must load."""
    if modules:
        add_current_folder()
    catalog = load_catalog(modules or (), steps=steps)
    for failure in catalog.failures:
        if failure.entry_point in (modules or ()):  # asked for by name, so not passed over as an installed one would be
            raise UserError(f"--plugin {failure.entry_point}: {failure.cause}")
    return catalog
