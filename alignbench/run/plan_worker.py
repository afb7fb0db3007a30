"""The child's side of a planner: makes the plan, and says whose code is about to run. Messages: `run/planner.py`."""

from __future__ import annotations

import errno
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import NoReturn, cast

from alignbench.errors import PluginError, UserError, in_words
from alignbench.plugins import Step, Steps
from alignbench.run.lines import say
from alignbench.run.worker import prefer_to_be_killed
from alignbench.suite.plan import Plan


def work(make: Callable[[Steps], Plan], refused: dict[Step, str], tells: int, prints: int, ends_with: int) -> NoReturn:
    """The child's side. It never returns into the parent's code."""
    end, write, at, tell = os._exit, os.write, [cast(Step | None, None)], partial(say, tells)

    def begin(step: Step | None) -> None:
        if step != at[0]:
            at[0] = step
            tell({"step": step})

    try:
        os.setpgid(0, 0)  # its own group: Ctrl-C is the parent's to handle, and what it starts can be ended with it
        prefer_to_be_killed()
        for descriptor, number in ((os.open(os.devnull, os.O_RDONLY), 0), (prints, 1), (prints, 2)):
            os.dup2(descriptor, number)
        threading.Thread(target=_end_with_parent, args=(ends_with,), daemon=True).start()
        warnings.showwarning = lambda message, *_args, **_keys: tell({"warning": str(message)})
        tell({"plan": make(Steps(begin, refused)).to_dict()})
    except (UserError, PluginError) as error:
        tell({"mistake": str(error)})
    except BaseException as error:  # KeyboardInterrupt and SystemExit too: a plugin may raise them
        if at[0] is None:
            trace = "".join(traceback.format_exception(error))
            is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC  # the command has a line for it
            tell({"bug": trace, "errno": errno.ENOSPC} if is_full else {"bug": trace})
        else:  # the parent blames the step
            write(prints, f"\n{in_words(error)}\n".encode(errors="replace"))
    finally:
        end(1)


def _end_with_parent(life: int) -> None:
    os.read(life, 1)
    os.killpg(0, signal.SIGKILL)
