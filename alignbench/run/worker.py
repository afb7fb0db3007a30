"""The child's side of a worker: computes stages by key until its parent is gone."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from alignbench.errors import LONGEST
from alignbench.run.lines import say

TELL_EVERY = 0.2  # seconds between two reports of progress
OWN = frozenset({"alignbench.feedback.offered", "alignbench.tasks.offered"})  # modules of the harness's own plugins
PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


def serve(
    orders: Connection, log: Connection, plan: str, home: str, threads: int | None, gpus: str | None
) -> None:  # fmt: skip
    """Compute each stage whose key arrives on `orders`; what is printed goes to `log`. `plan`: its JSON; `gpus`: those
    it may see, if not all."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    os.setpgid(0, 0)  # its own group: Ctrl-C is the parent's to handle, and what it starts can be ended with it
    prefer_to_be_killed()
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    log.close()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    bench, known = None, ()
    while True:
        try:
            order = json.loads(orders.recv_bytes())
        except EOFError:
            return
        if bench is None:
            try:
                bench, known = _bench(plan, home, threads, order["plugins"]), order["plugins"]
            except BaseException as error:
                say(orders.fileno(), {"ended": None, "failure": _failed(error, order["owner"])})
                continue
        assert known == order["plugins"], "a worker serves one set of plugins"
        _compute(bench, order["key"], orders.fileno())


def _bench(plan: str, home: str, threads: int | None, plugins: list[str]) -> Any:
    """The plan on a catalog of the harness's own plugins and of those that the stage needs, and no others."""
    from alignbench.planning.layout import make_task
    from alignbench.plugins import load_catalog
    from alignbench.run.execute import Bench, import_engine
    from alignbench.store import Store
    from alignbench.suite.plan import plan_of
    from alignbench.suite.spec import Suite

    import_engine()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    data = json.loads(plan)
    catalog = load_catalog(data["modules"], only={*OWN, *plugins})
    made = plan_of(data, catalog, make_task(Suite.model_validate(data["suite"]), catalog))
    return Bench(made, Store(Path(home)))


def _compute(bench: Any, key: str, parent: int) -> None:
    """The stage, with every word of it to the parent: how far it is, warnings of ours, how it ended."""
    from alignbench.run.failure import failure_of

    last, show = 0.0, warnings.showwarning

    def progress(done: int, total: int, **numbers: float) -> None:
        nonlocal last
        if time.monotonic() - last > TELL_EVERY or done == total:
            last = time.monotonic()
            say(parent, {"done": done, "total": total, "numbers": numbers})

    def warn(message: Any, category: Any, filename: str, lineno: int, *rest: Any, **named: Any) -> None:
        show(message, category, filename, lineno, *rest, **named)  # into the log, as any other
        if filename.startswith(PACKAGE):
            say(parent, {"warning": str(message)[:LONGEST]})

    bench.progress = progress
    bench.waiting = lambda: say(parent, {"waits": True})
    warnings.showwarning = warn
    failure, is_new = None, True
    try:
        is_new = bench.compute(key)
    except BaseException as error:  # KeyboardInterrupt and SystemExit too: a plugin may raise them
        failure = vars(failure_of(error, bench.plan.stages[key]))
    finally:
        warnings.showwarning = show
    say(parent, {"ended": key, "failure": failure, "is_new": is_new})


def _failed(error: BaseException, owner: str | None) -> dict[str, str]:
    from alignbench.errors import PluginError, UserError, in_words

    is_known = isinstance(error, UserError | PluginError)
    said = in_words(error)
    return {
        "cause": f"{owner}: {said}" if owner and not is_known else said,
        "blame": "user" if isinstance(error, UserError) else "plugin" if is_known else "bug",
        "traceback": "",
    }


def prefer_to_be_killed() -> None:
    """Where memory runs out, the kernel ends the stage and not the run, which keeps what is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # not Linux, or not ours to say
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit("a worker is started by `alignbench run`")
