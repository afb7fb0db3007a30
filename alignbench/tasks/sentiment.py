"""Continue a movie-review sentence so that people like what it says: the controlled setting, on real human ratings.

Ziegler et al. 2019 (arXiv:1909.08593) and the DPO paper (arXiv:2305.18290, section 6) compare methods where the true
reward is known. Here it is a *rater model*, a ridge regression from the frozen base model's hidden states to the mean
of about 17 human ratings a sentence (Hutto & Gilbert, ICWSM 2014; 10,605 sentences, -4 to 4). Its own validity on
held-out ratings is printed with every table, and so is the share of completions that lie beyond what it was fitted to
(`reach`). A second gold without the model (`ngrams`) scores every completion beside it.

What the gold and a fitted reward model (the proxy) share: the base model's weights below them, the corpus, and its
raters. The panel's votes are centred on the gold's own mean, and the real human pairs order sentences the gold was
fitted to; both feed PPO's reward model and DPO alike, and neither RLAIF's judge nor Constitutional AI's. What they do
not share: the gold is linear in frozen mid-layer features of the *base* model, is fitted to single numbers, and sees
no sample of any policy; the proxy is a LoRA adapter and head on the *start point*, and is fitted to orderings. No
prompt is in two of the train, label and eval sets, and none opens a sentence the gold was fitted to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import PositiveInt

from alignbench import api
from alignbench.api import (
    Demonstration,
    HeldOutPairs,
    HumanModel,
    Pair,
    RecipeBuilder,
    RewardSource,
    Rubric,
    Split,
    Stage,
    Task,
    Work,
)
from alignbench.assets.fetch import asset_folder
from alignbench.tasks import other_ratings, ratings
from alignbench.tasks.ngrams import NgramRater
from alignbench.tasks.reach import Reach

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.engine.resident import Resident
    from alignbench.engine.tokens import Codec

DEPTHS = (0.4, 0.6, 0.8)  # of the model's blocks: middle layers carry sentiment best (12, 18, 24 of 30)
ROWS = 64


class Sentiment(Task):
    name = "sentiment"
    summary = "movie-review sentences, gold reward fitted to human ratings"
    rubric = Rubric(
        guideline="Read each sentence from a movie review and say whether the writer's view of the film is positive or "
        "negative.",
        subject="Review",
        quality="Sentiment",
        best="Positive",
        worst="Negative",
        is_continuation=True,
    )

    class Config(api.Config):
        rating: PositiveInt = 4000  # sentences that fit the gold rater; human pairs and demonstrations come from them
        held_out: PositiveInt = 1000  # sentences for the gold's validity and for reward-model accuracy
        train: PositiveInt = 2000  # prompts, as the next two
        label: PositiveInt = 1500
        eval: PositiveInt = 512
        prompt_words: PositiveInt = 5
        max_new_tokens: PositiveInt = 24
        max_completion_tokens: PositiveInt = 32  # of the human sentences; a longer one is cut
        min_gap: float = 0.3  # rating points between the two sentences of a human pair

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.max_new_tokens = config.max_new_tokens

    @property
    def max_completion_tokens(self) -> int:
        return self.config.max_completion_tokens

    def digest(self) -> str:
        movies = hashlib.sha256((asset_folder("movie-ratings") / "movie_ratings.jsonl").read_bytes()).hexdigest()
        return hashlib.sha256(f"{movies} {other_ratings.digest()}".encode()).hexdigest()

    @cached_property
    def splits(self) -> ratings.Splits:
        c = self.config
        sentences = ratings.load_sentences(asset_folder("movie-ratings") / "movie_ratings.jsonl")
        sizes = ratings.SplitSizes(c.rating, c.held_out, c.train, c.label, c.eval)
        return ratings.split(sentences, self.data_seed, sizes, c.prompt_words)

    def prompts(self, split: Split) -> list[str]:
        return getattr(self.splits, split)

    def demonstrations(self) -> list[Demonstration]:
        return ratings.demonstrations(self.splits.rating, self.config.prompt_words)

    def human_pairs(self, count: int, seed: int) -> list[Pair]:
        return ratings.human_pairs(self.splits.rating, count, seed, self.config.min_gap)

    def held_out_pairs(self) -> HeldOutPairs:
        held_out = self.splits.held_out
        pairs = ratings.human_pairs(held_out, len(held_out) // 2, self.data_seed, self.config.min_gap)
        return HeldOutPairs(pairs, ratings.human_accuracy(held_out, pairs))

    def other_pairs(self, count: int) -> dict[str, HeldOutPairs]:
        return other_ratings.held_out_pairs(count, self.data_seed, self.config.min_gap)

    def single_ratings(self) -> dict[str, list[ratings.Sentence]]:
        movies = ratings.load_sentences(asset_folder("movie-ratings") / "movie_ratings.jsonl")
        others = {kind: other_ratings.sentences(kind, self.data_seed) for kind in other_ratings.KINDS}
        return {"movies": ratings.in_order(movies, self.data_seed), **others}

    def other_texts(self) -> list[str]:
        """Of newspaper editorials: whole sentences as reviews are, and about anything but a film."""
        return [sentence.text for sentence in other_ratings.sentences("editorials", self.data_seed)]

    def gold(self, build: RecipeBuilder) -> Stage:
        return build.stage("gold", fit_rater, {}, depths=list(DEPTHS))

    def load_gold(self, folder: Path, base: Any) -> RewardSource:
        return Rater.load(folder, base)

    def second_gold(self, build: RecipeBuilder) -> Stage:
        return build.stage("second_gold", fit_ngrams, {})

    def load_second_gold(self, folder: Path) -> RewardSource:
        return NgramRater.load(folder)

    def gold_card(self, gold: RewardSource, second: RewardSource | None = None) -> dict[str, float]:
        """Correlation with the held-out sentences' mean ratings, of whole sentences and of what is left of them where a
        policy's completion would be cut, and agreement with their human pairs. A cut one's rating is of the whole."""
        held_out, rater = self.splits.held_out, cast(Rater, gold)
        texts, ratings_of = [s.text for s in held_out], [s.mean for s in held_out]
        cut = self.as_completions(texts, rater.base.codec)
        card: dict[str, float] = {}
        for prefix, source in (("", gold), ("second_", second)):
            if source is None:
                continue
            scores, scores_cut = source.score([""] * len(texts), texts), source.score(*cut)
            by_text = dict(zip(texts, scores.tolist(), strict=True))
            pairs = self.held_out_pairs().pairs
            card[f"{prefix}gold_pearson"] = pearson(scores, ratings_of)
            card[f"{prefix}gold_pearson_cut"] = pearson(scores_cut, ratings_of)
            card[f"{prefix}gold_pair_accuracy"] = sum(by_text[p.chosen] > by_text[p.rejected] for p in pairs) / len(
                pairs
            )
        card["gold_extrapolates_cut"] = float(rater.extrapolates(*cut).double().mean())
        return {**card, "n": len(held_out)}

    def as_completions(self, texts: Sequence[str], codec: Codec) -> tuple[list[str], list[str]]:
        """Sentences as a policy's text is read: their openings, and the rest up to the limit of a completion."""
        openings = [" ".join(text.split()[: self.config.prompt_words]) for text in texts]
        rests = [codec.plain(text[len(opening) :]) for text, opening in zip(texts, openings, strict=True)]
        return openings, [codec.text(rest[: self.config.max_new_tokens]) for rest in rests]

    def describe(self) -> str:
        return (
            f"sentiment: openings of {self.config.prompt_words} words of movie-review sentences, completions of up to "
            f"{self.config.max_new_tokens} tokens; gold fitted to {self.config.rating} rated sentences"
        )


def fit_rater(work: Work) -> None:
    """Ridge from frozen features to mean ratings, on all sentences of the rating split."""
    with work.resident() as base:
        splits = work.task.splits  # type: ignore[attr-defined]  # this stage belongs to Sentiment alone
        rater = Rater.fit(base, splits.rating, work.options["depths"], work.progress)
        rater.calibrate([s.text for s in splits.held_out], work.progress)
        rater.save(work.folder)
        work.count(tokens_judged=rater.tokens_judged)


def fit_ngrams(work: Work) -> None:
    """The second gold, on the sentences of the first."""
    NgramRater.fit(work.task.splits.rating).save(work.folder)  # type: ignore[attr-defined]  # as above


def pearson(scores: Tensor, ratings_of: Sequence[float]) -> float:
    """Of a source's scores of some texts with people's mean ratings of them."""
    import torch

    return float(torch.corrcoef(torch.stack([scores.double().cpu(), torch.tensor(ratings_of).double()]))[0, 1])


class Rater(HumanModel):
    """Predicts the mean human rating of prompt + completion, -4 to 4. Reads through the frozen base model."""

    name = "rater"

    def __init__(self, base: Resident, depths: Sequence[float], weight: Tensor, bias: float, rating_sd: float) -> None:
        super().__init__(api.Config())
        from alignbench.engine.resident import blocks

        self.base = base
        self.depths = list(depths)
        self.layers = [round(depth * len(blocks(base.base))) - 1 for depth in depths]
        self.weight = weight  # (F,) float64, features as they come
        self.bias = bias
        self.rating_sd = rating_sd
        self.reach: Reach | None = None
        self._read: tuple[list[str], Tensor] | None = None  # of the texts read last: their features

    @classmethod
    def fit(
        cls, base: Resident, sentences: Sequence[ratings.Sentence], depths: Sequence[float], progress: Any
    ) -> Rater:
        """Ridge with the penalty of least leave-one-out error (closed form, Golub et al. 1979)."""
        import torch

        rater = cls(base, depths, torch.zeros(0), 0.0, ratings.rating_dispersion(sentences))
        features = rater.features([s.text for s in sentences], progress).double()  # (S, F)
        target = torch.tensor([s.mean for s in sentences], dtype=torch.float64)
        centre, scale = features.mean(0), features.std(0).clamp_min(1e-8)
        x, y = (features - centre) / scale, target - target.mean()
        u, s, vt = torch.linalg.svd(x, full_matrices=False)
        projected = u.T @ y

        def leave_one_out(penalty: float) -> float:
            shrink = s**2 / (s**2 + penalty)
            residual = y - u @ (shrink * projected)
            leverage = (u**2 * shrink).sum(1) + 1 / len(y)
            return float(((residual / (1 - leverage)) ** 2).mean())

        penalty = min((10.0**k for k in range(-1, 8)), key=leave_one_out)
        rater.weight = (vt.T @ (s / (s**2 + penalty) * projected)) / scale
        rater.bias = float(target.mean() - centre @ rater.weight)
        scalars = {"penalty": torch.tensor(penalty).double(), "count": torch.tensor(len(y)).double()}
        rater.reach = Reach(
            {"centre": centre, "scale": scale, "directions": vt.float().contiguous(), "squares": s**2, **scalars}
        )
        return rater

    def calibrate(self, texts: Sequence[str], progress: Any = lambda done, total: None) -> None:
        """Take people's sentences that were not fitted as the measure of how far a text may lie."""
        self._reached().calibrate(self.features(texts, progress), self._lengths(texts))

    def leverage(self, texts: Sequence[str]) -> Tensor:
        """(B,) float64."""
        return self._reached().leverage(self._features_once(texts))

    def extrapolates(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        return self._reached().is_beyond(self._features_once(texts), self._lengths(texts))

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """In tokens, as `features` averages over."""
        return [len(self.base.codec.prompt(text)) for text in texts]

    def _reached(self) -> Reach:
        if self.reach is None:
            raise RuntimeError("a rater tells of its reach once it is fitted")
        return self.reach

    def _features_once(self, texts: list[str] | Sequence[str]) -> Tensor:
        """The model reads texts once that are scored and then asked how far they lie."""
        if self._read is None or self._read[0] != list(texts):
            self._read = (list(texts), self.features(texts))
        return self._read[1]

    def features(self, texts: Sequence[str], progress: Any = lambda done, total: None) -> Tensor:
        """(B, F) float32: hidden states of a few blocks, averaged over the text's tokens, side by side."""
        import torch

        codec = self.base.codec
        ids = [codec.prompt(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # texts of one length share a batch
        rows: dict[int, Tensor] = {}
        for start in range(0, len(order), ROWS):
            part = order[start : start + ROWS]
            batch = codec.padded([ids[i] for i in part], [[]] * len(part))
            weight = batch.is_token[..., None].float()
            means = [
                (state.float() * weight).sum(1) / weight.sum(1) for state in self.base.block_states(batch, self.layers)
            ]
            rows.update(zip(part, torch.cat(means, dim=1).cpu(), strict=True))
            self.tokens_judged += sum(len(ids[i]) for i in part)
            progress(start + len(part), len(order))
        return torch.stack([rows[i] for i in range(len(ids))])

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        features = self._features_once([p + c for p, c in zip(prompts, completions, strict=True)])
        return (features.double() @ self.weight + self.bias).float()

    def save(self, folder: Path) -> None:
        import json

        from safetensors.torch import save_file

        save_file({"weight": self.weight.contiguous()}, folder / "rater.safetensors")
        facts = {"depths": self.depths, "bias": self.bias, "rating_sd": self.rating_sd}
        (folder / "rater.json").write_text(json.dumps(facts))
        self._reached().save(folder)

    @classmethod
    def load(cls, folder: Path, base: Resident) -> Rater:
        import json

        from safetensors.torch import load_file

        facts = json.loads((folder / "rater.json").read_text())
        weight = load_file(folder / "rater.safetensors")["weight"]
        rater = cls(base, facts["depths"], weight, facts["bias"], facts["rating_sd"])
        rater.reach = Reach.load(folder)
        return rater
