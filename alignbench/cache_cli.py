"""`alignbench cache`: look at the stages that are kept, check them, and make room."""

from __future__ import annotations

from typing import Annotated

import typer

from alignbench.errors import UserError, printable

cache = typer.Typer(help="Look at the cache of stages, check it, make room.", no_args_is_help=True,
                    rich_markup_mode=None)  # fmt: skip
GIB = 2**30


@cache.command("list")
def list_() -> None:
    """List every stage in the cache with its kind, size and age, the oldest first."""
    from alignbench.store import Store
    from alignbench.store.upkeep import kept

    store = Store()
    stages = kept(store)
    for one in stages:
        age = f"{one.age_days:.1f} d"
        print(f"{one.key}  {printable(one.kind, 20):20}  {_size(one.size_bytes):>10}  {age:>8}")
    print(f"{len(stages)} stages, {_size(sum(one.size_bytes for one in stages))} in {printable(str(store.root))}")


@cache.command()
def verify() -> None:
    """Read every byte of every stage; move damaged stages aside. Exit code 1 if there was one."""
    from alignbench.store import Store
    from alignbench.store.upkeep import verify as verify_all

    whole = bad = 0
    for _, problem in verify_all(Store()):
        if problem is None:
            whole += 1
        else:
            bad += 1
            print(printable(problem))
    print(f"{whole} stages are whole, {bad} are not")
    raise typer.Exit(1 if bad else 0)


@cache.command()
def prune(
    older_than: Annotated[float | None, typer.Option(help="remove stages made more than so many days ago")] = None,
    larger_than: Annotated[float | None, typer.Option(help="then remove the oldest until so many GiB are left")] = None,
) -> None:
    """Remove damaged stages and leftovers of killed runs, and stages by age and total size if asked to."""
    from alignbench.store import Store
    from alignbench.store.upkeep import prune as prune_stages

    for option, value in (("--older-than", older_than), ("--larger-than", larger_than)):
        if value is not None and not value >= 0:  # NaN too
            raise UserError(f"{option}: should be 0 or more, got {value}")
    freed = prune_stages(Store(), older_than, None if larger_than is None else larger_than * GIB)
    beside = f"; {freed.in_use} more are in use and stay" if freed.in_use else ""
    print(f"{freed.stages} stages removed, {_size(freed.size_bytes)} freed{beside}")


def _size(size_bytes: int) -> str:
    for unit, factor in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"
