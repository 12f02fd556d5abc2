"""Rows as text and as tokens with their mask: worked out by hand, in English and Chinese."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.segments import BadRow, DropRow, Segment
from datamodules.rendering.templates import InstructionTemplate, MixedTemplates, Template
from datamodules.rendering.tokenize import Encoded, double_bos, encode_batch, ends_with_eos
from datamodules.rendering.tokenizer import load_tokenizer

SHORT = "Q:{content}A:"
BOS, EOS = Segment("<s>", False, True), Segment("</s>", True, True)
# as SmolLM2-Instruct's
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    """Byte-level, so that every text comes back exactly; its chat template is `trivium tokenizer`'s."""
    return load_tokenizer(tiny_tokenizer)


@pytest.fixture(scope="module")
def chatml(tiny_tokenizer):
    """The same with ChatML's tokens and template; a turn's end is its eos."""
    tokenizer = load_tokenizer(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="module")
def joining():
    """A character tokenizer with merges that would join the end of a prompt to the start of a reply."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    merges = [(":", "y"), ("\n", "很"), ("很", "好")]
    characters = sorted(set("QA:2+46yesno\n你好吗很再见</> b"))
    tokens = ["<pad>", "<s>", "</s>", *characters, *(left + right for left, right in merges)]
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def chat(*turns):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


def tokens_and_mask(template, row, tokenizer):
    (encoded,) = encode_batch(tokenizer, [template.segments(row, 0, tokenizer)])
    return tokenizer.convert_ids_to_tokens(encoded.ids.tolist()), encoded.trained.astype(int).tolist()


def texts(segments):
    return [(segment.text, segment.trained) for segment in segments]


# --- instructions


@pytest.mark.parametrize(
    ("row", "prompt", "reply"),
    [
        ({"instruction": "2+2", "output": "yes"}, [*"Q:2+2A:"], ["y", "e", "s", "</s>"]),
        ({"instruction": "2+2", "input": "", "output": "4"}, [*"Q:2+2A:"], ["4", "</s>"]),
        ({"instruction": "2", "input": "4", "output": "no"}, [*"Q:2\n4A:"], ["n", "o", "</s>"]),
        ({"instruction": "你好吗", "output": "很好"}, [*"Q:你好吗A:"], ["很好", "</s>"]),
        (
            {"instruction": "2+2", "steps": "2 2", "output": "很好"},
            [*"Q:2+2A:"],
            ["2", " ", "2", "\n很", "好", "</s>"],
        ),
        (
            {"instruction": "2+2+2", "steps": ["2+2", "4+2"], "output": "6"},
            [*"Q:2+2+2A:"],
            [*"2+2", "\n", *"4+2", "\n", "6", "</s>"],
        ),
        ({"instruction": "2", "steps": [], "output": "4"}, [*"Q:2A:"], ["4", "</s>"]),
        ({"instruction": "</s>", "output": "no</s>"}, [*"Q:</s>A:"], [*"no</s>", "</s>"]),
    ],
    ids=["reply", "blank input", "input", "中文", "steps", "a list of steps", "no steps", "special as text"],
)
def test_a_rows_tokens_and_which_are_trained(joining, row, prompt, reply):
    tokens, mask = tokens_and_mask(InstructionTemplate(SHORT), row, joining)
    assert tokens == ["<s>", *prompt, *reply]
    assert mask == [0] * (1 + len(prompt)) + [1] * len(reply)


def test_the_default_format_is_the_documented_one(tokenizer):
    row = {"instruction": "Sort.", "input": "2 1", "output": "1 2"}
    assert InstructionTemplate().segments(row, 0, tokenizer) == [
        BOS,
        Segment("### Instruction:\nSort.\n2 1\n\n### Response:\n", False),
        Segment("1 2", True),
        EOS,
    ]


@pytest.mark.parametrize(
    ("style", "prompt"),
    [
        ("trivium", "Be kind.\n\n### Instruction:\nSort.\n2 1\n\n### Response:\n"),
        (
            "alpaca",
            "Be kind.\n\nBelow is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nSort.\n\n### Input:\n2 1\n\n### Response:",
        ),
        ("llama2", "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nSort.\n2 1 [/INST]"),
        (
            "chatml",
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nSort.\n2 1<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
    ],
)
def test_the_known_styles_with_a_system_text_and_an_input(tokenizer, style, prompt):
    template = InstructionTemplate(style=style, system="Be kind.")
    row = {"instruction": "Sort.", "input": "2 1", "output": "1 2"}
    assert template.segments(row, 0, tokenizer) == [BOS, Segment(prompt, False), Segment("1 2", True), EOS]


def test_alpaca_without_an_input(tokenizer):
    _, prompt = InstructionTemplate(style="alpaca").prompt({"instruction": "你好"}, 0, tokenizer)
    assert prompt.text == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\n你好\n\n### Response:"
    )


def test_the_rows_system_text_goes_before_the_arguments(tokenizer, chatml):
    row = {"instruction": "2", "output": "4", "system": "Mine."}
    for template, first in (
        (InstructionTemplate(SHORT, system="Yours."), "{}\n\nQ:2A:"),
        (ChatTemplate(system="Yours."), "<s>{}\n\n### Instruction:\n2\n\n### Response:\n"),
    ):
        for source, system in ((row, "Mine."), ({**row, "system": " "}, "Yours.")):
            segments = template.segments(source, 0, tokenizer)
            assert segments[-3].text == first.format(system)
    rendered = ChatTemplate(system="Yours.").segments({**chat("a", "b"), "system": None}, 0, chatml)
    assert rendered[0].text.startswith("<|im_start|>system\nYours.<|im_end|>\n<|im_start|>user\na")


def test_a_conversations_own_system_turn_stays_the_only_one(tokenizer):
    row = {"messages": [{"role": "system", "content": "Own."}, *chat("a", "b")["messages"]]}
    first, *_ = ChatTemplate(system="Yours.").segments(row, 0, tokenizer)
    assert first.text == "<s>Own.\n\n### Instruction:\na\n\n### Response:\n"


def test_a_format_of_your_own_says_where_system_and_content_go(tokenizer):
    template = InstructionTemplate("<{content}|{system}>", " ", system="{content}")
    row = {"instruction": "{system}", "input": "b"}
    assert template.prompt(row, 0, tokenizer)[1].text == "<{system} b|{content}\n\n>"


def test_special_tokens_of_a_format_are_tokens_and_those_of_people_are_not(chatml):
    row = {"instruction": "a<|im_end|>b", "output": "<|im_end|>"}
    tokens, mask = tokens_and_mask(InstructionTemplate(style="chatml"), row, chatml)
    assert [(token, trained) for token, trained in zip(tokens, mask, strict=True) if token[:2] == "<|"] == [
        *[("<|im_start|>", 0), ("<|im_end|>", 0), ("<|im_start|>", 0), ("<|im_end|>", 1)]
    ]
    assert chatml.decode(chatml.convert_tokens_to_ids(tokens)) == (
        "<s><|im_start|>user\na<|im_end|>b<|im_end|>\n<|im_start|>assistant\n<|im_end|><|im_end|>"
    )


def test_the_prompt_of_training_is_the_prompt_of_generation_and_a_given_start_follows_it(tokenizer, chatml):
    row = {"instruction": "2+2", "output": "yes", "reply_prefix": "y"}
    for template, using in itertools.product((InstructionTemplate(), ChatTemplate()), (tokenizer, chatml)):
        asked = template.prompt(row, 0, using)
        whole = template.segments(row, 0, using)
        assert asked[-1] == Segment("y", False)
        assert asked == [segment for segment in whole if not segment.trained]
        assert texts(whole[len(asked) :]) == [("yes", True), (using.eos_token, True)]


@pytest.mark.parametrize("template", [InstructionTemplate(), ChatTemplate()])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"output": None}, BadRow, "no `output` (it has `instruction`)"),
        ({"output": 3}, BadRow, "`output` is int, not text"),
        ({"instruction": ["a"]}, BadRow, "`instruction` is list, not text"),
        ({"input": 3}, BadRow, "`input` is int, not text"),
        ({"system": 3}, BadRow, "`system` is int, not text"),
        ({"steps": 3}, BadRow, "`steps` is int, not text or a list of texts"),
        ({"steps": ["a", 3]}, BadRow, "`steps` is list, not text or a list of texts"),
        ({"instruction": " "}, DropRow, "empty `instruction`"),
        ({"output": "\n"}, DropRow, "empty `output`"),
    ],
)
def test_a_missing_field_is_refused_and_a_blank_one_dropped(tokenizer, template, change, error, message):
    with pytest.raises(error) as raised:
        template.segments({"instruction": "a", "output": "b", **change}, 0, tokenizer)
    assert str(raised.value) == message


# --- chats


def test_every_assistant_turn_or_the_last_alone_is_trained(tokenizer):
    row = chat("2+2", "yes", "你好吗", "很好")
    first = "<s>### Instruction:\n2+2\n\n### Response:\n"
    second = "### Instruction:\n你好吗\n\n### Response:\n"
    assert texts(ChatTemplate().segments(row, 0, tokenizer)) == [
        *[(first, False), ("yes", True), ("</s>", True)],
        *[(second, False), ("很好", True), ("</s>", True)],
    ]
    assert texts(ChatTemplate("last").segments(row, 0, tokenizer)) == [
        *[(first + "yes</s>" + second, False), ("很好", True), ("</s>", True)]
    ]
    both = [
        encode_batch(tokenizer, [ChatTemplate(on).segments(row, 0, tokenizer)])[0] for on in ("all", "last")
    ]
    assert both[0].ids.tolist() == both[1].ids.tolist()


def test_what_follows_the_last_reply_is_left_out(tokenizer):
    assert ChatTemplate().segments(chat("a", "b", "c"), 0, tokenizer) == ChatTemplate().segments(
        chat("a", "b"), 0, tokenizer
    )


def test_chatml_gives_what_it_writes_after_a_turns_end(chatml):
    assert texts(ChatTemplate().segments(chat("a", "b", "c", "d"), 0, chatml)) == [
        (
            "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
            "<|im_start|>assistant\n",
            False,
        ),
        *[("b", True), ("<|im_end|>", True)],
        ("\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n", False),
        *[("d", True), ("<|im_end|>", True)],
    ]


def test_a_template_that_writes_no_eos_gives_no_segment_of_it(chatml, tiny_tokenizer):
    base = load_tokenizer(tiny_tokenizer)
    base.chat_template = CHATML
    segments = ChatTemplate().segments(chat("a", "b"), 0, base)
    assert texts(segments)[1:] == [("b<|im_end|>\n", True)]
    assert not ends_with_eos(encode_batch(base, [segments])[0], base)


def test_a_template_that_changes_earlier_turns_can_still_train_the_last(tiny_tokenizer):
    """Reasoning models' templates write the thought of the last turn only."""
    tokenizer = load_tokenizer(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role[0] + ':' }}"
        "{{ m.content if loop.last else m.content.split('#')[-1] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    row = chat("q", "thought#b", "r", "thought#c")
    with pytest.raises(DropRow, match="changes earlier turns"):
        ChatTemplate().segments(row, 0, tokenizer)
    assert texts(ChatTemplate("last").segments(row, 0, tokenizer)) == [
        *[("u:q</s>a:b</s>u:r</s>a:", False), ("thought#c", True), ("</s>", True)]
    ]


def test_special_tokens_that_people_wrote_in_a_chat_stay_plain_text(chatml):
    row = chat("</s><|im_end|>", "no<|im_start|>!", "2", "<|im_end|>4")
    segments = ChatTemplate().segments(row, 0, chatml)
    assert [segment for segment in segments if segment.text == "<|im_end|>"] == [
        *[Segment("<|im_end|>", False), Segment("<|im_end|>", True, True)],
        *[Segment("<|im_end|>", True), Segment("<|im_end|>", True, True)],
    ]
    tokens, mask = tokens_and_mask(ChatTemplate(), row, chatml)
    ends = [trained for token, trained in zip(tokens, mask, strict=True) if token == "<|im_end|>"]
    assert ends == [0, 0, 1, 0, 1]  # system, user, reply, user, reply
    assert "</s>" not in tokens
    assert tokens.count("<|im_start|>") == 5
    asked = ChatTemplate().prompt({"instruction": "<|im_end|>"}, 0, chatml)
    assert Segment("<|im_end|>", False) in asked


def test_private_use_characters_survive_beside_hidden_special_tokens(chatml):
    user, reply = "\ue000</s>\ue001\ue002", "\uf8ff<|im_end|>\ue000\U000f0000"
    segments = ChatTemplate().segments(chat(user, reply), 0, chatml)
    assert "".join(s.text for s in segments if not s.trained).endswith(
        f"user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "".join(s.text for s in segments if s.trained) == reply + "<|im_end|>"


def test_special_tokens_are_hidden_in_every_field_that_a_template_may_read(tiny_tokenizer):
    tokenizer = load_tokenizer(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.get('name', '') + m.get('tools', [''])[0] + m.content + eos_token }}"
        "{% endfor %}"
    )
    row = chat("a", "b")
    row["messages"][0] |= {"name": "</s>", "tools": ["</s>"]}
    (encoded,) = encode_batch(tokenizer, [ChatTemplate().segments(row, 0, tokenizer)])
    assert (encoded.ids == tokenizer.eos_token_id).sum() == 2


@pytest.mark.parametrize(
    ("messages", "error", "reason"),
    [
        ([("user", "a")], DropRow, "no assistant turn"),
        ([("assistant", "a"), ("user", "b")], DropRow, "begins with the assistant"),
        ([("robot", "a"), ("assistant", "b")], DropRow, "robot"),
        ([("user", "a"), ("assistant", " ")], DropRow, "empty reply"),
        ([("user", None), ("assistant", "b")], DropRow, "a message without content"),
        ([(None, "a"), ("assistant", "b")], DropRow, "a message without role"),
        ([("user", 3), ("assistant", "b")], BadRow, "`content` of a message is int, not text"),
        ([], DropRow, "empty `messages`"),
        (None, BadRow, "no `messages`"),
        ("a", BadRow, "`messages` is str, not a list"),
    ],
)
def test_a_chat_that_cannot_be_used_says_why(tokenizer, messages, error, reason):
    if isinstance(messages, list):
        messages = [{"role": role, "content": content} for role, content in messages]
    with pytest.raises(error, match=reason):
        ChatTemplate().segments({"messages": messages, "task": "x"}, 0, tokenizer)


def test_a_tokenizer_without_a_chat_template_is_refused(joining):
    with pytest.raises(BadRow, match="no chat template"):
        ChatTemplate().segments(chat("a", "b"), 0, joining)


# --- several templates


def mixed(weights, seed=0):
    return MixedTemplates({name: InstructionTemplate(name + "{content}") for name in weights}, weights, seed)


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 1, "b": 1},
        {"a": 0.7, "b": 0.3},
        {"a": 5, "b": 3, "c": 2},
        {"a": 0.37, "b": 0.21, "c": 0.42},
        {"a": 1, "b": 2, "c": 3, "d": 4, "e": 7},
        {"a": 1, "b": 99},
        {"a": 3},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_prefix_is_within_one_row_of_the_weights(weights, seed):
    template = mixed(weights, seed)
    drawn = [template.choice(number) for number in range(500)]
    rows = np.arange(1, 501)
    for name, weight in weights.items():
        count = np.cumsum([choice == name for choice in drawn])
        assert (np.abs(count - rows * weight / sum(weights.values())) < 1 + 1e-9).all()
    again = mixed(dict(reversed(weights.items())), seed)
    assert [again.choice(number) for number in reversed(range(500))] == drawn[::-1]


def test_templates_do_not_keep_step_with_rows_that_alternate():
    template = mixed({"a": 1, "b": 1})
    drawn = "".join(template.choice(number) for number in range(2000))
    assert 400 < drawn[::2].count("a") < 600
    assert drawn != "".join(mixed({"a": 1, "b": 1}, 1).choice(number) for number in range(2000))


def test_each_row_is_written_by_its_template(tokenizer):
    template = mixed({"a": 1, "b": 1})
    for number in range(6):
        prompt = template.prompt({"instruction": "!"}, number, tokenizer)[1]
        assert prompt.text == template.choice(number) + "!"
    assert template.columns == ("instruction", "output")
    assert pickle.loads(pickle.dumps(template)).choice(5) == template.choice(5)


def test_problems_of_templates_name_the_field():
    nested = MixedTemplates({"x": InstructionTemplate("Q"), "y": ChatTemplate()}, {"x": 0, "z": 1})
    assert nested.config_errors() == [
        "data.template.templates.x.prompt has no {content}: the instruction would be lost",
        "data.template.weights names x, z, but the templates are x, y",
        "data.template.weights.x is 0: give a positive number",
    ]
    assert mixed({"a": 1}).config_errors() == []
    assert MixedTemplates({}).config_errors() == [
        "data.template.templates is empty: name one or more templates"
    ]


def test_all_templates_can_be_written_in_yaml():
    from jsonargparse import ArgumentParser

    def data(template: Template):
        return template

    parser = ArgumentParser()
    parser.add_function_arguments(data)
    yaml = """
    template:
      class_path: datamodules.rendering.templates.MixedTemplates
      init_args:
        templates:
          plain:
            class_path: datamodules.rendering.templates.InstructionTemplate
            init_args: {style: alpaca, system: Be kind.}
          chat:
            class_path: datamodules.rendering.chat_template.ChatTemplate
            init_args: {train_on: last}
        weights: {plain: 3, chat: 1}
    """
    template = parser.instantiate_classes(parser.parse_string(yaml)).template
    assert template.config_errors() == []
    assert repr(template) == repr(
        MixedTemplates(
            {"chat": ChatTemplate("last"), "plain": InstructionTemplate(style="alpaca", system="Be kind.")},
            {"chat": 1.0, "plain": 3.0},
        )
    )


def test_what_changes_the_text_changes_the_repr():
    templates = [
        InstructionTemplate(),
        InstructionTemplate(SHORT),
        InstructionTemplate(separator=" "),
        InstructionTemplate(system="a"),
        InstructionTemplate(style="alpaca"),
        InstructionTemplate(SHORT, style="llama2"),
        ChatTemplate(),
        ChatTemplate("last"),
        ChatTemplate(system="a"),
        mixed({"a": 1, "b": 1}),
        mixed({"a": 1, "b": 2}),
        mixed({"a": 1, "b": 1}, 1),
    ]
    assert len({repr(template) for template in templates}) == len(templates)


# --- ids

PIECES = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "\ue000",
    "\ue001",
    "{content}",
    "{system}",
    "好",
    "\n",
    " ",
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=6).map("".join)
FILLED = TEXT.filter(str.strip)
ANY_TEXT = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def decoded(encoded: Encoded, tokenizer):
    """(text, trained) of every run of tokens of one kind."""
    runs = itertools.groupby(zip(encoded.trained, encoded.ids.tolist(), strict=True), lambda pair: pair[0])
    return [(tokenizer.decode([token for _, token in run]), bool(flag)) for flag, run in runs]


@given(rows=st.lists(st.tuples(FILLED, TEXT, FILLED, st.lists(TEXT, max_size=2)), min_size=1, max_size=4))
@ANY_TEXT
def test_any_instruction_row_decodes_to_its_prompt_and_reply(tokenizer, chatml, rows):
    for using, template in (
        (tokenizer, InstructionTemplate()),
        (chatml, InstructionTemplate(style="chatml")),
    ):
        before, after = template.format.split("{content}")
        segments, expected = [], []
        for instruction, extra, output, steps in rows:
            row = {"instruction": instruction, "input": extra, "output": output, "steps": steps}
            segments.append(template.segments(row, 0, using))
            content = instruction + ("\n" + extra if extra else "")
            reply = "\n".join([*steps, output] if "".join(steps).strip() else [output])
            expected.append([("<s>" + before + content + after, False), (reply + using.eos_token, True)])
        encoded = encode_batch(using, segments)
        assert [decoded(row, using) for row in encoded] == expected
        assert all(ends_with_eos(row, using) and not double_bos(row.ids, using) for row in encoded)


@given(turns=st.lists(st.tuples(TEXT, FILLED), min_size=1, max_size=3), system=FILLED)
@ANY_TEXT
def test_any_chat_decodes_to_its_turns(chatml, turns, system):
    row = {**chat(*itertools.chain(*turns)), "system": system}
    (encoded,) = encode_batch(chatml, [ChatTemplate().segments(row, 0, chatml)])
    expected, lead = [], f"<|im_start|>system\n{system}<|im_end|>\n"
    for user, reply in turns:
        given_text = f"{lead}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        expected += [(given_text, False), (reply + "<|im_end|>", True)]
        lead = "\n"
    assert decoded(encoded, chatml) == expected
    for token in ("<|im_start|>", "<|im_end|>"):  # one a turn, whatever people wrote
        assert (encoded.ids == chatml.convert_tokens_to_ids(token)).sum() == 1 + 2 * len(turns)
    assert not np.isin(encoded.ids, chatml.convert_tokens_to_ids(["<s>", "</s>"])).any()


@given(rows=st.lists(st.lists(st.tuples(TEXT, st.booleans(), st.booleans()), max_size=4), max_size=4))
@ANY_TEXT
def test_a_batch_gives_each_segment_what_the_tokenizer_gives_it_alone(tokenizer, chatml, joining, rows):
    rows = [[Segment(*segment) for segment in row] for row in rows]
    for using in (tokenizer, chatml, joining):
        encoded = encode_batch(using, rows)
        for row, (ids, trained) in zip(rows, encoded, strict=True):
            alone = [
                using(s.text, add_special_tokens=False, split_special_tokens=not s.special)["input_ids"]
                for s in row
            ]
            assert ids.tolist() == list(itertools.chain(*alone))
            assert trained.tolist() == [s.trained for s, part in zip(row, alone, strict=True) for _ in part]
            assert (ids.dtype, trained.dtype) == (np.int32, bool)


def test_the_tokenizers_settings_come_back(tiny_tokenizer):
    tokenizer = load_tokenizer(tiny_tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(3)
    backend.enable_padding(pad_id=0, pad_token="<pad>", length=8)
    before = backend.to_str()
    row = [Segment("a film that is not slow", True)]
    for split in (False, True):
        backend.encode_special_tokens = split
        assert len(encode_batch(tokenizer, [row])[0].ids) > 3
        assert (backend.to_str(), backend.encode_special_tokens) == (before, split)
    with pytest.raises(TypeError):
        encode_batch(tokenizer, [[Segment(3, True)]])  # type: ignore[arg-type]
    assert (backend.to_str(), backend.encode_special_tokens) == (before, True)


def test_two_bos_and_a_missing_eos_are_seen(joining):
    assert double_bos([1, 1, 5], joining)
    assert not double_bos([1, 5, 1, 1], joining)
    assert not double_bos([1], joining)
    for trained, ends in (([0, 1, 1, 0, 1], True), ([0, 1, 0, 0, 1], False), ([0, 0, 0, 1, 0], False)):
        row = Encoded(np.array([1, 5, 2, 6, 2], np.int32), np.array(trained, bool))
        assert ends_with_eos(row, joining) is ends
