"""Imported once by the server that workers are forked from: what each of them would import again."""

import gc
import os
import signal


def _load() -> None:
    import alignbench.planning.layout  # noqa: F401
    from alignbench.plugins import load_catalog
    from alignbench.run.execute import import_engine
    from alignbench.run.worker import OWN

    import_engine()
    load_catalog(only=OWN)


signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, also in the seconds that this takes
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
_load()
gc.freeze()  # a child's collector would write to, and so copy, every page of it
