"""A plan's missing stages as jobs for another scheduler: one command each, its dependencies and what it asks for.

Every job is `alignbench stage KEY --plan plan.json`. Its machine needs the same code and the store on a shared folder
($ALIGNBENCH_HOME); `alignbench run SUITE --collect` then shows the table of what is done.
"""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any, Literal

from alignbench.run.preview import pace_of_kinds
from alignbench.store import Store
from alignbench.store.artefacts import write_json, write_text
from alignbench.suite.plan import Plan, PlannedStage

Format = Literal["jsonl", "slurm"]
GIB = 4  # asked for where no run has shown what a stage holds
STARTING = 60  # seconds a job may take to import its libraries
SLACK = 3  # how much longer than its estimate a job may run


def export(plan: Plan, store: Store, folder: Path, form: Format) -> Path:
    """Write `plan.json` and the jobs of all stages that the store lacks into `folder`. Returns the file of jobs."""
    write_json(folder / "plan.json", plan.to_dict())
    jobs = jobs_of(plan, store, folder / "plan.json")
    if form == "jsonl":
        path, text = folder / "jobs.jsonl", "".join(json.dumps(job) + "\n" for job in jobs)
    else:
        path, text = folder / "jobs.sh", "\n".join([OPENING, *map(_sbatch, jobs), "squeue --me"]) + "\n"
    write_text(path, text)
    return path


def jobs_of(plan: Plan, store: Store, plan_file: Path) -> list[dict[str, Any]]:
    """One mapping a stage, in an order in which each comes after those it needs."""
    missing = {key: stage for key, stage in plan.stages.items() if not store.has(key)}
    pace = pace_of_kinds(plan, store)
    return [
        {
            "key": key,
            "title": stage.title,
            "command": ["alignbench", "stage", key, "--plan", str(plan_file.absolute())],
            "folder": str(Path.cwd()),  # where modules given by --plugin and relative paths are looked for
            "needs": sorted({below for below in stage.needs if below in missing}),
            "cpus": stage.resources.get("cpus", 1),
            "gpus": stage.resources.get("gpus", 0),
            "gib": _gib(plan, store, stage),
            "seconds": math.ceil(STARTING + stage.estimate * pace.get(stage.kind, 1.0)),
        }
        for key, stage in missing.items()
    ]


def _gib(plan: Plan, store: Store, stage: PlannedStage) -> int:
    """What stages of the kind were seen to hold, and half of it more."""
    alike = [key for key, other in plan.stages.items() if other.kind == stage.kind and store.has(key)]
    seen = [store.meta(key).get("cost", {}).get("peak_bytes", 0) for key in alike]
    return math.ceil(1.5 * max(seen) / 2**30) if seen else GIB


OPENING = """#!/usr/bin/env bash
# Submits one job a stage; a stage that fails cancels those that rest on it and no other.
set -euo pipefail
declare -A job
submit() {  # KEY "KEYS IT NEEDS" SBATCH-OPTIONS... -- COMMAND...
  local key=$1 needs=$2 after="" options=(); shift 2
  for below in $needs; do after+=":${job[$below]}"; done
  while [ "$1" != "--" ]; do options+=("$1"); shift; done
  shift
  [ -z "$after" ] || options+=("--dependency=afterok$after" "--kill-on-invalid-dep=yes")
  job[$key]=$(sbatch --parsable --job-name="ab-${key:0:12}" "${options[@]}" --wrap="$(printf '%q ' "$@")")
}
"""


def _sbatch(job: dict[str, Any]) -> str:
    minutes = math.ceil(SLACK * job["seconds"] / 60)
    options = [
        f"--chdir={job['folder']}",
        f"--cpus-per-task={job['cpus']}",
        f"--mem={job['gib']}G",
        f"--time={minutes}",
    ]
    options += [f"--gpus={job['gpus']}"] if job["gpus"] else []
    words = ["submit", job["key"], " ".join(job["needs"]), *options, "--", *job["command"]]
    return f"# {' '.join(''.join(c if c.isprintable() else ' ' for c in job['title']).split())}\n{shlex.join(words)}"
