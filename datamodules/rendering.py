"""From a row to the text of a conversation: which text is given, which is trained on."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from random import Random
from typing import Any, Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from datamodules.mixing import Schedule

Row = dict[str, Any]
PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Segment(NamedTuple):
    """A piece of a conversation, tokenised on its own so that no token spans a boundary."""

    text: str
    trained: bool
    """True: the loss is on it (a reply and the eos that ends it)"""
    special: bool = False
    """True: special tokens in it are tokens, for the template wrote them; False: they stay plain text"""


class Unusable(ValueError):
    """A row that is dropped and counted under the exception's text."""


class EmptyReply(Unusable):
    """There is nothing to train on."""


class Refused(ValueError):
    """A row that must stop the run, unless bad rows are skipped; the text is the reason."""


class Stopped(Refused):
    """A row that stops the run in any case, since a policy says so."""


class Template(ABC):
    """How a row becomes text. `repr` states everything that the text depends on, the tokenizer apart."""

    columns: tuple[str, ...] = ()
    """columns that a source must have"""

    def problems(self) -> list[str]:
        """What makes the template impossible, a line each."""
        return []

    @abstractmethod
    def __repr__(self) -> str: ...

    @abstractmethod
    def segments(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        """The whole conversation; a reply ends with the segment of the eos token.

        Args:
            row: one row of a source.
            number: its number in the source, from 0.
            tokenizer: a Hugging Face tokenizer with an eos token.

        Raises:
            Unusable: the row cannot be trained on.
            Refused: a field is missing or of another type.
        """

    @abstractmethod
    def prompt(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        """What a reply continues, none of it trained; it ends with the row's `reply_prefix`, if any, which is
        the given start of the reply. Arguments and errors as in `segments`; the row needs no reply."""


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

    columns = ("instruction", "output")

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

    def problems(self) -> list[str]:
        if "{content}" in self.format:
            return []
        return ["data.template.prompt has no {content}: the instruction would be lost"]

    def segments(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        return self.prompt(row, number, tokenizer) + reply(_reply(row), tokenizer)

    def prompt(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        begin = [] if tokenizer.bos_token_id is None else [Segment(tokenizer.bos_token, False, True)]
        content = _content(row, self.separator)
        layout = self.format_with_input if row.get("input") else self.format
        layout = layout if "{system}" in layout else "{system}" + layout
        system = _system(row, self.system)
        laid_out = _filled(self.system_format, system=[(system, False)]) if system else []
        pieces = _filled(layout, system=laid_out, content=[(content, False)])
        return begin + _given(pieces, tokenizer) + _reply_prefix(row)


class ChatTemplate(Template):
    """Rows `messages` (a list of role and content) through the tokenizer's own chat template; a row of
    `instruction`, `input`, `steps` and `output` is a user's message and an assistant's (which continues
    `reply_prefix`, as in `InstructionTemplate`).

    A reply ends at the template's eos, what the template writes after it is given; where the template writes
    none, no segment of eos follows the reply. Special tokens that people wrote stay plain text.

    Args:
        train_on: `all` assistant turns or the `last` alone.
        system: the system message of conversations that have none; a row's column `system` goes before it.
    """

    def __init__(self, train_on: Literal["all", "last"] = "all", system: str | None = None):
        self.train_on = train_on
        self.system = system

    def __repr__(self) -> str:
        return f"ChatTemplate({self.train_on!r}, {self.system!r})"

    def segments(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        messages = self._messages(row, whole=True)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        turns = turns[-1:] if self.train_on == "last" else turns
        if not turns:
            raise Unusable("no assistant turn")
        if turns[0] == 0:
            raise Unusable("the conversation begins with the assistant: nothing to reply to")
        hidden, disguise = _hidden(messages, tokenizer)
        before = _render(tokenizer, [hidden[:turn] for turn in turns], True)
        after = _render(tokenizer, [hidden[: turn + 1] for turn in turns], False)
        if not all(messages[turn]["content"].strip() for turn in turns):
            raise EmptyReply("empty reply")
        segments = _cut(before, after, disguise, tokenizer.eos_token)
        if row.get("messages"):
            return segments
        start = [segment.trained for segment in segments].index(True)
        return segments[:start] + _reply_prefix(row) + segments[start:]

    def prompt(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        messages = self._messages(row, whole=False)
        hidden, disguise = _hidden(messages, tokenizer)
        (text,) = _render(tokenizer, [hidden], True)
        return disguise.segments(text, False) + _reply_prefix(row)

    def _messages(self, row: Row, whole: bool) -> list[dict[str, Any]]:
        messages = _conversation(row, whole)
        system = _system(row, self.system)
        if not system or any(message["role"] == "system" for message in messages):
            return messages
        return [{"role": "system", "content": system}, *messages]


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
        self.templates = templates
        self.weights = dict.fromkeys(templates, 1.0) if weights is None else weights
        self.seed = seed
        self.columns = tuple(dict.fromkeys(chain(*(template.columns for template in templates.values()))))

    def __repr__(self) -> str:
        parts = [f"{name!r}: ({self.weights.get(name)}, {self.templates[name]!r})" for name in self._names]
        return f"MixedTemplates({', '.join(parts)}, {self.seed})"

    def problems(self) -> list[str]:
        where = "data.template.templates"
        if not self.templates:
            return [f"{where} is empty: name one or more templates"]
        found = [
            problem.replace("data.template", f"{where}.{name}", 1)
            for name, template in self.templates.items()
            for problem in template.problems()
        ]
        if set(self.weights) != set(self.templates):
            found.append(
                f"data.template.weights names {', '.join(sorted(self.weights)) or 'nothing'}, "
                f"but the templates are {', '.join(self._names)}"
            )
        return found + [
            f"data.template.weights.{name} is {weight}: give a positive number"
            for name, weight in self.weights.items()
            if not 0 < weight < float("inf")
        ]

    def segments(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        return self.templates[self.choice(number)].segments(row, number, tokenizer)

    def prompt(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        return self.templates[self.choice(number)].prompt(row, number, tokenizer)

    def choice(self, number: int) -> str:
        """The name of the template of the row with this number."""
        weights = tuple(self.weights[name] for name in self._names)
        first = number - number % 2
        pair = [_schedule(weights)[n] for n in (first, first + 1)]
        if _exchangeable(pair, first, weights) and Random(f"{self.seed} {first}").random() < 0.5:
            pair.reverse()
        return self._names[pair[number - first][0]]

    @property
    def _names(self) -> list[str]:
        return sorted(self.templates)


@lru_cache(maxsize=16)
def _schedule(weights: tuple[float, ...]) -> Schedule:
    return Schedule(weights)


def _exchangeable(pair: Sequence[tuple[int, int]], first: int, weights: tuple[float, ...]) -> bool:
    """Whether the rows `first` and `first` + 1, each a template and its count before, can exchange templates
    and leave every share within one row."""
    (one, of_one), (other, of_other) = pair
    due = [(first + 1) * weights[template] / sum(weights) for template in (one, other)]
    return one != other and due[0] - of_one < 1 - 1e-9 and of_other + 1 - due[1] < 1 - 1e-9


# --- text with special tokens in it


class Disguise:
    """Characters in place of the special tokens that people wrote, while a template writes its own.

    Each is of Unicode's private use and occurs nowhere in the conversation, so none of it is changed.

    Args:
        tokenizer: whose special tokens.
        texts: what people wrote.
        others: what else will be in the text.
    """

    def __init__(self, tokenizer: Any, texts: Iterable[str], others: Iterable[str] = ()):
        texts = list(texts)
        self.special = special_tokens(tokenizer)
        written = sorted({token for text in texts for token in self.special.findall(text)})
        taken = set("".join([*texts, *others, self.special.pattern])) if written else set()
        free = (chr(code) for code in chain(*PRIVATE_USE) if chr(code) not in taken)
        self.characters = dict(zip(written, free, strict=False))
        self.tokens = {character: token for token, character in self.characters.items()}

    def put_on(self, text: str) -> str:
        """A text of people with its special tokens hidden."""
        return self.special.sub(lambda found: self.characters[found[0]], text)

    def segments(self, text: str, trained: bool) -> list[Segment]:
        """A finished text: what was hidden comes back as plain text, what is not hidden is the template's."""
        if not self.tokens:
            return [Segment(text, trained, True)] if text else []
        parts: list[str] = [part for part in re.split(f"([{''.join(self.tokens)}])", text) if part]
        return [Segment(self.tokens.get(part, part), trained, part not in self.tokens) for part in parts]


_patterns: WeakKeyDictionary[Any, tuple[int, re.Pattern[str]]] = WeakKeyDictionary()


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches any special token of a tokenizer, or nothing where it has none."""
    size, pattern = _patterns.get(tokenizer, (-1, None))
    if pattern is None or size != len(tokenizer):
        tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        pattern = re.compile("|".join(map(re.escape, sorted(tokens))) or "(?!)")
        _patterns[tokenizer] = len(tokenizer), pattern
    return pattern


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


# --- chats


def _conversation(row: Row, whole: bool) -> list[dict[str, Any]]:
    """A row's messages; `whole`: with the reply where they come from `instruction` and `output`."""
    messages = row.get("messages")
    if not messages and row.get("instruction") is not None:
        asked = [{"role": "user", "content": _content(row, "\n")}]
        return [*asked, {"role": "assistant", "content": _reply(row)}] if whole else asked
    if messages is None:
        raise Refused(f"no `messages` (it has {_present(row)})")
    if not isinstance(messages, list):
        raise Refused(f"`messages` is {type(messages).__name__}, not a list")
    if not messages:
        raise Unusable("empty `messages`")
    for message in messages:
        _check_message(message)
    return messages


def _check_message(message: Any) -> None:
    if not isinstance(message, dict):
        raise Refused(f"`messages` holds {type(message).__name__}, not role and content")
    for key in ("role", "content"):
        if message.get(key) is None:
            raise Unusable(f"a message without {key}")
        if not isinstance(message[key], str):
            raise Refused(f"`{key}` of a message is {type(message[key]).__name__}, not text")


def _hidden(messages: list[dict[str, Any]], tokenizer: Any) -> tuple[list[dict[str, Any]], Disguise]:
    disguise = Disguise(tokenizer, _strings(messages), [str(tokenizer.chat_template)])
    return (_mapped(messages, disguise.put_on) if disguise.tokens else messages), disguise


def _render(tokenizer: Any, conversations: list[list[dict[str, Any]]], open_reply: bool) -> list[str]:
    if not tokenizer.chat_template:
        raise Refused("the tokenizer has no chat template: use InstructionTemplate, or give it one")
    try:
        return tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=open_reply)
    except (TemplateError, TypeError) as error:  # a template raises on roles that it does not know
        raise Unusable(str(error)) from error


def _cut(before: list[str], after: list[str], disguise: Disguise, eos: str) -> list[Segment]:
    """Alternating given and trained text, from each reply's conversation `before` and `after` it."""
    segments, done = [], ""
    for given, all_of_it in zip(before, after, strict=True):
        if not (given.startswith(done) and all_of_it.startswith(given)):
            raise Unusable("the chat template changes earlier turns, so the reply's boundary is unknown")
        text, end, rest = all_of_it[len(given) :].rpartition(eos)
        text, rest = (text, rest) if end else (rest, "")
        segments += disguise.segments(given[len(done) :], False) + disguise.segments(text, True)
        segments += [Segment(eos, True, True)] if end else []
        done = all_of_it[: len(all_of_it) - len(rest)]
    return segments


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return {key: _mapped(item, change) for key, item in value.items()} if isinstance(value, dict) else value


# --- fields of a row


def reply(text: str, tokenizer: Any) -> list[Segment]:
    """A reply and the eos that ends it, as in `InstructionTemplate`."""
    return [Segment(text, True), Segment(tokenizer.eos_token, True, True)]


def text_of(row: Row, column: str, required: bool = True) -> str:
    """A text field of a row.

    Raises:
        Refused: it is missing or not text.
        Unusable: it is blank, and `required`.
    """
    value = row.get(column)
    if value is None:
        raise Refused(f"no `{column}` (it has {_present(row)})")
    if not isinstance(value, str):
        raise Refused(f"`{column}` is {type(value).__name__}, not text")
    if required and not value.strip():
        raise Unusable(f"empty `{column}`")
    return value


def optional_text(row: Row, column: str) -> str:
    """A field that may be missing (then empty) but must be text where it is there.

    Raises:
        Refused: it is something else.
    """
    return "" if row.get(column) is None else text_of(row, column, required=False)


def _present(row: Row) -> str:
    return ", ".join(f"`{key}`" for key, value in row.items() if value is not None) or "nothing"


def _content(row: Row, separator: str) -> str:
    parts = text_of(row, "instruction"), optional_text(row, "input")
    return separator.join(part for part in parts if part)


def _system(row: Row, default: str | None) -> str:
    text = optional_text(row, "system")
    return text if text.strip() else default or ""


def _reply_prefix(row: Row) -> list[Segment]:
    text = optional_text(row, "reply_prefix")
    return [Segment(text, False)] if text else []


def _reply(row: Row) -> str:
    output, steps = text_of(row, "output", required=False), row.get("steps")
    if not output.strip():
        raise EmptyReply("empty `output`")
    if not (steps is None or isinstance(steps, str)):
        if not (isinstance(steps, list) and all(isinstance(step, str) for step in steps)):
            raise Refused(f"`steps` is {type(steps).__name__}, not text or a list of texts")
        steps = "\n".join(steps)
    return f"{steps}\n{output}" if steps and steps.strip() else output
