"""What a row compares: its replies, how they are rated, and who preferred which."""

from typing import Any, NamedTuple

import numpy as np

from datamodules.rendering.segments import BadRow, DropRow, Reply, Row, text_of


class Comparison(NamedTuple):
    """What a row compares."""

    prompt: Row
    """the row that the prompt is made of"""
    replies: list[Reply]
    """K of them"""
    ratings: np.ndarray
    """(K,)"""
    preferred: np.ndarray
    """(K, K): the share of people who preferred the first to the second reply"""

    def differ(self, first: int, second: int) -> bool:
        """Whether two replies make a pair: other texts, white space apart, of other ratings."""
        if self.ratings[first] == self.ratings[second]:
            return False
        texts = [self.replies[i] for i in (first, second)]
        if all(isinstance(text, str) for text in texts):
            texts = [" ".join(str(text).split()) for text in texts]
        return texts[0] != texts[1]


def comparison(row: Row) -> Comparison:
    """What a row compares.

    Raises:
        BadRow: a field is missing or of a wrong type.
        DropRow: the conversations do not differ in their last message alone.
    """
    if row.get("messages") is None and not isinstance(row.get("chosen"), list):
        text_of(row, "instruction")
    if row.get("chosen") is not None:
        return _chosen(row)
    texts = row.get("replies")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRow("`replies` is not a list of texts")
    given = row.get("ratings")
    if given is None:
        given = [float(len(texts) - rank) for rank in range(len(texts))]
    return Comparison(row, texts, *ratings_of(given, len(texts)))


def ratings_of(given: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(K,) mean ratings and (K, K) shares who preferred, from K ratings or a list of them for each labeler.

    Raises:
        BadRow: not K numbers, or a reply that nobody rated.
    """
    labelers = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
    numbers = (int, float, type(None)) if labelers is given else (int, float)
    for ratings in labelers:
        if not isinstance(ratings, list) or len(ratings) != count:
            rated = len(ratings) if isinstance(ratings, list) else 0
            raise BadRow(f"{count} `replies` but {rated} `ratings`, or an empty one among them")
        if not all(isinstance(rating, numbers) for rating in ratings):
            raise BadRow(
                f"{count} `replies` but not {count} numbers as `ratings`, or an empty one among them"
            )
    if any(rating is not None and np.isinf(rating) for ratings in labelers for rating in ratings):
        raise BadRow("`ratings` are not all finite numbers")
    table = np.array([[np.nan if r is None else r for r in ratings] for ratings in labelers], dtype=float)
    if np.isnan(table).all(axis=0).any():
        raise BadRow("`ratings`: a reply that nobody rated")
    difference = table[:, :, None] - table[:, None, :]
    votes = np.where(np.isnan(difference), np.nan, (np.sign(difference) + 1) / 2)
    compared = ~np.isnan(votes)
    # a pair that nobody compared is decided by the mean ratings
    mean = np.nanmean(table, axis=0)
    by_mean = (np.sign(mean[:, None] - mean[None, :]) + 1) / 2
    shares = np.nansum(votes, axis=0) / np.maximum(compared.sum(axis=0), 1)
    return mean, np.where(compared.any(axis=0), shares, by_mean)


def _chosen(row: Row) -> Comparison:
    """A row of `chosen` and `rejected`: two texts, or two conversations that differ in the last message."""
    share = row.get("agreement")
    share = 1.0 if share is None else share
    if not isinstance(share, int | float) or not 0.5 < share <= 1:
        raise BadRow(f"`agreement` is no share above 0.5 and at most 1 (it is {share})")
    preferred = np.array([[0.5, share], [1 - share, 0.5]])
    ratings = np.array([1.0, 0.0])
    if row.get("ratings") is not None:  # of two scores; equal ones are a tie
        ratings, by_score = ratings_of(row["ratings"], 2)
        preferred = preferred if row.get("agreement") is not None else by_score
    if not isinstance(row["chosen"], list):
        return Comparison(row, [text_of(row, "chosen"), text_of(row, "rejected")], ratings, preferred)
    chosen, rejected = row["chosen"], row.get("rejected")
    if not isinstance(rejected, list):
        raise BadRow("`chosen` is a conversation but `rejected` is none")
    if not all(isinstance(message, dict) for message in [*chosen, *rejected]):
        raise BadRow("`chosen` and `rejected` hold something else than messages of role and content")
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    last = [messages[-1] if messages else {} for messages in (chosen, rejected)]
    if shared is None or len(chosen) != shared + 1 or len(rejected) != shared + 1:
        raise DropRow("`chosen` and `rejected` do not differ in their last message alone")
    if any(message.get("role") != "assistant" for message in last):
        raise DropRow("the last message is not the assistant's")
    replies = [_reply(message) for message in last]
    asked = {**row, "messages": chosen[:shared] or row.get("messages")}
    return Comparison(asked, replies, ratings, preferred)


def _reply(message: dict[str, Any]) -> Reply:
    """A conversation's last message as a text, or as it is where it calls tools or holds more."""
    more = any(value is not None for key, value in message.items() if key not in ("role", "content"))
    return message if more or isinstance(message.get("content"), list) else text_of(message, "content")
