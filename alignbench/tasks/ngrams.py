"""A second gold reward of another kind: a ridge on which words and letters a text has.

TF-IDF of word 1-2-grams and of character 3-5-grams within words, scikit-learn's, on the same rated sentences as the
first gold. It reads no weight of the base model, so that it does not share the mistakes of its features; it knows no
order beyond two words, and nothing of a word it has not seen. Where the two golds disagree about a row, neither is
proof.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import api
from alignbench.api import RewardSource

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.tasks.ratings import Sentence

VIEWS: dict[str, dict[str, Any]] = {
    "word": {"analyzer": "word", "ngram_range": (1, 2)},
    "char": {"analyzer": "char_wb", "ngram_range": (3, 5)},
}
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
TERMS, NUMBERS = "terms.json", "ngrams.safetensors"


class NgramRater(RewardSource):
    """Predicts the mean human rating of prompt + completion, -4 to 4."""

    name = "ngram_rater"

    def __init__(self, vectorizers: Sequence[Any], weight: Any, bias: float) -> None:
        super().__init__(api.Config())
        self.vectorizers = vectorizers  # one a view
        self.weight = weight  # (F,) float64, the views side by side
        self.bias = bias

    @classmethod
    def fit(cls, sentences: Sequence[Sentence]) -> NgramRater:
        """The penalty is that of least leave-one-out error (closed form)."""
        from sklearn.linear_model import RidgeCV

        rater = cls([_vectorizer(view) for view in VIEWS], None, 0.0)
        texts = [s.text for s in sentences]
        for vectorizer in rater.vectorizers:
            vectorizer.fit(texts)
        ridge = RidgeCV(alphas=PENALTIES).fit(rater._features(texts), [s.mean for s in sentences])
        rater.weight, rater.bias = ridge.coef_, float(ridge.intercept_)
        return rater

    def _features(self, texts: Sequence[str]) -> Any:
        """(B, F) sparse."""
        from scipy.sparse import hstack

        return hstack([vectorizer.transform(texts) for vectorizer in self.vectorizers], format="csr")

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        import torch

        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        return torch.from_numpy(self._features(texts) @ self.weight + self.bias).float()

    def save(self, folder: Path) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        terms = {view: v.get_feature_names_out().tolist() for view, v in zip(VIEWS, self.vectorizers, strict=True)}
        (folder / TERMS).write_text(json.dumps(terms), encoding="utf-8")
        idf = {view: v.idf_ for view, v in zip(VIEWS, self.vectorizers, strict=True)}
        save_file({**idf, "weight": self.weight, "bias": np.array([self.bias])}, folder / NUMBERS)

    @classmethod
    def load(cls, folder: Path) -> NgramRater:
        from safetensors.numpy import load_file

        terms, numbers = json.loads((folder / TERMS).read_text(encoding="utf-8")), load_file(folder / NUMBERS)
        vectorizers = [_vectorizer(view, terms[view]) for view in VIEWS]
        for view, vectorizer in zip(VIEWS, vectorizers, strict=True):
            vectorizer.idf_ = numbers[view]
        return cls(vectorizers, numbers["weight"], float(numbers["bias"][0]))


def _vectorizer(view: str, terms: Sequence[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # once seen is never seen again often enough to weigh; with terms given, scikit-learn counts nothing
    return TfidfVectorizer(**VIEWS[view], sublinear_tf=True, min_df=2, vocabulary=terms)
