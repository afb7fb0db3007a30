"""The installed plugins and those of `--plugin`."""

from __future__ import annotations

from collections.abc import Sequence

from alignbench.errors import UserError
from alignbench.plugins import NO_STEPS, Catalog, Steps, load_catalog
from alignbench.terminal import add_current_folder


def catalog_with(modules: Sequence[str] | None, steps: Steps = NO_STEPS) -> Catalog:
    """UserError if one of `modules` did not load: it was asked for by name, so it is not passed over as an installed
    one would be."""
    if modules:
        add_current_folder()
    catalog = load_catalog(modules or (), steps=steps)
    for failure in catalog.failures:
        if failure.entry_point in (modules or ()):
            raise UserError(f"--plugin {failure.entry_point}: {failure.cause}")
    return catalog
