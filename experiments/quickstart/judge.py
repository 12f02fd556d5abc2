"""The independent judge (the VADER lexicon, never trained on) and how well scores agree with people."""

from collections.abc import Sequence

import numpy as np

from experiments.cli.user_errors import UserError


def vader(texts: Sequence[str]) -> list[float]:
    """The compound sentiment of each text by the VADER lexicon, from −1 (negative) to +1 (positive).

    Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
    Text", 2014.

    Raises:
        UserError: if the `vaderSentiment` package is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise UserError("the judge needs the package vaderSentiment: install trivium[quickstart]") from error
    analyzer = SentimentIntensityAnalyzer()
    return [float(analyzer.polarity_scores(text)["compound"]) for text in texts]


def pair_accuracy(
    scores: Sequence[float], ratings: Sequence[float], gap: float = 1.0
) -> tuple[float, float, int]:
    """How often the text that people rated higher is scored higher, over the pairs at least `gap` apart.

    A tie in score counts one half. Each text is in many pairs, so pairs are not independent: the standard
    error is the delete-one-text jackknife (Efron and Stein, 1981), which is clustered by text.

    Args:
        scores: one score per text, on any scale.
        ratings: one rating per text, by people.
        gap: smallest difference in rating, in the unit of the ratings.

    Returns:
        Accuracy, its standard error, and the number of pairs. Both are nan if there is no pair; the standard
        error is nan if one text is in all pairs.
    """
    assert len(scores) == len(ratings), f"{len(scores)} scores and {len(ratings)} ratings"
    score, rating = np.asarray(scores, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    pairs = rating[:, None] - rating[None, :] >= gap - 1e-9  # (n, n): row rated higher than column
    margin = score[:, None] - score[None, :]
    won = np.where(pairs, (margin > 0) + 0.5 * (margin == 0), 0.0)
    count, wins = int(pairs.sum()), float(won.sum())
    if count == 0:
        return float("nan"), float("nan"), 0
    # Without text k: all pairs but those of row k and column k.
    count_without = count - pairs.sum(axis=0) - pairs.sum(axis=1)
    wins_without = wins - won.sum(axis=0) - won.sum(axis=1)
    if (count_without == 0).any():
        return wins / count, float("nan"), count
    without = wins_without / count_without
    n = len(score)
    stderr = float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    return wins / count, stderr, count


def distinct_bigrams(texts: Sequence[str], limit: int | None = None) -> float:
    """Distinct over all word bigrams of the texts together: 1 if none repeats, near 0 for "great great …".

    Words are what is between spaces, in lower case; a bigram never spans two texts. The more text, the more
    repeats, so samples of different size do not compare: give both the same `limit`, the smaller one's
    `bigram_count`; only so many of the first ones are looked at. 0 if there is no bigram.
    """
    bigrams = [pair for text in texts for pair in _bigrams(text)][:limit]
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def bigram_count(texts: Sequence[str]) -> int:
    """Number of word bigrams of the texts together, repeats included."""
    return sum(len(_bigrams(text)) for text in texts)


def _bigrams(text: str) -> list[tuple[str, str]]:
    words = text.lower().split()
    return list(zip(words, words[1:], strict=False))
