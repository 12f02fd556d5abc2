"""What a row ranks: pairs, two columns, lists of replies, transcripts and UltraFeedback → `chosen` and
`rejected`, or `replies` and `ratings`."""

from typing import Any

from datamodules.layouts.asked import read_asked, stripped
from datamodules.layouts.chats import (
    CHATS,
    chat_columns,
    from_json,
    is_transcript,
    is_tree,
    messages_of,
    ranked,
    transcript,
    turns_of,
)
from datamodules.layouts.duels import duel_of
from datamodules.layouts.layout import Layout
from datamodules.layouts.vocabulary import QUESTIONS, RATINGS, REPLIES
from datamodules.rendering.segments import BadRow, Row, present_in

PAIRS = {
    "chosen": "rejected",
    "chosen_response": "rejected_response",
    "preferred_output": "non_preferred_output",
    "response_j": "response_k",
    "pos_resp": "neg_resp",
}
WORSE = ("rejected_response", "rejected_messages")
"""columns of a worse reply than the one that a conversation, or the row, gives"""
PAIR_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("rating_chosen", "rating_rejected"),
)
LISTS = ("replies", "completions", "generations", "responses", "answers")
RANKS = ("ranks", "rank")
"""of RATINGS those of which 1 is the best"""
SCORES = ("overall_score", "rating", "score", "fine-grained_score", "pm_score")
"""of one of the completions of UltraFeedback"""
TEXTS = ("response", "text", "content", "answer")
"""of one of the completions, its text"""
SCORED = (
    "label",
    "kto_tag",
    "is_safe",
    "is_correct",
    "helpfulness",
    "score",
    "rating",
    "reward",
    "overall_score",
)
"""columns that rate the one reply of a row"""


def read_ranked(layout: Layout) -> None:
    """Puts what a row ranks into `chosen` and `rejected` (with `ratings`, where they have scores) or into
    `replies` and `ratings`, and what was asked as `read_asked` does.

    Raises:
        BadRow: nothing is ranked, or in two ways, or against the scores.
    """
    if is_tree(layout.row.get("prompt")):
        _read_tree(layout)
        return
    if is_summaries(layout.row):
        _read_summaries(layout)
        return
    _unwrap(layout)
    _complete(layout)
    pairs = layout.present(*PAIRS)
    lists = [column for column in layout.present(*LISTS) if is_ranked_list(layout.row, column)]
    if len(pairs) == 1 and len(lists) == 1 and _taken_from(layout, pairs[0], lists[0]):
        lists = []
    if any(column in layout.named for column in (*pairs, *lists)):
        pairs, lists = ([c for c in columns if c in layout.named] for columns in (pairs, lists))
    way = layout.only([*pairs, *lists], "rank", (*pairs, *lists, "")[0])
    if way is None and (duel := duel_of(layout.row)):
        _read_duel(layout, *duel)
        return
    if way is None:
        raise BadRow(_not_ranked(layout))
    if way in PAIRS:
        _read_pair(layout, way)
    else:
        _read_list(layout, way)


def _not_ranked(layout: Layout) -> str:
    """Why a row ranks nothing."""
    scored, reply = layout.present(*SCORED), layout.present(*REPLIES, *CHATS)
    if scored and reply:
        return (
            f"one reply with its mark in `{scored[0]}`, where several to one prompt are compared: `trivium "
            "data convert FILE --kind preferences --output DIR` joins the rows of each prompt"
        )
    unrated = next((column for column in LISTS if layout.has(column)), None)
    if unrated:
        return (
            f"`{unrated}` do not say how good each is: give `ratings`, or, where they are in order, the best "
            f"first, `columns: {{replies: {unrated}}}`"
        )
    return (
        f"no `chosen` and no `replies` (it has {present_in(layout.file_row)}): name them with "
        "`columns: {chosen: …, rejected: …}`"
    )


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


def _complete(layout: Layout) -> None:
    """The better reply of a row that names the worse one alone: the answer beside it."""
    if layout.has("rejected_messages") and layout.has("messages") and not layout.has("chosen"):
        layout.take("messages", "chosen")
        layout.take("rejected_messages", "rejected")
    if not layout.has("rejected_response") or layout.has("chosen_response"):
        return
    answer: Any = layout.row.pop("response", None)
    for column in chat_columns(layout.row)[:1] if answer is None else ():
        turns = turns_of(layout.row, column)
        messages = messages_of(turns)[0] if isinstance(turns, list) else []
        last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
        answer = last.get("content") if last.get("role") == "assistant" else None
    layout.row["chosen_response"] = answer


def is_summaries(row: Row) -> bool:
    """Whether a row is a post with its summaries, as OpenAI's summarize_from_feedback has them."""
    return isinstance(row.get("info"), dict) and isinstance(row.get("summaries"), list)


def _read_summaries(layout: Layout) -> None:
    info, choice, summaries = layout.row["info"], layout.row.get("choice"), layout.row["summaries"]
    texts = [summary.get("text") for summary in summaries if isinstance(summary, dict)]
    if not isinstance(choice, int) or not 0 <= choice < len(texts) == len(summaries):
        raise BadRow(f"`choice` is {choice!r}, which is none of the {len(summaries)} `summaries`")
    asked = info.get("article")
    if info.get("post") is not None:  # as in appendix B.5 of Stiennon 2020, arXiv 2009.01325
        asked = f"SUBREDDIT: r/{info.get('subreddit')}\n\nTITLE: {info.get('title')}\n\nPOST: {info['post']}"
    layout.row |= {"instruction": f"{asked}\n\nTL;DR:", "replies": [str(text).strip() for text in texts]}
    layout.row["ratings"] = [float(place == choice) for place in range(len(texts))]
    layout.name = "a post and its summaries, the better by `choice`"
    layout.used |= {"info", "summaries", "choice", "instruction", "replies", "ratings"}


def is_ranked_list(row: Row, column: str) -> bool:
    """Whether a column is a list of replies that says how good each is, or says it by our own name."""
    value = from_json(row.get(column))
    if column == "replies" or not isinstance(value, list) or not value:
        return column == "replies" and value is not None
    if all(isinstance(reply, dict) for reply in value):
        return column != "answers" or any(key in value[0] for key in (*SCORES, *RANKS))
    return any(isinstance(from_json(row.get(name)), list) for name in RATINGS)


def _taken_from(layout: Layout, way: str, column: str) -> bool:
    """Whether a pair is two of the replies of a list beside it, which then rates the pair too."""
    replies = from_json(layout.row[column])
    pair = [layout.row.get(side) for side in (way, PAIRS[way])]
    if column == "replies" or not all(text in replies for text in pair):
        return False
    ratings = next((from_json(layout.row[name]) for name in layout.present(*RATINGS)), None)
    if isinstance(ratings, list) and len(ratings) == len(replies) and not layout.present(*RANKS):
        layout.row["score_chosen"], layout.row["score_rejected"] = (ratings[replies.index(t)] for t in pair)
    layout.used |= {column, *layout.present(*RATINGS)}
    return True


def _read_duel(
    layout: Layout, columns: tuple[str, str], ratings: tuple[float, float], by: tuple[str, ...]
) -> None:
    """Two columns as the better and the worse one; in a tie as they stand."""
    better, worse = columns if ratings[0] >= ratings[1] else columns[::-1]
    sides = [from_json(layout.row.pop(column)) for column in (better, worse)]
    asked = from_json(layout.row.get("prompt"))
    if all(_are_texts(side) and _are_texts(asked) and len(side) == len(asked) for side in sides):
        layout.drop("prompt")  # of an arena: the user's turns, and each model's
        sides = [messages_of([list(turn) for turn in zip(asked, side, strict=True)])[0] for side in sides]
    layout.row["chosen"], layout.row["rejected"] = sides
    _read_pair(layout, "chosen")
    layout.row["ratings"] = sorted(ratings, reverse=True)
    layout.used |= {*columns, *by, "ratings"}
    layout.name = f"{columns[0]} and {columns[1]}, the better by {' and '.join(f'`{name}`' for name in by)}"


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


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
    if isinstance(layout.row.get("initial_reason_steps"), str):  # Math-Step-DPO's, which both go on
        layout.take("initial_reason_steps", "reply_prefix")
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
    own = from_json(layout.row.pop("ratings", None))
    if scores is None:
        if isinstance(own, list) and len(own) == 2 and number(own[0], "ratings") >= number(own[1], "ratings"):
            layout.row["ratings"] = own  # as `data convert` writes them
            layout.used.add("ratings")
        return
    given = [number(layout.row[name], name) for name in scores]
    if given[0] < given[1]:
        raise BadRow(f"`{scores[0]}` is less than `{scores[1]}`, so `chosen` is not what was chosen")
    layout.used |= {*scores, "ratings"}
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
        given = from_json(layout.row[ratings])
        if ratings in RANKS and isinstance(given, list):
            given = [-number(rank, ratings) for rank in given]
        layout.take(ratings, "ratings", given)


def _read_completions(layout: Layout, column: str, completions: list[dict[str, Any]]) -> None:
    text = next((key for key in TEXTS if key in completions[0]), "response")
    score = next((key for key in (*SCORES, *RANKS) if all(c.get(key) is not None for c in completions)), None)
    ratings = [_annotated(completion) for completion in completions] if score is None else []
    if score is None and None in ratings:
        raise BadRow(f"`{column}` have no score: give each of them one of {', '.join(SCORES)}")
    missing = [c for c in completions if not isinstance(c.get(text), str)]
    if missing:
        raise BadRow(f"one of `{column}` has no `{text}`")
    layout.take(column, "replies", [completion[text] for completion in completions])
    if score is not None:
        sign = -1 if score in RANKS else 1
        ratings = [sign * number(completion[score], score) for completion in completions]
    layout.row["ratings"] = ratings
    layout.name = "UltraFeedback" if column == "completions" else f"{column} of `{text}`"
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
