"""What a text is searched by: words, and pairs of characters in scripts that write none."""

import re
import unicodedata

# Han, kana, hangul: written without spaces, or with words of many forms
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
RUN = re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|[^\W_{UNSPACED}]+")
# What asks, and is no part of what a question is about: in documents these words are rare, so that BM25 would
# take them for its subject. Those of Chinese, and its particles, are cut out before characters are paired.
ASKING = frozenset(
    (
        *("what", "which", "who", "whom", "whose", "where", "when", "why", "how"),
        *("is", "are", "was", "were", "do", "does", "did", "can", "could", "should", "would", "will"),
        *("i", "me", "you", "please", "tell", "explain", "about", "mean", "meaning"),
    )
)
ASKING_UNSPACED = re.compile(
    "请问|请你|请|告诉我|解释|为什么|什么|怎么样|怎么|怎样|如何|哪一个|哪个|哪些|哪里|哪儿|多少|"
    "是不是|有没有|是否|一下|这个|那个|意思|的|了|吗|呢|吧|啊|是"
)


def terms(text: str) -> list[str]:
    """The terms of a document, in its order, lower case: words of letters and digits; of a run of characters
    without spaces each pair of neighbours, and each single one, so that a question of one character finds it.
    """
    return _terms(_plain(text), singles=True)


def query_terms(text: str) -> list[str]:
    """The terms of a question: as of a document, but single characters only where they stand alone, and
    without the words that only ask. A question of nothing else keeps them."""
    plain = _plain(text)
    subject = [term for term in _terms(ASKING_UNSPACED.sub(" ", plain)) if term not in ASKING]
    return subject or _terms(plain)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _terms(plain: str, singles: bool = False) -> list[str]:
    found = []
    for match in RUN.finditer(plain):
        run = match[0]
        if match["unspaced"] is None:
            found.append(run)
            continue
        found += [run[place : place + 2] for place in range(len(run) - 1)]
        if singles or len(run) == 1:
            found += run
    return found
