"""Preference data of one's own: a file, a folder or a data set on the Hub, in any form that `formats` reads.

    task: {name: preferences, options: {source: pairs.csv, columns: {chosen: better, rejected: worse}}}

Prompts and pairs are dealt by dialogue, so that none is trained on and scored by; with `test_source` or `test_split`
what scores comes from there alone. The gold reward is a reward model of its own, fitted to a share of the human pairs
that no other stage sees; it is as good as its accuracy on the held-out pairs, which is printed, and no better. `rubric`
is what judges and people are told to look at: a YAML file that they share, or its fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt, ValidationError

from alignbench import api
from alignbench.api import Demonstration, HeldOutPairs, Pair, RecipeBuilder, RewardSource, Rubric, Split, Stage, Task
from alignbench.errors import UserError, nearest, printable
from alignbench.tasks import pairs as data

Share = Annotated[float, Field(gt=0, lt=1)]
Source = str | tuple[str, ...]


class RubricOptions(api.Config):
    """Fields of `api.Rubric`."""

    guideline: str = (
        "Read each dialogue and say whether its last reply is a good one: right, to the point, and what was asked for."
    )
    subject: str = "Dialogue"
    quality: str = "Good reply"
    best: str = "Yes"
    worst: str = "No"
    is_continuation: bool = False


class Preferences(Task):
    name = "preferences"
    summary = "human preference pairs of your own, from files or the Hub"
    default_source: ClassVar[Source | None] = None
    default_data_dir: ClassVar[str | None] = None
    rubric = Rubric(**RubricOptions().model_dump())

    class Config(api.Config):
        source: Source = ()  # Hub id; or files: .jsonl, .json, .csv, .parquet, .arrow; folders; patterns
        split: str = "train"  # of the Hub data set, or of a folder
        data_dir: str | None = None  # folder within the Hub data set
        test_source: Source = ()  # where prompts and pairs that score come from; by default a share of `source`
        test_split: str | None = None  # of it, or of `source`
        columns: Mapping[str, str] = {}  # the data's names for our columns: {chosen: better, rejected: worse}
        rubric: str | RubricOptions | None = None  # what raters look at: a YAML file, or its fields
        max_new_tokens: PositiveInt = 64
        max_prompt_chars: PositiveInt = 600  # longer dialogues are left out
        train: Share = 0.3  # shares of the dialogues, as the next four; with data for tests of their own, of those two
        label: Share = 0.25
        eval: Share = 0.15
        gold: Share = 0.2
        held_out: Share = 0.1

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.max_new_tokens = config.max_new_tokens
        self.source = config.source or self.default_source
        if not self.source:
            raise UserError("source: no data is named; give a file, a folder or a Hub id in task.options")
        is_default = self.source == self.default_source and config.data_dir is None
        self.data_dir = self.default_data_dir if is_default else config.data_dir
        if (given := config.rubric) is not None:
            self.rubric = Rubric(**(_read_rubric(given) if isinstance(given, str) else given).model_dump())

    def digest(self) -> str:
        """Over the pairs as they are read: a file that moves, or is packed, is the same data."""
        parts = [self._loaded.pairs, [] if self._test is None else self._test.pairs, [self.rubric]]
        return hashlib.sha256("\n".join(json.dumps(part) for part in parts).encode()).hexdigest()

    @cached_property
    def _loaded(self) -> data.Loaded:
        c = self.config
        return self._short(data.load_pairs(self.source or (), c.split, self.data_dir, c.columns))

    @cached_property
    def _test(self) -> data.Loaded | None:
        """None: a share of the one source scores."""
        c = self.config
        if not (c.test_source or c.test_split):
            return None
        found = data.load_pairs(c.test_source or self.source or (), c.test_split or c.split, self.data_dir, c.columns)
        return self._short(found)

    def _short(self, loaded: data.Loaded) -> data.Loaded:
        """Without prompts that are too long."""
        most = self.config.max_prompt_chars
        short = [pair for pair in loaded.pairs if len(pair.prompt) <= most]
        if not short:
            raise UserError(f"every prompt is longer than max_prompt_chars={most}; raise it in task.options")
        long = {f"pairs whose prompt is over {most} characters": len(loaded.pairs) - len(short)}
        return data.Loaded(short, {**loaded.left_out, **long}, loaded.noted)

    @property
    def all_pairs(self) -> list[Pair]:
        return [*self._loaded.pairs, *(self._test.pairs if self._test else ())]

    def every_prompt(self) -> Collection[str]:
        return dict.fromkeys(pair.prompt for pair in self.all_pairs)

    @cached_property
    def splits(self) -> data.PairSplits:
        c = self.config
        shares = data.Shares(c.train, c.label, c.eval, c.gold, c.held_out)
        test = None if self._test is None else self._test.pairs
        return data.pair_splits(self._loaded.pairs, self.data_seed, shares, test)

    def prompts(self, split: Split) -> list[str]:
        return list(dict.fromkeys(pair.prompt for pair in getattr(self.splits, split)))

    def demonstrations(self) -> list[Demonstration]:
        return [Demonstration(pair.prompt, pair.chosen) for pair in self.splits.train]

    def human_pairs(self, count: int, seed: int) -> list[Pair]:
        return self.splits.label[:count]

    def held_out_pairs(self) -> HeldOutPairs:
        return HeldOutPairs(list(self.splits.held_out), None)

    def gold(self, build: RecipeBuilder) -> Stage:
        return build.reward_model(None, build.stage("gold_pairs", save_gold_pairs, {}))

    def load_gold(self, folder: Path, base: Any) -> RewardSource:
        from alignbench.feedback.reward_model import RewardModel

        return RewardModel.load(folder, base, adapter="gold")

    def gold_card(self, gold: RewardSource, second: RewardSource | None = None) -> dict[str, float]:
        held_out = self.splits.held_out
        prompts = [p.prompt for p in held_out]
        gap = gold.score(prompts, [p.chosen for p in held_out]) - gold.score(prompts, [p.rejected for p in held_out])
        return {"gold_pair_accuracy": float((gap > 0).float().mean()), "n": len(held_out)}

    def describe(self) -> str:
        said = [_told(self.source or (), self._loaded)]
        if self._test is not None:
            c = self.config
            named = c.test_source or f"split {c.test_split}"
            said += [f"scored by {_told(named, self._test)}"]
            if overlap := self._overlap():
                said.append(f"{overlap} pairs to prompts that score are not trained on")
        return f"{self.name}: {'; '.join(said)}"

    def _overlap(self) -> int:
        scored = {data.opening_of(pair) for pair in (self._test.pairs if self._test else ())}
        return sum(data.opening_of(pair) in scored for pair in self._loaded.pairs)


def _told(source: Source, loaded: data.Loaded) -> str:
    names = [source] if isinstance(source, str) else source
    said = [f"{len(loaded.pairs)} preference pairs of {', '.join(Path(name).name for name in names)}"]
    said += [f"left out: {lost}"] if (lost := data.in_words(loaded.left_out)) else []
    return "; ".join([*said, *([noted] if (noted := data.in_words(loaded.noted)) else [])])


def _read_rubric(name: str) -> RubricOptions:
    import yaml

    path = Path(name).expanduser()
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"rubric: {name} cannot be read ({error.strerror}); name a YAML file") from None
    except (yaml.YAMLError, ValueError):
        raise UserError(f"rubric: {name} is no YAML in UTF-8; write fields such as `guideline: ...`") from None
    if not isinstance(read, dict):
        raise UserError(f"rubric: {name} holds {type(read).__name__}; write fields such as `guideline: ...`")
    known = RubricOptions.model_fields
    if strange := next((str(field) for field in read if field not in known), None):
        raise UserError(f"rubric: {name} has a field '{printable(strange, 40)}'; {nearest(strange, known)}")
    try:
        return RubricOptions.model_validate(read)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"rubric: {name}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def save_gold_pairs(work: Any) -> None:
    work.save_rows([{**p._asdict(), "ranked": [p.chosen, p.rejected]} for p in work.task.splits.gold])
