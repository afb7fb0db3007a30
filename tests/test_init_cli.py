"""`alignbench init`: whatever the data looks like, a suite comes out that runs."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.init_cli import init
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.here import run_here
from alignbench.store import Store
from alignbench.suite.spec import load_suite

PAIRS = [(f"What is {n}+1?", f"It is {n + 1}.", "I do not know.") for n in range(48)]


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def explicit():
    return [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS]


def messages():
    return [{"prompt": [user(p)], "chosen": [bot(c)], "rejected": [bot(r)]} for p, c, r in PAIRS]


def implicit():
    return [{"chosen": [user(p), bot(c)], "rejected": [user(p), bot(r)]} for p, c, r in PAIRS]


def transcript():
    return [{side: f"\n\nHuman: {p}\n\nAssistant: {text}" for side, text in (("chosen", c), ("rejected", r))}
            for p, c, r in PAIRS]  # fmt: skip


def renamed():
    return [{"question": p, "better": c, "worse": r} for p, c, r in PAIRS]


def unpaired():
    return [
        {"prompt": p, "completion": text, "label": good} for p, c, r in PAIRS for text, good in ((c, True), (r, False))
    ]


def scored():
    return [{"prompt": p, "completions": [r, c], "scores": [1, 4.5]} for p, c, r in PAIRS]


def nested():
    answers = [(p, ({"response": c, "overall_score": 8}, {"response": r, "overall_score": 2})) for p, c, r in PAIRS]
    return [{"instruction": prompt, "completions": list(both)} for prompt, both in answers]


def written(folder: Path, name: str, rows: list[dict]) -> str:
    path = folder / name
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    if name.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith("/"):
        import datasets

        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    else:
        path.write_text(json.dumps(rows) if name.endswith(".json") else lines)
    return str(path)


FORMS = {
    "explicit.jsonl": (explicit, {}),
    "messages.jsonl.gz": (messages, {}),
    "implicit.parquet": (implicit, {}),
    "transcript.json": (transcript, {}),
    "renamed.csv": (renamed, {"columns": "prompt=question, chosen=better,rejected=worse"}),
    "messages.csv": (messages, {}),  # a cell holds what Python prints of a list
    "unpaired.csv": (unpaired, {}),
    "unpaired.parquet": (unpaired, {}),
    "scored.jsonl": (scored, {}),
    "nested.JSONL": (nested, {"columns": "prompt=instruction"}),
    "saved/": (messages, {}),
    "implicit.json": (implicit, {}),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_suite_for_every_form_of_data_plans(name: str, tmp_path: Path, tiny_models, capsys) -> None:
    rows, options = FORMS[name]
    source, out = written(tmp_path, name, rows()), tmp_path / "suite.yaml"
    init([source], model=str(tiny_models["llama"]), output=out, **options)
    said = capsys.readouterr().out
    assert "preferences: 48 preference pairs of" in said.replace("\n", "")
    assert "48 different prompts" in said
    suite = load_suite(out)
    assert [row.label for row in suite.methods] == ["sft", "dpo", "ppo"]
    assert suite.comparisons.pairs == 12
    plan = make_plan(suite, load_catalog())
    assert len(plan.cells) == 15
    assert not any(cell.cause for cell in plan.cells)


def test_the_suite_runs(tmp_path: Path, tiny_models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    out = tmp_path / "suite.yaml"
    init([written(tmp_path, "mine.csv", unpaired())], model=str(tiny_models["llama"]), output=out)
    text = out.read_text().replace("seeds: [0, 1, 2]", "seeds: [0]").replace("max_steps: 48", "max_steps: 2")
    out.write_text(text.replace("sweep: [0.05, 0.2]}", "sweep: [0.05], force: true}"))
    records = run_here(make_plan(load_suite(out), load_catalog()), Store(), is_strict=True).records
    assert {(r.label, r.status) for r in records} == {
        (label, "ok") for label in ("sft", "dpo beta=0.1", "dpo beta=0.5", "ppo kl_coef=0.05")
    }
    assert records[0].context.task.startswith("preferences: 48 preference pairs of mine.csv")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": "prompt"}, "--columns prompt: give ours=theirs, with commas between"),
        ({"columns": "promt=q"}, "--columns: no column 'promt' of ours; did you mean 'prompt'?"),
        ({"columns": "prompt=q"}, "no column 'q', which columns.prompt names; "),
        ({"output": "there.yaml"}, "there.yaml: it is there; name another file, or add --force"),
        ({"test_split": "test"}, "0 different prompts leave"),  # a lone file has no splits: all of it would score
    ],
)
def test_mistakes_leave_no_file(options: dict, said: str, tmp_path: Path) -> None:
    source = written(tmp_path, "mine.jsonl", explicit())
    (tmp_path / "there.yaml").write_text("mine")
    out = tmp_path / options.pop("output", "suite.yaml")
    with pytest.raises(UserError) as error:
        init([source], output=out, **options)
    assert said in str(error.value)
    assert (tmp_path / "there.yaml").read_text() == "mine"
    assert not (tmp_path / "suite.yaml").exists()
