"""What a text is searched by: words, and pairs of characters in scripts that write none."""

import re
import unicodedata

# Han, kana, hangul: written without spaces, or with words of many forms
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
RUN = re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|[^\W_{UNSPACED}]+")


def terms(text: str, is_query: bool = False) -> list[str]:
    """The terms of a text, in its order, lower case.

    Words of letters and digits; of a run of characters without spaces each pair of neighbours and, in a
    document, each single one too, so that a question of one character finds it.
    """
    found = []
    for match in RUN.finditer(unicodedata.normalize("NFKC", text).casefold()):
        run = match[0]
        if match["unspaced"] is None:
            found.append(run)
            continue
        found += [run[place : place + 2] for place in range(len(run) - 1)]
        if len(run) == 1 or not is_query:
            found += run
    return found
