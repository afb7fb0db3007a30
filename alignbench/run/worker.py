"""The child's side of a worker: computes stages by key until its parent is gone.

A message is one line of JSON. Nothing a plugin made is unpickled: its process may be anybody's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TELL_EVERY = 0.2  # seconds between two reports of progress
OWN = frozenset({"alignbench.feedback", "alignbench.tasks"})  # modules of the harness's own plugins


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
                orders.send_bytes(_failed(error, order["owner"]))
                continue
        assert known == order["plugins"], "a worker serves one set of plugins"
        orders.send_bytes(_outcome(bench, order["key"], orders))


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


def _outcome(bench: Any, key: str, orders: Connection) -> bytes:
    from alignbench.run.failure import failure_of

    last = 0.0

    def progress(done: int, total: int, **numbers: float) -> None:
        nonlocal last
        if time.monotonic() - last > TELL_EVERY or done == total:
            last = time.monotonic()
            orders.send_bytes(json.dumps({"done": done, "total": total, "numbers": numbers}).encode())

    bench.progress = progress
    bench.waiting = lambda: orders.send_bytes(json.dumps({"waits": True}).encode())
    try:
        bench.compute(key)
    except BaseException as error:  # KeyboardInterrupt and SystemExit too: a plugin may raise them
        failure = failure_of(error, bench.plan.stages[key])
        return json.dumps({"ended": key, "failure": vars(failure)}).encode()
    return json.dumps({"ended": key, "failure": None}).encode()


def _failed(error: BaseException, owner: str | None) -> bytes:
    from alignbench.errors import PluginError, UserError, in_words

    is_known = isinstance(error, UserError | PluginError)
    said = in_words(error)
    failure = {
        "cause": f"{owner}: {said}" if owner and not is_known else said,
        "blame": "user" if isinstance(error, UserError) else "plugin" if is_known else "bug",
        "traceback": "",
    }
    return json.dumps({"ended": None, "failure": failure}).encode()


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
