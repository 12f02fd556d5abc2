"""What a row ranks: pairs, lists of replies, transcripts and UltraFeedback → `chosen` and `rejected`, or
`replies` and `ratings`."""

from typing import Any

from datamodules.layouts.asked import QUESTIONS, read_asked, stripped
from datamodules.layouts.chats import (
    CHATS,
    chat_columns,
    from_json,
    is_transcript,
    is_tree,
    messages_of,
    ranked,
    transcript,
)
from datamodules.layouts.layout import Layout
from datamodules.rendering.segments import BadRow, present_in

PAIRS = {
    "chosen": "rejected",
    "chosen_response": "rejected_response",
    "preferred_output": "non_preferred_output",
}
PAIR_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
LISTS = ("replies", "completions", "generations", "responses")
RATINGS = ("ratings", "scores")
SCORES = ("overall_score", "rating", "score", "fine-grained_score")
"""of one of the completions of UltraFeedback"""


def read_ranked(layout: Layout) -> None:
    """Puts what a row ranks into `chosen` and `rejected` (with `ratings`, where they have scores) or into
    `replies` and `ratings`, and what was asked as `read_asked` does.

    Raises:
        BadRow: nothing is ranked, or in two ways, or against the scores.
    """
    if is_tree(layout.row.get("prompt")):
        _read_tree(layout)
        return
    _unwrap(layout)
    pairs = layout.present(*PAIRS)
    lists = [column for column in layout.present(*LISTS) if _is_list(layout, column)]
    if any(column in layout.named for column in (*pairs, *lists)):
        pairs, lists = ([c for c in columns if c in layout.named] for columns in (pairs, lists))
    way = layout.only([*pairs, *lists], "rank", (*pairs, *lists, "")[0])
    if way is None:
        raise BadRow(
            f"no `chosen` and no `replies` (it has {present_in(layout.file_row)}): name them with "
            "`columns: {chosen: …, rejected: …}`"
        )
    if way in PAIRS:
        _read_pair(layout, way)
    else:
        _read_list(layout, way)


def _read_tree(layout: Layout) -> None:
    """The answers to the first message of an OpenAssistant tree, by their ranks."""
    answers = [reply for reply in ranked(layout.row["prompt"]) if reply.get("rank") is not None]
    layout.take("prompt", "instruction", layout.row["prompt"]["text"])
    layout.row["replies"] = [reply["text"] for reply in answers]
    layout.row["ratings"] = [-number(reply["rank"], "rank") for reply in answers]
    layout.used |= {"replies", "ratings"}
    layout.name = "OpenAssistant tree, the ranked answers to its first message"


def _unwrap(layout: Layout) -> None:
    """OpenAI's `input` of messages and tools as columns."""
    wrapped = layout.row.get("input")
    if isinstance(wrapped, dict) and isinstance(wrapped.get("messages"), list):
        layout.drop("input")
        layout.row |= {name: wrapped[name] for name in ("messages", "tools") if wrapped.get(name)}


def _is_list(layout: Layout, column: str) -> bool:
    return column == "replies" or isinstance(from_json(layout.row[column]), list)


def _read_pair(layout: Layout, way: str) -> None:
    if not layout.has(PAIRS[way]):
        raise BadRow(f"no `{PAIRS[way]}` beside `{way}` (it has {present_in(layout.file_row)})")
    layout.drop(*LISTS)
    sides = [_side(layout, way, column) for column in (way, PAIRS[way])]
    if all(is_transcript(layout.row[column]) for column in (way, PAIRS[way])):
        name = "HH-RLHF transcripts"
        layout.drop(*CHATS, *QUESTIONS)
        sides = _one_question(layout, sides)
    else:
        is_chat = isinstance(sides[0], list)
        name = f"{way} and {PAIRS[way]}, {'conversations' if is_chat else 'texts'}"
        if not is_chat or chat_columns(layout.row) or any(map(layout.has, QUESTIONS)):
            _read_asked_beside(layout, sides)
            sides = [stripped(side, layout) for side in sides]
    layout.take(way, "chosen", sides[0])
    layout.take(PAIRS[way], "rejected", sides[1])
    layout.name = name
    layout.used |= {"agreement"}
    _read_pair_scores(layout)


def _side(layout: Layout, way: str, column: str) -> Any:
    value = from_json(layout.row[column])
    if is_transcript(layout.row[way]) and is_transcript(value):
        return transcript(value)
    value = [value] if isinstance(value, dict) else value  # one message
    return messages_of(value)[0] if isinstance(value, list) else value


def _one_question(layout: Layout, sides: list[Any]) -> list[Any]:
    """Two transcripts of one question as that and its answers, which need no chat template."""
    (first, *answers), (same, *others) = sides
    if first != same or first["role"] != "user" or not len(answers) == len(others) == 1:
        return sides
    layout.row["instruction"] = first["content"]
    layout.used.add("instruction")
    return [answers[0]["content"], others[0]["content"]]


def _read_asked_beside(layout: Layout, sides: list[Any]) -> None:
    """What is asked, where a row says it beside its replies, and maybe in them too."""
    read_asked(layout)
    if not isinstance(sides[0], list):
        return
    messages, asked = layout.row.get("messages"), layout.row.get("instruction")
    inside = sides[0][:-1]
    if not inside:
        return  # replies alone
    if isinstance(messages, list) and messages != sides[0] and messages[: len(inside)] != inside:
        raise BadRow("what the row asks is not what its `chosen` answers: name one with `columns`")
    if isinstance(asked, str):
        texts = [turn.get("content") for turn in inside if isinstance(turn, dict)]
        if asked.strip() not in [text.strip() for text in texts if isinstance(text, str)]:
            raise BadRow("what the row asks is none of the messages of its `chosen`: name one with `columns`")
        if len(inside) > 1:
            layout.drop("instruction")  # it is one message of several


def _read_pair_scores(layout: Layout) -> None:
    scores = next((names for names in PAIR_SCORES if all(map(layout.has, names))), None)
    layout.drop("ratings")
    if scores is None:
        return
    given = [number(layout.row[name], name) for name in scores]
    if given[0] < given[1]:
        raise BadRow(f"`{scores[0]}` is less than `{scores[1]}`, so `chosen` is not what was chosen")
    layout.used |= set(scores)
    layout.row["ratings"] = given


def _read_list(layout: Layout, column: str) -> None:
    layout.drop(*PAIRS)
    replies, ratings = from_json(layout.row[column]), layout.only(layout.present(*RATINGS), "rate", "ratings")
    read_asked(layout)
    if isinstance(replies, list) and replies and all(isinstance(reply, dict) for reply in replies):
        _read_completions(layout, column, replies)
        return
    layout.take(column, "replies", replies)
    layout.name = "replies, ranked" if ratings is None else "replies and ratings"
    if ratings:
        layout.take(ratings, "ratings", from_json(layout.row[ratings]))


def _read_completions(layout: Layout, column: str, completions: list[dict[str, Any]]) -> None:
    text = next((key for key in ("response", "text", "content") if key in completions[0]), "response")
    score = next((key for key in SCORES if all(c.get(key) is not None for c in completions)), None)
    ratings = [_annotated(completion) for completion in completions] if score is None else []
    if score is None and None in ratings:
        raise BadRow(f"`{column}` have no score: give each of them one of {', '.join(SCORES)}")
    missing = [c for c in completions if not isinstance(c.get(text), str)]
    if missing:
        raise BadRow(f"one of `{column}` has no `{text}`")
    layout.take(column, "replies", [completion[text] for completion in completions])
    if score is not None:
        ratings = [number(completion[score], score) for completion in completions]
    layout.row["ratings"] = ratings
    layout.name = "UltraFeedback"
    layout.moves[score or "mean of annotations"] = "ratings"
    layout.used.add("ratings")


def _annotated(completion: dict[str, Any]) -> float | None:
    """The mean of the ratings that annotations give a completion; None where they give none."""
    annotations = completion.get("annotations")
    values = annotations.values() if isinstance(annotations, dict) else ()
    given = [value.get("Rating") for value in values if isinstance(value, dict)]
    ratings = [number(rating, "Rating") for rating in given if rating not in (None, "", "N/A")]
    return sum(ratings) / len(ratings) if ratings else None


def number(value: Any, name: str) -> float:
    """A score, which may be a text.

    Raises:
        BadRow: it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadRow(f"`{name}` is {value!r}, no number") from None
