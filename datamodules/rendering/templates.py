"""From a row to the text of a conversation: which text is given, which is trained on."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from random import Random
from typing import Any, Literal, NamedTuple, get_args

from datamodules.rendering.segments import (
    BadRow,
    EmptyReply,
    Reply,
    Row,
    Segment,
    content_of,
    reply,
    reply_of,
    reply_prefix_of,
    system_of,
)
from datamodules.rendering.special_tokens import Disguise, special_tokens
from datamodules.sampling.mixture_schedule import MixtureSchedule


class Template(ABC):
    """How a row becomes text. `repr` states everything that the text depends on, the tokenizer apart."""

    @property
    def reads_any_column(self) -> bool:
        """Whether it may read columns other than the known ones, as a template of a user's own may."""
        return type(self).__module__.partition(".")[0] != __name__.partition(".")[0]

    def config_errors(self) -> list[str]:
        """What makes the template impossible, a line each."""
        return []

    @abstractmethod
    def __repr__(self) -> str: ...

    def key(self, tokenizer: Any) -> str:
        """Everything that its texts depend on, rows and tokenizer apart; `repr` where that is all."""
        return repr(self)

    @abstractmethod
    def segments(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        """The whole conversation; a reply ends with the segment of the eos token.

        Args:
            row: one row of a source.
            number: its number in the source, from 0.
            tokenizer: a Hugging Face tokenizer with an eos token.

        Raises:
            DropRow: the row cannot be trained on.
            BadRow: a field is missing or of another type.
        """

    @abstractmethod
    def prompt(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        """What a reply continues, none of it trained; it ends with the row's `reply_prefix`, if any, which is
        the given start of the reply. Arguments and errors as in `segments`; the row needs no reply."""

    def answered(self, row: Row, reply_text: Reply, number: int, tokenizer: Any) -> list[Segment]:
        """What `prompt` gives and a reply to it, which alone is trained and is written as in `segments`.
        Arguments and errors as there."""
        if not isinstance(reply_text, str):
            raise BadRow("a reply is a message of a chat, not text: use ChatTemplate")
        if not reply_text.strip():
            raise EmptyReply("empty reply")
        return self.prompt(row, number, tokenizer) + reply(reply_text, tokenizer)

    def changes(self, row: Row, number: int, asked: bool) -> list[str]:
        """What is left out of a row's text, or not trained in it, against what one would expect, in words for
        the receipt. `asked`: of its `prompt`, else of its `segments`."""
        return []

    def unread(self, row: Row, number: int, tokenizer: Any, reply_text: Reply | None = None) -> list[str]:
        """Keys of messages that say something which is in no text: of `segments`, or of `answered` with this
        reply. A key as often as turns lose what it says."""
        return []


class Style(NamedTuple):
    """A known prompt format."""

    prompt: str
    """`{content}`: the instruction and its input; `{system}`: where a system text goes, in front if absent"""
    system: str = "{system}\n\n"
    """how a system text is laid out; nothing of it is written where there is none"""
    separator: str = "\n"
    """between instruction and input"""
    with_input: str | None = None
    """the format of a row with an input, where it differs"""


STYLES = {
    # as `trivium tokenizer` writes its chat template
    "trivium": Style("### Instruction:\n{content}\n\n### Response:\n"),
    # PROMPT_DICT of train.py in github.com/tatsu-lab/stanford_alpaca; no line end after the last colon
    "alpaca": Style(
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{content}\n\n### Response:",
        separator="\n\n### Input:\n",
        with_input="Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{content}\n\n### Response:",
    ),
    # B_INST, B_SYS in llama/generation.py of github.com/meta-llama/llama
    "llama2": Style("[INST] {system}{content} [/INST]", "<<SYS>>\n{system}\n<</SYS>>\n\n"),
    # chatml.md in github.com/openai/openai-python (v0.27)
    "chatml": Style(
        "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\n{system}<|im_end|>\n",
    ),
}
StyleName = Literal["trivium", "alpaca", "llama2", "chatml"]
assert set(get_args(StyleName)) == set(STYLES)


class InstructionTemplate(Template):
    """Rows `instruction`, `input` (optional), `steps` (optional), `output` in one fixed format.

    `steps`, a chain of thought as one text or a list of texts, comes before `output` in the reply, a line
    each, and is trained on with it. The reply continues `reply_prefix` (optional), which is given. A system
    text is the row's column `system` or, where that is missing or blank, the argument; without one nothing is
    written for it. Special tokens of a format that the tokenizer does not have (`<|im_start|>` with most) are
    plain text. Every reply ends with the tokenizer's eos, which for `chatml` should be `<|im_end|>`.

    Args:
        prompt: a format of your own in place of the style's: `{content}` is the instruction followed by the
            input, `{system}` the place of the laid out system text (in front where it has none).
        separator: between instruction and input; the style's where it is not given.
        system: the system text of rows without one.
        style: a known format: `trivium` (`### Instruction:`), `alpaca`, `llama2` (`[INST]`), `chatml`.
    """

    def __init__(
        self,
        prompt: str | None = None,
        separator: str | None = None,
        system: str | None = None,
        style: StyleName = "trivium",
    ):
        known = STYLES[style]
        self.format = known.prompt if prompt is None else prompt
        self.format_with_input = (known.with_input if prompt is None else None) or self.format
        self.system_format = known.system
        self.separator = known.separator if separator is None else separator
        self.system = system

    def __repr__(self) -> str:
        formats = f"{self.format!r}, {self.format_with_input!r}, {self.system_format!r}"
        return f"InstructionTemplate({formats}, {self.separator!r}, {self.system!r})"

    def config_errors(self) -> list[str]:
        if "{content}" in self.format:
            return []
        return ["data.template.prompt has no {content}: the instruction would be lost"]

    def segments(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        return self.prompt(row, number, tokenizer) + reply(reply_of(row), tokenizer)

    def prompt(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        begin = [] if tokenizer.bos_token_id is None else [Segment(tokenizer.bos_token, False, True)]
        content = content_of(row, self.separator)
        layout = self.format_with_input if row.get("input") else self.format
        layout = layout if "{system}" in layout else "{system}" + layout
        system = system_of(row, self.system)
        laid_out = _filled(self.system_format, system=[(system, False)]) if system else []
        pieces = _filled(layout, system=laid_out, content=[(content, False)])
        return begin + _given(pieces, tokenizer) + reply_prefix_of(row)


class MixedTemplates(Template):
    """Several templates, each for its share of a source's rows.

    Of the first n rows, each template has its weight × n within one row, for every n. Which row gets which is
    a function of the row's number, the weights and the seed; neighbours are exchanged at random where the
    shares allow it, so that the templates do not keep step with a source whose rows alternate.

    Args:
        templates: by a name of your choice.
        weights: by the same names, positive; equal where none are given.
        seed: of the order.
    """

    def __init__(
        self, templates: dict[str, Template], weights: dict[str, float] | None = None, seed: int = 0
    ):
        self.templates, self.names = templates, sorted(templates)
        self.weights = dict.fromkeys(templates, 1.0) if weights is None else weights
        self.seed = seed

    def __repr__(self) -> str:
        parts = [f"{name!r}: ({self.weights.get(name)}, {self.templates[name]!r})" for name in self.names]
        return f"MixedTemplates({', '.join(parts)}, {self.seed})"

    @property
    def reads_any_column(self) -> bool:
        return any(template.reads_any_column for template in self.templates.values())

    def config_errors(self) -> list[str]:
        where = "data.template.templates"
        if not self.templates:
            return [f"{where} is empty: name one or more templates"]
        errors = [
            problem.replace("data.template", f"{where}.{name}", 1)
            for name, template in self.templates.items()
            for problem in template.config_errors()
        ]
        if set(self.weights) != set(self.templates):
            errors.append(
                f"data.template.weights names {', '.join(sorted(self.weights)) or 'nothing'}, "
                f"but the templates are {', '.join(self.names)}"
            )
        return errors + [
            f"data.template.weights.{name} is {weight}: give a positive number"
            for name, weight in self.weights.items()
            if not 0 < weight < float("inf")
        ]

    def segments(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        return self.templates[self.choice(number)].segments(row, number, tokenizer)

    def prompt(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        return self.templates[self.choice(number)].prompt(row, number, tokenizer)

    def answered(self, row: Row, reply_text: Reply, number: int, tokenizer: Any) -> list[Segment]:
        return self.templates[self.choice(number)].answered(row, reply_text, number, tokenizer)

    def changes(self, row: Row, number: int, asked: bool) -> list[str]:
        return self.templates[self.choice(number)].changes(row, number, asked)

    def unread(self, row: Row, number: int, tokenizer: Any, reply_text: Reply | None = None) -> list[str]:
        return self.templates[self.choice(number)].unread(row, number, tokenizer, reply_text)

    def key(self, tokenizer: Any) -> str:
        return "\0".join([repr(self), *(self.templates[name].key(tokenizer) for name in self.names)])

    def choice(self, number: int) -> str:
        """The name of the template of the row with this number."""
        weights = tuple(self.weights[name] for name in self.names)
        first = number - number % 2
        pair = [_schedule(weights)[n] for n in (first, first + 1)]
        if _exchangeable(pair, first, weights) and Random(f"{self.seed} {first}").random() < 0.5:
            pair.reverse()
        return self.names[pair[number - first][0]]


@lru_cache(maxsize=16)
def _schedule(weights: tuple[float, ...]) -> MixtureSchedule:
    return MixtureSchedule(weights)


def _exchangeable(pair: Sequence[tuple[int, int]], first: int, weights: tuple[float, ...]) -> bool:
    """Whether the rows `first` and `first` + 1, each a template and its count before, can exchange templates
    and leave every share within one row."""
    (left, left_before), (right, right_before) = pair
    left_due, right_due = ((first + 1) * weights[template] / sum(weights) for template in (left, right))
    # 1e-9: the shares are floats here, and a whole row is already too far
    return left != right and left_due - left_before < 1 - 1e-9 and right_before + 1 - right_due < 1 - 1e-9


Piece = tuple[str, bool]  # a text, and whether it is the template's own


def _filled(layout: str, **values: list[Piece]) -> list[Piece]:
    parts = re.split(rf"\{{({'|'.join(values)})\}}", layout)  # texts and, between them, names
    return list(chain(*(values[part] if i % 2 else [(part, True)] for i, part in enumerate(parts))))


def _given(pieces: Sequence[Piece], tokenizer: Any) -> list[Segment]:
    """One segment where the template's own text has no special token, for then all of it is plain text."""
    if not any(own and special_tokens(tokenizer).search(text) for text, own in pieces):
        return [Segment("".join(text for text, _ in pieces), False)]
    disguise = Disguise(
        tokenizer, [text for text, own in pieces if not own], [text for text, own in pieces if own]
    )
    return disguise.segments("".join(text if own else disguise.put_on(text) for text, own in pieces), False)
