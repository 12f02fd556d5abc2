"""Columns that are named as we know them but spelt otherwise: in capitals, with spaces, in Chinese."""

from collections.abc import Collection
from functools import lru_cache

from datamodules.layouts.chats import ALSO_CHATS, CHATS, TURNS, WRITTEN
from datamodules.layouts.choices import CHOICES
from datamodules.layouts.duels import NAMED, SIDES
from datamodules.layouts.marks import MARKS
from datamodules.layouts.ranked import LISTS, PAIRS
from datamodules.layouts.vocabulary import CONTEXTS, PASSAGES, QUESTIONS, RATINGS, REPLIES, SYSTEMS
from datamodules.rendering.segments import Row

CHINESE = {
    **dict.fromkeys(("指令",), "instruction"),
    **dict.fromkeys(("问题", "提问", "问"), "question"),
    **dict.fromkeys(("输入",), "input"),
    **dict.fromkeys(("上下文",), "context"),
    **dict.fromkeys(("输出",), "output"),
    **dict.fromkeys(("回答", "答案", "答复", "答"), "answer"),
    **dict.fromkeys(("回复",), "response"),
    **dict.fromkeys(("文本", "正文", "内容"), "text"),
}
KNOWN = {
    *("text", "content", "messages", "tools", "history", "definition", *CHOICES, *MARKS),
    *(*CHATS, *ALSO_CHATS, *WRITTEN, *QUESTIONS, *CONTEXTS, *PASSAGES, *SYSTEMS, *REPLIES),
    *(*LISTS, *RATINGS, *PAIRS, *PAIRS.values(), *(key for pair in TURNS for key in pair)),
    *(*NAMED, *(side for sides in SIDES for side in sides[:2])),
} - {"q", "a"}  # `A` is a choice as often as an answer


def spelt(row: Row, left: Collection[str] = ()) -> tuple[Row, dict[str, str]]:
    """A row with the columns named as we know them, and these names ← the file's own.

    Args:
        row: its columns; a name of ours that is there wins over any other spelling of it.
        left: columns that keep their names.
    """
    ours = _ours(tuple(row), frozenset(left))
    if not ours:
        return row, {}
    return {ours.get(name, name): value for name, value in row.items()}, {o: t for t, o in ours.items()}


def spellings(names: Collection[str]) -> set[str]:
    """The usual ways to spell some of our names, these among them."""
    others = {their for their, our in CHINESE.items() if our in names}
    return {*names, *others, *(way(name) for name in names for way in (str.upper, str.capitalize))}


@lru_cache(maxsize=64)
def _ours(names: tuple[str, ...], left: frozenset[str]) -> dict[str, str]:
    """Columns that are spelt otherwise → our names, the first of those that are one."""
    ours: dict[str, str] = {}
    for name in names:
        plain = "_".join(name.lower().replace("-", " ").split())
        plain = CHINESE.get(name.strip(), plain)
        if plain not in KNOWN or name in {*KNOWN, *left}:
            continue
        if plain not in names and plain not in ours.values():
            ours[name] = plain
    return ours
