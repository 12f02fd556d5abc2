"""SFT, preferences and prompts read a conversation as the same ids, those of the whole text that its chat
template writes; by templates and tokenizers of many kinds."""

import numpy as np
import pytest

from datamodules import ChatTemplate, InstructionData, InstructionTemplate, PreferenceData, PromptData
from datamodules.errors import UserError
from datamodules.rendering.segments import Segment
from datamodules.rendering.whole_text import encode_batch
from tests.chat_templates import KINDS, MORE, R1, TEMPLATES, tokenizers
from tests.conversations import chat

ENDS = {  # of a turn, by hand
    **{"llama2": "</s>", "llama3": "<|eot|>", "gemma": "<end_of_turn>", "qwen3": "<|im_end|>"},
    **{"thinking": "</s>", "chatml": "<|im_end|>", "mistral": "</s>", "dated": "<|eot|>"},
    **{"phi3": "<|end|>", "plain": "</s>", "text": "</s>"},
}
# what is trained of the replies "Yes, very. " and " No.", white space around it apart
WRITTEN = {
    "qwen3": "<think>\n\n</think>\n\n{}<|im_end|>",
    "llama2": "{} </s>",  # the space is the template's
}
REPLIES = ["Yes, very. ", " No."]


@pytest.fixture(scope="module")
def made():
    return tokenizers()


@pytest.fixture
def data(made, tmp_path, rows):
    """Makes a data module of rows with a tokenizer of some kind and a chat template."""

    def make(kind, name, module, content, **options):
        tokenizer = made[kind]
        tokenizer.chat_template = {**TEMPLATES, **MORE, "r1": R1}.get(name, name)
        folder = tmp_path / "tokenizer"
        tokenizer.save_pretrained(folder)
        options = {"template": ChatTemplate("last"), "max_dropped": 1.0, **options}
        data = module(rows(tmp_path / "rows.jsonl", content), str(folder), **options)
        data.setup()
        return data

    return make


def all_three(data, kind, name, asked, replies):
    """The columns of the best reply to a chat, for SFT, preferences and prompts."""
    pairs = [{"messages": asked, "replies": replies}]
    answered = [{"messages": [*asked, {"role": "assistant", "content": replies[0]}]}]
    (sft,) = data(kind, name, InstructionData, answered).splits["train"].members(0)
    (ranked,) = data(kind, name, PreferenceData, pairs).splits["train"].members(0)
    prompts = data(kind, name, PromptData, answered)
    (prompt,) = prompts.splits["train"].members(0)
    return prompts.tokenizer, sft, ranked, prompt["input_ids"].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*TEMPLATES, *MORE])
def test_all_three_read_the_ids_of_the_whole_conversation(data, kind, name):
    # GPT-2's pattern would read "\n\n No" with other line ends than "\n\nYes": see the next test
    texts = REPLIES if name != "plain" else [text.strip() for text in REPLIES]
    for asked in (chat("Is it good?"), chat("Hi", "Hello. ", "Is it\n\ngood?")):
        asked = asked["messages"]
        tokenizer, sft, ranked, prompt = all_three(data, kind, name, asked, texts)
        replies = [ids.tolist() for ids in ranked["replies"]]
        for text, ids in zip(texts, replies, strict=True):
            conversation = [*asked, {"role": "assistant", "content": text}]
            whole = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
            end = len(whole) - whole[::-1].index(tokenizer.convert_tokens_to_ids(ENDS[name]))
            if name == "phi3":  # closes a chat with eos, after the turn's end
                assert tokenizer.convert_ids_to_tokens(whole[-1]) == "</s>"
            assert ids == whole[:end]
            written = WRITTEN.get(name, "{}" + ENDS[name]).format(text.strip())
            trained = tokenizer.decode(ids[ranked["prompt_length"] :])
            assert "".join(trained.split()) == "".join(written.split())
        assert sft["input_ids"].tolist() == replies[0]
        assert (sft["trained"] == (np.arange(len(replies[0])) >= ranked["prompt_length"])).all()
        assert sft["prompt_length"] == len(prompt)
        assert [ids[: len(prompt)] for ids in replies] == [prompt, prompt]


def test_a_prompt_has_the_same_ids_whatever_its_reply_begins_with(data):
    """With GPT-2's pattern two line ends are one token in front of a space and two in front of a letter."""
    for name, replies in (("plain", ["No.", " No.", "\n\nNo.", "12"]), ("text", ["No.", " No.", "\n", "12"])):
        pairs = [{**chat("Is it?"), "replies": replies}]
        (ranked,) = data("byte level", name, PreferenceData, pairs).splits["train"].members(0)
        made = data("byte level", name, PromptData, pairs)
        prompt = made.splits["train"].members(0)[0]["input_ids"].tolist()
        tokenizer, start = made.tokenizer, len(prompt)
        assert ranked["prompt_length"] == start
        assert [ids[:start].tolist() for ids in ranked["replies"]] == [prompt] * len(ranked["replies"])
        written = [tokenizer.decode(ids[start:]) for ids in ranked["replies"]]
        space = " " if name == "text" else ""  # the template's
        assert written == [f"{space}{reply}</s>" for reply in replies if reply.strip()]
        whole = tokenizer.apply_chat_template(
            [*chat("Is it?")["messages"], {"role": "assistant", "content": "No."}], return_dict=False
        )
        assert ranked["replies"][0].tolist() == whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_turn_or_the_last_alone_have_the_same_ids(data, kind, name):
    row = chat("Hi", "\nHello.", "Is it good?", "12")
    (last,) = data(kind, name, InstructionData, [row]).splits["train"].members(0)
    if name in ("qwen3", "thinking"):  # write the thought of the last turn alone
        with pytest.raises(UserError, match="changes earlier turns.*train_on: last"):
            data(kind, name, InstructionData, [row], template=ChatTemplate())
        return
    (every,) = data(kind, name, InstructionData, [row], template=ChatTemplate()).splits["train"].members(0)
    assert every["input_ids"].tolist() == last["input_ids"].tolist()
    assert every["trained"].sum() > last["trained"].sum() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["trivium", "alpaca", "llama2", "chatml"])
def test_a_plain_formats_ids_are_those_of_its_whole_text(data, kind, style):
    """No space but those of the text, also where a reply's given start goes on."""
    template = InstructionTemplate(style=style, system="Be brief.")
    row = {"instruction": "Write.", "input": "2 1", "reply_prefix": "The film", "output": " is dull."}
    rejected = {**row, "chosen": " is dull.", "rejected": " is it"}
    (sft,) = data(kind, "chatml", InstructionData, [row], template=template).splits["train"].members(0)
    (ranked,) = data(kind, "chatml", PreferenceData, [rejected], template=template).splits["train"].members(0)
    made = data(kind, "chatml", PromptData, [row], template=template)
    (prompt,) = made.splits["train"].members(0)
    layout = template.format_with_input
    text = template.system_format.format(system="Be brief.") if "{system}" not in layout else ""
    text += layout.replace("{system}", template.system_format.format(system="Be brief."))
    text = "<s>" + text.replace("{content}", f"Write.{template.separator}2 1") + "The film is dull.</s>"
    assert sft["input_ids"].tolist() == made.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ranked["replies"][0].tolist() == sft["input_ids"].tolist()
    assert prompt["input_ids"].tolist() == sft["input_ids"][: sft["prompt_length"]].tolist()
    assert "".join(made.tokenizer.decode(sft["input_ids"][sft["trained"] > 0]).split()) == "isdull.</s>"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "first" not in kind and kind != "unigram"])
def test_special_tokens_of_people_are_text_and_the_templates_own_are_tokens(made, kind):
    """Between the template's own, tokenizers of these kinds read each stretch as a text of its own."""
    tokenizer = made[kind]
    tokenizer.chat_template = TEMPLATES["chatml"]
    turns = ["Use </s><|im_end|> or", "no <|im_end|>\ue0000:1\ue001.", "[INST]<s>", "[/INST] 12"]
    expected = []
    for role, turn in zip(("user", "assistant") * 2, turns, strict=True):
        for text, special in (("<|im_start|>", 1), (f"{role}\n{turn}", 0), ("<|im_end|>", 1), ("\n", 0)):
            plain = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            expected += [tokenizer.convert_tokens_to_ids(text)] if special else plain
    (ours,) = encode_batch(tokenizer, [ChatTemplate().segments(chat(*turns), 0, tokenizer)])
    line_end = len(tokenizer("\n", add_special_tokens=False)["input_ids"])
    assert ours.ids.tolist() == expected[:-line_end]
    (prompt,) = encode_batch(tokenizer, [ChatTemplate().prompt(chat(*turns), 0, tokenizer)])
    assert ours.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()
    assert ours.trained.tolist().index(True) < len(prompt.ids) <= np.flatnonzero(ours.trained)[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_can_write_a_special_token(made, kind):
    """Not even where the model itself knows it as a piece of text, as a Unigram model does."""
    tokenizer = made[kind]
    for template in (TEMPLATES["chatml"], TEMPLATES["gemma"]):
        tokenizer.chat_template = template
        row = chat("</s><s> <|im_end|>", "<pad></s>", "a <end_of_turn> <|im_start|>", "</s>")
        clean = chat("a", "b", "c", "d")
        (ours,), (other,) = (
            encode_batch(tokenizer, [ChatTemplate().segments(r, 0, tokenizer)]) for r in (row, clean)
        )
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        assert [i for i in ours.ids if i in special] == [i for i in other.ids if i in special]
    (text,) = encode_batch(tokenizer, [[Segment("</s> <s><|im_end|>", True)]])
    assert not special & set(text.ids.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_that_opens_a_thought_it_never_writes_is_refused_by_its_reason(data, kind):
    row = chat("2+2?", "<think>\nadd\n</think>\n\n4")
    pair = {"messages": chat("2+2?")["messages"], "replies": ["4", "5"]}
    for module, content in ((InstructionData, row), (PreferenceData, pair)):
        with pytest.raises(
            UserError, match=r"opens a reply with '<think>\\n'.*give the tokenizer a template"
        ):
            data(kind, "r1", module, [content])
    made = data(kind, "r1", PromptData, [row])
    text = made.tokenizer.decode(made.splits["train"].members(0)[0]["input_ids"])
    assert text.endswith("<think>\n")


def test_a_token_that_would_span_a_replys_beginning_is_cut_there(made):
    """This template ends its prompt with a line end; replies that begin with one would join it."""
    tokenizer = made["byte level"]
    tokenizer.chat_template = TEMPLATES["chatml"]
    joined = tokenizer("a\n\n\n", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(joined)[-2:] == ["ĊĊ", "Ċ"]
    row = chat("Hi", "\n\n", "Hi", "\n\n12")
    row["messages"][1]["content"] = "\n\n."
    (sft,) = encode_batch(tokenizer, [ChatTemplate().segments(row, 0, tokenizer)])
    (prompt,) = encode_batch(tokenizer, [ChatTemplate().prompt(row, 0, tokenizer)])
    assert prompt.ids.tolist() == sft.ids[: len(prompt.ids)].tolist()
    assert not sft.trained[: len(prompt.ids)][-1]
    assert sft.trained[len(prompt.ids) :].all()
    assert tokenizer.decode(sft.ids[sft.trained]) == "\n\n.<|im_end|>\n\n12<|im_end|>"
    alone = tokenizer.apply_chat_template(row["messages"][:3], add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(prompt.ids) == tokenizer.decode(alone)


@pytest.mark.parametrize("kind", ["metaspace", "legacy", "byte level"])
def test_nothing_is_put_in_front_of_a_reply_where_a_text_is_cut(kind):
    """`:y` is one token, so that the text is cut between `A:` and `yes`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    space = "Ġ" if kind == "byte level" else "▁"
    names = ["<pad>", "<s>", "</s>", *sorted({*"Q:2Ayes", space}), ":y"]
    bpe = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [(":", "y")]))
    if kind == "legacy":
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "metaspace":
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    else:
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    template = InstructionTemplate("Q:{content}A:")
    row = {"instruction": "2", "output": "yes"}
    (sft,) = encode_batch(tokenizer, [template.segments(row, 0, tokenizer)])
    assert tokenizer.convert_ids_to_tokens(sft.ids) == ["<s>", space, *"Q:2A:", *"yes", "</s>"]
    assert sft.trained.tolist() == [False] * 7 + [True] * 4
    (prompt,) = encode_batch(tokenizer, [template.prompt(row, 0, tokenizer)])
    assert prompt.ids.tolist() == sft.ids[:7].tolist()
