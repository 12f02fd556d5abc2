"""What a model is asked when passages are at hand: freely, or under a restriction to what they tell."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Language = Literal["en", "zh"]
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
LATIN_WORD = re.compile(r"[A-Za-z]+")
TRAINED = 4  # wordings of each language that training may use; the others show whether it carries over


class Restriction(NamedTuple):
    """A restriction to the passages.

    Fields:
        wording: what the model is told.
        unknown: what it is told to say where the passages do not tell.
    """

    wording: str
    unknown: str


UNKNOWN: dict[Language, str] = {"en": "unknown", "zh": "不知道"}
NEUTRAL: dict[Language, str] = {"en": "Answer the question.", "zh": "请回答问题。"}
RESTRICTIONS: dict[Language, tuple[Restriction, ...]] = {
    "en": tuple(
        Restriction(wording, UNKNOWN["en"])
        for wording in (
            "Answer from the passages only. If they do not contain the answer, say: unknown",
            "Use nothing but the text above to answer. Where it does not tell, reply: unknown",
            "Base your answer strictly on the given passages; if the answer is not in them, write: unknown",
            "Do not use what you know yourself. Answer with what the passages say, or else with: unknown",
            "Your reply must be supported by a passage. If none supports it, answer with one word: unknown",
            "Rely on the documents alone, never on memory; when they are silent, your reply is: unknown",
        )
    ),
    "zh": tuple(
        Restriction(wording, UNKNOWN["zh"])
        for wording in (
            "只根据以上资料回答。如果资料中没有答案，请说：不知道",
            "请仅使用上面的内容作答，内容没有提到的，回答：不知道",
            "答案必须严格依据给出的资料；资料里找不到答案时，请写：不知道",
            "不要使用你自己的知识，资料怎么说就怎么答，否则回答：不知道",
            "回答要有资料为证。若没有任何资料可以证明，就答：不知道",
            "完全以文档为准，不要凭记忆；文档没有说明的，你的回答是：不知道",
        )
    ),
}
PASSAGE: dict[Language, str] = {"en": "Passage {number}:\n{text}\n\n", "zh": "资料{number}：\n{text}\n\n"}
QUESTION: dict[Language, str] = {"en": "{wording}\nQuestion: {question}", "zh": "{wording}\n问题：{question}"}


def with_passages(question: str, passages: Sequence[str], restriction: str | None, language: Language) -> str:
    """The instruction that asks a question beside passages.

    Args:
        question: as a person asks it.
        passages: texts, in the order in which they are shown; none is possible.
        restriction: the wording of one of `RESTRICTIONS`, or another; None asks with the neutral wording.
        language: of the words around passages and question.
    """
    parts = [
        PASSAGE[language].format(number=number, text=text.strip()) for number, text in enumerate(passages, 1)
    ]
    wording = NEUTRAL[language] if restriction is None else restriction
    return "".join(parts) + QUESTION[language].format(wording=wording, question=question.strip())


def language_of(text: str) -> Language:
    """`zh` where a text has at least as many Chinese characters as words in Latin letters, and any at all."""
    characters = len(HAN.findall(text))
    return "zh" if characters and characters >= len(LATIN_WORD.findall(text)) else "en"
