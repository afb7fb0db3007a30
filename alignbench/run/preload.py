"""Imported once by the server that workers are forked from: what each of them would import again."""

import os

from alignbench.run.execute import import_engine

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
import_engine()
