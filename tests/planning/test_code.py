"""What the digest of code sees, and what it must not see. Each refusal has its control beside it."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import alignbench
from alignbench.planning import closure, code, keys

LONE = "from alignbench.api import RewardSource\nfrom {helper} import loss\n\n\nclass Mine(RewardSource):\n    pass\n"
HELPER = '"""A loss."""\n\n\ndef loss(x):\n    """Of x."""\n    return -x  # falls\n'
FLIPPED = HELPER.replace("-x", "+x")


@pytest.fixture(autouse=True)
def _own_modules(tmp_path, monkeypatch):
    """Each test's modules are forgotten after it, and nothing is kept outside its folder."""
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    code._answers.cache_clear()
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("zz"):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files by their paths into a folder on the import path."""
    root = tmp_path / "code"
    root.mkdir()
    monkeypatch.syspath_prepend(root)

    def files(**texts: str) -> Path:
        for name, text in texts.items():
            put(root / name, text)
        importlib.invalidate_caches()
        return root

    return files


TICK = itertools.count(1)


def put(path: Path, text: str) -> None:
    """Write a file at a time of its own: a test can be quicker than the clock of a file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (0, next(TICK)))


def source(module: str) -> str:
    """The digest as a plan gets it, which must be that of a fresh look."""
    cls = importlib.import_module(module).Mine
    kept = keys.class_source(cls)
    closure._MEMO.clear()
    assert keys.class_source(cls) == kept
    return kept


def is_changed_by(module: str, path: Path, text: str) -> bool:
    """Whether the key of the class changes, and comes back with the old text."""
    before, old = source(module), path.read_text() if path.exists() else None
    put(path, text)
    after = source(module)
    if old is None:
        path.unlink()
    else:
        put(path, old)
    assert source(module) == before
    return after != before


def test_a_helper_module_beside_a_lone_module_counts(write):
    root = write(**{"zz_lone.py": LONE.format(helper="zz_helper"), "zz_helper.py": HELPER, "zz_other.py": HELPER})
    assert is_changed_by("zz_lone", root / "zz_helper.py", FLIPPED)
    assert not is_changed_by("zz_lone", root / "zz_other.py", FLIPPED)  # nobody imports it


@pytest.mark.parametrize(
    "statement",
    [
        "import zz_helper",
        "def f():\n    from zz_helper import loss",
        "import importlib\nf = lambda: importlib.import_module('zz_helper')",
        "from importlib import import_module as load\nf = lambda: load('zz_helper')",
        "import zz_between",
        "try:\n    import zz_helper\nexcept ImportError:\n    pass",
    ],
)
def test_every_way_to_import_counts_also_a_second_hand_one(write, statement):
    lone = f"from alignbench.api import RewardSource\n{statement}\nclass Mine(RewardSource):\n    pass\n"
    root = write(**{"zz_lone.py": lone, "zz_helper.py": HELPER, "zz_between.py": "import zz_helper\n"})
    assert is_changed_by("zz_lone", root / "zz_helper.py", FLIPPED)


def test_an_import_for_the_type_checker_alone_does_not_count(write):
    lone = LONE.format(helper="zz_helper").replace(
        "from zz", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zz"
    )
    root = write(**{"zz_lone.py": lone, "zz_helper.py": HELPER})
    assert not is_changed_by("zz_lone", root / "zz_helper.py", FLIPPED)


def test_a_hook_that_only_lists_other_classes_is_not_followed_and_one_that_does_more_is(write):
    hook = "\n\n@hookimpl\ndef alignbench_methods():\n    from zz_helper import loss\n{more}    return [loss]\n"
    lone = "from alignbench import hookimpl, RewardSource\n\n\nclass Mine(RewardSource):\n    pass\n"
    root = write(**{
        "zz_lone.py": lone + hook.format(more=""), "zz_busy.py": lone + hook.format(more="    loss(1)\n"),
        "zz_helper.py": HELPER,
    })  # fmt: skip
    assert not is_changed_by("zz_lone", root / "zz_helper.py", FLIPPED)
    assert is_changed_by("zz_busy", root / "zz_helper.py", FLIPPED)


def test_modules_of_a_namespace_package_count(write):
    root = write(**{
        "zzspace/mine.py": LONE.format(helper=".loss"), "zzspace/loss.py": HELPER, "zzspace/stray.py": HELPER,
    })  # fmt: skip
    assert is_changed_by("zzspace.mine", root / "zzspace/mine.py", LONE.format(helper=".loss") + "x = 1\n")
    assert is_changed_by("zzspace.mine", root / "zzspace/loss.py", FLIPPED)
    assert not is_changed_by("zzspace.mine", root / "zzspace/stray.py", FLIPPED)


def test_a_module_named_after_from_counts(write):
    root = write(**{"zz_lone.py": LONE.format(helper="zzspace").replace("loss", "deep"), "zzspace/deep.py": HELPER})
    assert is_changed_by("zz_lone", root / "zzspace/deep.py", FLIPPED)


def test_a_helper_package_counts_whole(write):
    root = write(**{
        "zz_lone.py": LONE.format(helper="zz_pack.deep"), "zz_pack/__init__.py": "", "zz_pack/deep.py": HELPER,
        "zz_pack/far.py": HELPER, "zz_pack/table.csv": "1",
    })  # fmt: skip
    for name, text in (("deep.py", FLIPPED), ("far.py", FLIPPED), ("table.csv", "2"), ("new.py", "")):
        assert is_changed_by("zz_lone", root / "zz_pack" / name, text), name


@pytest.fixture
def package(write):
    return write(**{
        "zz_plug/__init__.py": "from zz_plug.mine import Mine\n", "zz_plug/mine.py": LONE.format(helper=".loss"),
        "zz_plug/loss.py": HELPER, "zz_plug/data/words.txt": "good", "zz_plug/fast.so": "\x7fELF",
        "zz_plug/tests/test_mine.py": "def test(): ...", "zz_plug/test_more.py": "", "zz_plug/.cache/x": "1",
    })  # fmt: skip


def test_a_byte_of_a_package_counts_its_tests_and_caches_do_not(package):
    plug = package / "zz_plug"
    for name, text in (("loss.py", FLIPPED), ("data/words.txt", "gold"), ("data/more.txt", ""), ("fast.so", "\x7fELG")):
        assert is_changed_by("zz_plug", plug / name, text), name
    for name in ("tests/test_mine.py", "tests/data.txt", "test_more.py", "__pycache__/x.pyc", ".cache/x"):
        assert not is_changed_by("zz_plug", plug / name, "changed = True"), name


def test_a_linked_folder_of_data_counts_and_a_link_back_up_ends(package, tmp_path):
    put(tmp_path / "big/weights", "1")
    (package / "zz_plug/big").symlink_to(tmp_path / "big")
    (package / "zz_plug/data/up").symlink_to(package / "zz_plug")
    assert is_changed_by("zz_plug", tmp_path / "big/weights", "2")


def test_an_archive_of_modules_counts_by_its_bytes(tmp_path, write, monkeypatch):
    write(**{"zz_lone.py": LONE.format(helper="zz_zipped.loss")})
    archive, keyed = tmp_path / "zz.zip", []
    monkeypatch.syspath_prepend(archive)
    for text in (HELPER, FLIPPED):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("zz_zipped/__init__.py", "")
            file.writestr("zz_zipped/loss.py", text)
        os.utime(archive, (0, next(TICK)))
        importlib.invalidate_caches()
        keyed.append(source("zz_lone"))
    assert keyed[0] != keyed[1]


def test_a_datas_name_counts(package):
    before = source("zz_plug")
    (package / "zz_plug/data/words.txt").rename(package / "zz_plug/data/terms.txt")
    assert source("zz_plug") != before


def test_where_code_and_data_lie_does_not_count(package, tmp_path, monkeypatch):
    before = source("zz_plug")
    shutil.move(package, tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    for name in [name for name in sys.modules if name.startswith("zz_plug")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    assert source("zz_plug") == before
    assert str(tmp_path / "elsewhere") in sys.modules["zz_plug"].__file__


@pytest.mark.parametrize(
    ("text", "is_seen"),
    [
        (HELPER.replace("# falls", "# it falls"), False),
        ("# a line above\n\n" + HELPER, False),
        (HELPER.replace("Of x.", "Of y."), False),
        (HELPER.replace('"""A loss."""', ""), False),
        (HELPER.replace('    """Of x."""\n', ""), False),
        (HELPER.replace("return -x", "return -x if x else 0"), True),
        (HELPER + 'TEXT = "a # b"\n', True),
        ("def loss(x):\n  return -x )", True),  # not Python: by its bytes
    ],
)
def test_words_for_the_reader_do_not_count(write, text, is_seen):
    root = write(**{"zz_lone.py": LONE.format(helper="zz_helper"), "zz_helper.py": HELPER})
    assert is_changed_by("zz_lone", root / "zz_helper.py", text) is is_seen


def test_a_docstring_that_the_code_reads_counts(write):
    reads = HELPER + "PROMPT = loss.__doc__\n"
    root = write(**{"zz_lone.py": LONE.format(helper="zz_helper"), "zz_helper.py": reads})
    assert is_changed_by("zz_lone", root / "zz_helper.py", reads.replace("Of x.", "Of y."))


def test_a_docstring_that_another_module_reads_counts(write):
    reads = LONE.format(helper="zz_helper") + "PROMPT = loss.__doc__\n"
    root = write(**{"zz_lone.py": reads, "zz_helper.py": HELPER})
    assert is_changed_by("zz_lone", root / "zz_helper.py", HELPER.replace("Of x.", "Of y."))


def test_data_beside_a_lone_module_counts_where_the_module_asks_for_it(write):
    reads = LONE.format(helper="zz_helper") + (
        "from pathlib import Path\nHERE = Path(__file__).parent\n"
        "WORDS, MORE = (HERE / 'words.txt'), HERE / 'more'\nASIDE = '../stray', '', '.', 'helpers', 'absent.txt'\n"
    )
    blind = LONE.format(helper="zz_helper") + "WORDS = 'words.txt'\n"
    root = write(**{
        "zz_lone.py": reads, "zz_blind.py": blind, "zz_helper.py": HELPER, "words.txt": "a", "more/deep/x.json": "1",
        "stray.txt": "a", "../stray": "a", "helpers/__init__.py": "", "helpers/data.txt": "a",
    })  # fmt: skip
    assert is_changed_by("zz_lone", root / "words.txt", "b")
    assert is_changed_by("zz_lone", root / "more/deep/x.json", "2")
    assert is_changed_by("zz_lone", root / "absent.txt", "now it is there")
    for other in ("stray.txt", "../stray", "helpers/data.txt"):
        assert not is_changed_by("zz_lone", root / other, "b")
    assert not is_changed_by("zz_blind", root / "words.txt", "b")


def installed(site: Path, version: str, origin: str | None = None) -> None:
    info = site / "zz_dist-1.dist-info"
    put(info / "METADATA", f"Metadata-Version: 2.1\nName: zz-dist\nVersion: {version}\n")
    put(info / "top_level.txt", "zz_loss\n")
    if origin is not None:
        put(info / "direct_url.json", origin)
    closure._distributions.cache_clear()
    closure._owners.cache_clear()


def test_a_distribution_from_an_index_counts_by_version(write):
    root = write(**{"zz_lone.py": LONE.format(helper="zz_loss"), "zz_loss.py": HELPER})
    installed(root, "1.0")
    before = source("zz_lone")
    closure._MEMO.clear()
    installed(root, "1.1")
    assert source("zz_lone") != before
    assert not is_changed_by("zz_lone", root / "zz_loss.py", FLIPPED)


def test_a_distribution_from_a_folder_counts_by_its_files(write):
    root = write(**{"zz_lone.py": LONE.format(helper="zz_loss"), "zz_loss.py": HELPER})
    installed(root, "1.0", '{"dir_info": {"editable": true}, "url": "file:///somewhere"}')
    assert is_changed_by("zz_lone", root / "zz_loss.py", FLIPPED)


def test_reading_runs_nothing(write):
    lone = (
        LONE.format(helper="alignbench.errors").replace("import loss", "import UserError")
        + "def f():\n    import zz_helper\n"
    )
    write(**{"zz_lone.py": lone, "zz_helper.py": "raise SystemExit\n"})
    source("zz_lone")
    assert "zz_helper" not in sys.modules


def test_an_answer_kept_on_disk_is_the_answer_and_a_damaged_file_costs_nothing(write, tmp_path):
    write(**{"zz_lone.py": LONE.format(helper="zz_helper"), "zz_helper.py": HELPER})
    first = source("zz_lone")
    (file,) = (tmp_path / "home/code").iterdir()
    for text in (file.read_text(), "{", "[]", '{"x": 1}'):
        file.write_text(text)
        code._answers.cache_clear()
        closure._MEMO.clear()
        assert source("zz_lone") == first


def test_the_same_size_and_a_time_put_back_do_not_hide_an_edit_from_the_next_process(write):
    root = write(**{"zz_lone.py": LONE.format(helper="zz_helper"), "zz_helper.py": HELPER})
    ask = "import zz_lone; from alignbench.planning.keys import class_source as s; print(s(zz_lone.Mine))"
    path = os.pathsep.join([str(root), str(Path(alignbench.__file__).parents[1])])

    def asked() -> str:
        return subprocess.check_output([sys.executable, "-c", ask], env={**os.environ, "PYTHONPATH": path}, text=True)

    before, stat = asked(), (root / "zz_helper.py").stat()
    assert asked() == before
    (root / "zz_helper.py").write_text(FLIPPED)
    os.utime(root / "zz_helper.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert asked() != before
