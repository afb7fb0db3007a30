"""Every format of preference data reads to the same pairs, and every mistake is one line with its remedy."""

import gzip
import json
import random
from pathlib import Path

import pytest

from alignbench.api import Pair
from alignbench.errors import UserError
from alignbench.tasks import dialogue, files, formats
from alignbench.tasks import pairs as pairs_module
from alignbench.tasks.pairs import Loaded, PairSplits, Shares, load_pairs, pair_splits

HH = Path(__file__).parents[2].parent / "shared" / "data" / "hh-harmless.jsonl.gz"
SHARES = Shares(train=0.4, label=0.2, eval=0.1, gold=0.2, held_out=0.1)


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


DIALOGUE = Pair("\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why\n\nAssistant:", " Because.", " No.")
SHARED = [user("Hi"), bot("Yes?"), user("Why")]
TEXT_SHARED = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(tmp_path, *rows):
    return load_pairs(write(tmp_path / "data.jsonl", rows))


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"prompt": "The", "chosen": " sky", "rejected": " sea"}, Pair("The", " sky", " sea")),
        ({"prompt": "", "chosen": "x", "rejected": "y", "score": 1}, Pair("", "x", "y")),
        ({"prompt": None, "chosen": "The sky", "rejected": "The sea"}, Pair("The", " sky", " sea")),
        ({"chosen": "The blue \n sky", "rejected": "The blue \n sea"}, Pair("The blue", " \n sky", " \n sea")),
        ({"chosen": "The sky", "rejected": "The sky is"}, Pair("The", " sky", " sky is")),
        ({"chosen": "sky", "rejected": "sea"}, Pair("", "sky", "sea")),
        (
            {
                "chosen": TEXT_SHARED + "\n\nAssistant: Because.",
                "rejected": TEXT_SHARED + "\n\nAssistant: No.",
            },
            DIALOGUE,
        ),
        ({"prompt": SHARED, "chosen": [bot("Because.")], "rejected": [bot("No.")]}, DIALOGUE),
        ({"chosen": [*SHARED, bot("Because.")], "rejected": [*SHARED, bot("No.")]}, DIALOGUE),
        (
            {
                "prompt": [{"role": "system", "content": "Be kind."}, user("a")],
                "chosen": [bot("b"), user("c"), bot("d")],
                "rejected": [bot("e")],
            },
            Pair("\n\nSystem: Be kind.\n\nHuman: a\n\nAssistant:", " b\n\nHuman: c\n\nAssistant: d", " e"),
        ),
        (  # the dialogues part before the last turn: the prompt is what both share
            {"chosen": [user("a"), bot("b"), user("c"), bot("d")], "rejected": [user("a"), bot("x")]},
            Pair("\n\nHuman: a\n\nAssistant:", " b\n\nHuman: c\n\nAssistant: d", " x"),
        ),
        (
            {"chosen": [user("a"), bot("b")], "rejected": [user("a"), bot("b"), user("c"), bot("d")]},
            Pair("\n\nHuman: a\n\nAssistant:", " b", " b\n\nHuman: c\n\nAssistant: d"),
        ),
    ],
)
def test_each_format(tmp_path, row, pair):
    assert read(tmp_path, row).pairs == [pair]


def test_rows_that_compare_nothing_are_dropped_and_counted(tmp_path):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    same = {"chosen": [user("a"), bot("b")], "rejected": [user("a"), bot("b")]}
    blank = {"prompt": [user("a")], "chosen": [bot("b")], "rejected": [bot("")]}
    none = {"prompt": [user("a")], "chosen": [bot("b")], "rejected": []}
    loaded = read(tmp_path, good, good | {"rejected": "a"}, good | {"chosen": " \n"}, same, blank, none)
    silent = Pair("\n\nHuman: a\n\nAssistant:", " b", "")  # what was rejected may be that nothing was said
    left_out = {"rows with equal answers": 2, "rows whose chosen answer is empty": 1}
    assert loaded == Loaded([Pair("p", "a", "b"), silent, silent], left_out, {"pairs with an empty rejected answer": 2})


def test_every_kind_of_file_reads_alike(tmp_path):
    rows = [{"chosen": [*SHARED, bot(str(i))], "rejected": [*SHARED, bot("No.")]} for i in range(3)]
    plain = write(tmp_path / "a.jsonl", rows)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    expected = load_pairs(plain)
    assert len(expected.pairs) == 3
    assert load_pairs(str(packed)) == expected
    assert load_pairs(str(tmp_path / "a.parquet")) == expected


def test_hostile_text_is_data(tmp_path):
    text = "\x1b[2J\x00</script>\u202e\u2028<b>\r\n\n\nHuman: obey\t"
    pair = read(tmp_path, {"prompt": [user(text)], "chosen": [bot(text)], "rejected": [bot("b")]}).pairs[0]
    assert pair == Pair(f"\n\nHuman: {text}\n\nAssistant:", f" {text}", " b")
    half = read(tmp_path, {"prompt": "p", "chosen": "\ud800 a", "rejected": "b"}).pairs[0]
    assert half.chosen.encode() == "\ufffd a".encode()  # half a surrogate pair cannot be encoded


def jsonl(text):
    return {"bad.jsonl": text}


def row(**columns):
    return jsonl(json.dumps(columns))


DAMAGED = gzip.compress(random.Random(0).randbytes(5000))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"bat.jsonl": ""}, r"bad.jsonl: no such file, .*; in its folder: did you mean 'bat.jsonl'\?"),
        ({"notes.md": ""}, r"bad.jsonl: no such file, .*; in its folder: allowed: none"),
        (
            {"bad.txt": "chosen,rejected"},
            r"bad.txt: unknown kind of file; allowed: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow",
        ),
        (jsonl('{"prompt": "p", "chosen": "a", "rejected": "b"}\n\n{'), r"bad.jsonl, line 3: not JSON"),
        (jsonl("[" * 100_000), r"bad.jsonl, line 1: not JSON"),
        (jsonl(b'"\xff"'), r"bad.jsonl, line 1: not JSON"),
        (jsonl("[1]"), r"bad.jsonl, line 1: a JSON list, not an object"),
        (
            row(prompt="p", answer="a", rejected="b"),
            r"line 1: no column 'chosen'; seen: 'prompt', 'answer', 'rejected'; wanted",
        ),
        (row(**{"a\n\x1b[2J": ""}), r"no column 'chosen'; seen: 'a\\n\\x1b\[2J'; wanted"),
        (
            row(chosen="a"),
            r"line 1: no column 'rejected'; seen: 'chosen'; wanted: prompt, unless the answers share it, and chosen",
        ),
        (
            row(chosen="a", rejected=None),
            r"line 1: an answer is a text or a list of messages, .*, not chosen str, rejected NoneType",
        ),
        (row(prompt=3, chosen=[bot("a")], rejected=[bot("b")]), r"not prompt int, chosen list, rejected list"),
        (row(prompt="p", chosen=[bot("a")], rejected="b"), r"not prompt str, chosen list, rejected str"),
        (
            row(chosen=["a"], rejected=["b"]),
            r"line 1: a message must be \{\"role\": ..., \"content\": text\}, not 'a'",
        ),
        (
            row(chosen=[{"role": "bot", "content": "a"}], rejected=[]),
            r"role 'bot'; allowed: assistant, developer, system, tool, user",
        ),
        (row(prompt=[user("a")], chosen=[user("b")], rejected=[bot("c")]), r"chosen opens with role 'user'; a message"),
        (
            row(prompt="p", chosen="a", rejected="a"),
            r"bad.jsonl: no preference pair in it \(1 rows with equal answers",
        ),
        (jsonl(""), r"bad.jsonl: no preference pair in it \(0 rows"),
        ({"bad.jsonl.gz": "not packed"}, r"bad.jsonl.gz: damaged gzip file: copy or download it again"),
        ({"bad.jsonl.gz": DAMAGED[:-900]}, r"bad.jsonl.gz: damaged gzip file|bad.jsonl.gz, line 1: not JSON"),
        ({"bad.jsonl.gz": gzip.compress(b" \n" * 9000)[:-9]}, r"bad.jsonl.gz: damaged gzip file"),
        ({"bad.parquet": "PAR1"}, r"bad.parquet: not a readable parquet file"),
    ],
)
def test_each_mistake_is_one_line_that_names_file_and_remedy(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    name = next(iter(files)) if next(iter(files)).startswith("bad") else "bad.jsonl"
    with pytest.raises(UserError, match=message) as caught:
        load_pairs(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_hub_id_is_loaded_with_its_split_and_folder(monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = []

    def load_dataset(hub_id, split, data_dir):
        calls.append((hub_id, split, data_dir))
        return datasets.Dataset.from_list([{"chosen": [*SHARED, bot("Because.")], "rejected": [*SHARED, bot("No.")]}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_pairs("Anthropic/hh-rlhf", split="test", data_dir="harmless-base").pairs == [DIALOGUE]
    assert calls == [("Anthropic/hh-rlhf", "test", "harmless-base")]

    def unreachable(*_, **__):
        raise ConnectionError("no such place\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UserError, match=r"data set 'owner/none', split 'train', data_dir '': no such place; check"
    ) as caught:
        load_pairs("owner/none")
    assert "\n" not in str(caught.value)


def test_hh_reads_whole_and_each_prompt_ends_with_the_assistants_turn():
    if not HH.exists():
        pytest.skip(f"{HH} is not here")
    loaded = load_pairs(str(HH))
    assert (len(loaded.pairs), loaded.left_out) == (1_499, {"rows whose chosen answer is empty": 1})
    assert all(pair.prompt.endswith("\n\nAssistant:") and pair.prompt.startswith("\n\nHuman:") for pair in loaded.pairs)
    assert not any("\n\nHuman:" in pair.chosen + pair.rejected for pair in loaded.pairs)
    splits = pair_splits(loaded.pairs, 0, SHARES)
    assert [round(len(part) / 1_499, 1) for part in splits] == list(SHARES)


def made_up_pairs():
    """Forty dialogues of two turns, each with two pairs at either turn."""
    first = [f"\n\nHuman: question {i}\n\nAssistant:" for i in range(40)]
    prompts = [*first, *(prompt + " ok\n\nHuman: go on\n\nAssistant:" for prompt in first)]
    return [Pair(prompt, f" good {i}", " bad") for prompt in prompts for i in range(2)]


def test_a_dialogue_lies_in_one_split_whatever_the_order():
    pairs = made_up_pairs()
    splits = pair_splits(pairs, 0, SHARES)
    assert sorted(pair for part in splits for pair in part) == sorted(pairs)
    assert list(map(len, splits)) == [4 * dialogues for dialogues in (16, 8, 4, 8, 4)]
    openings = [{pair.prompt.split("\n\nAssistant:")[0] for pair in part} for part in splits]
    assert sum(map(len, openings)) == 40 == len(set.union(*openings))
    again = pair_splits(random.Random(0).sample(pairs, len(pairs)), 0, SHARES)
    assert PairSplits(*map(sorted, splits)) == PairSplits(*map(sorted, again))
    assert PairSplits(*map(sorted, splits)) != PairSplits(*map(sorted, pair_splits(pairs, 1, SHARES)))


def test_shares_below_one_leave_the_rest_out():
    splits = pair_splits(made_up_pairs(), 0, Shares(0.1, 0.1, 0.1, 0.1, 0.1))
    assert list(map(len, splits)) == [16] * 5


@pytest.mark.parametrize(
    ("pairs", "shares", "message"),
    [
        (made_up_pairs(), Shares(0.5, 0.5, 0.5, 0.1, 0.1), r"each must be above 0, and their sum at most 1"),
        (made_up_pairs(), Shares(0.5, 0.5, 0, 0, 0), r"each must be above 0"),
        (made_up_pairs()[:4], SHARES, r"2 different prompts leave .*held_out empty: bring more data, or other shares"),
    ],
)
def test_impossible_splits_are_refused(pairs, shares, message):
    with pytest.raises(UserError, match=message):
        pair_splits(pairs, 0, shares)


def test_reading_local_pairs_imports_no_heavy_library():
    for module in (pairs_module, files, formats, dialogue):
        source = Path(module.__file__).read_text(encoding="utf-8")
        top = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
        assert not any(name in line for line in top for name in ("torch", "datasets", "pyarrow"))
