"""Imported once by the server that workers are forked from: what each of them would import again."""

import gc
import os

import alignbench.planning.layout  # noqa: F401
from alignbench.plugins import load_catalog
from alignbench.run.execute import import_engine
from alignbench.run.worker import OWN

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
import_engine()
load_catalog(only=OWN)
gc.freeze()  # a child's collector would write to, and so copy, every page of it
