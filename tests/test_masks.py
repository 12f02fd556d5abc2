"""From rows to batches: which tokens are trained on, worked out by hand, token by token, in English and
Chinese; what the policies do to rows that do not fit. How a row becomes text is in `test_rendering.py`."""

from pathlib import Path

import numpy as np
import pytest

from datamodules import (
    ChatTemplate,
    InstructionData,
    InstructionTemplate,
    MixedCorpusData,
    PromptData,
    Source,
)
from datamodules.collate import packed_blocks
from datamodules.instruction import Policies
from datamodules.rendering.tokenizer import load_tokenizer
from experiments.cli.program import main

# A character tokenizer with three merges. Two of them would join the end of a prompt to the start of a reply,
# which is how the first token of a reply gets lost on formats that end in ":" or a line end.
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHARACTERS = sorted(
    set("### Instruction:\n\nResponse:Q:A: user assistant system 2+24yes no again <>/s| 你好吗很再见|_im")
)
MERGES = [(":", "y"), ("\n", "很"), ("很", "好")]
SHORT = "Q:{content}A:"
QUESTION = ["<s>", *"Q:2+2A:"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ 'Q:' + m.content + 'A:' }}{% else %}{{ m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
CONFIG = str(Path(__file__).resolve().parent.parent / "experiments" / "configs" / "sft.yaml")
CHAT_TEMPLATE = "datamodules.ChatTemplate"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tokenizer's directory; its chat template writes `Q:…A:…</s>` with one bos in front."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = [*SPECIAL, *CHARACTERS, *(left + right for left, right in MERGES)]
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=MERGES))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHAT
    directory = tmp_path_factory.mktemp("characters")
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(str(folder))


def with_chat_template(folder, tmp_path, chat_template):
    """The directory of the same tokenizer with another chat template."""
    other = load_tokenizer(str(folder))
    other.chat_template = chat_template
    other.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def chat(*turns):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


def instruction_data(rows, tmp_path, folder, content, **options):
    options = {
        "template": InstructionTemplate(SHORT),
        "micro_batch_size": 2,
        "global_batch_size": 2,
        "max_dropped": 1,
    } | options
    data = InstructionData(train=rows(tmp_path / "rows.jsonl", content), tokenizer=str(folder), **options)
    data.setup()
    return data


def tokens_and_mask(data, row):
    """The tokens of a batch with one row as texts, and 1 where they are trained."""
    batch = data.collate("train", np.array([row]))
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    assert (labels[labels != -100] == ids[labels != -100]).all()
    return data.tokenizer.convert_ids_to_tokens(ids.tolist()), (labels != -100).int().tolist()


def test_the_merges_would_join_prompt_and_reply(tokenizer):
    """Without this the tests below would pass for the wrong reason."""
    assert tokenizer.tokenize("A:yes") == ["A", ":y", "e", "s"]
    assert tokenizer.tokenize("\n很") == ["\n很"]


# --- labels


@pytest.mark.parametrize(
    ("row", "prompt", "reply"),
    [
        ({"instruction": "2+2", "output": "yes"}, QUESTION, ["y", "e", "s", "</s>"]),
        ({"instruction": "2", "input": "4", "output": "no"}, ["<s>", *"Q:2\n4A:"], ["n", "o", "</s>"]),
        ({"instruction": "你好吗", "output": "很好"}, ["<s>", *"Q:你好吗A:"], ["很好", "</s>"]),
        (
            {"instruction": "你好", "input": "再见", "output": "再见很好"},
            ["<s>", *"Q:你好\n再见A:"],
            ["再", "见", "很好", "</s>"],
        ),
        (
            {"instruction": "2", "steps": ["4"], "output": "很好"},
            ["<s>", *"Q:2A:"],
            [*"4", "\n很", "好", "</s>"],
        ),
        (
            {"instruction": "2+2", "reply_prefix": "yes", "output": "yes"},
            [*QUESTION, "y", "e", "s"],
            ["y", "e", "s", "</s>"],
        ),
        (
            {"instruction": "</s>", "input": "<s>", "output": "no</s>"},
            ["<s>", *"Q:</s>\n<s>A:"],
            [*"no</s>", "</s>"],
        ),
    ],
    ids=["reply", "input", "中文", "中文 with input", "steps", "given start", "special as text"],
)
def test_instruction_rows_train_the_reply_and_its_eos(rows, tmp_path, folder, row, prompt, reply):
    tokens, mask = tokens_and_mask(instruction_data(rows, tmp_path, folder, [row]), 0)
    assert tokens == prompt + reply
    assert mask == [0] * len(prompt) + [1] * len(reply)


def test_a_chat_trains_every_assistant_turn_with_its_eos(rows, tmp_path, folder):
    content = [chat("2+2", "yes", "你好吗", "很好"), chat("</s>", "no<s>", "2", "</s>4")]
    data = instruction_data(rows, tmp_path, folder, content, template=ChatTemplate())
    tokens, mask = tokens_and_mask(data, 0)
    assert tokens == [*QUESTION, "y", "e", "s", "</s>", *"Q:你好吗A:", "很好", "</s>"]
    assert mask == [0] * 8 + [1] * 4 + [0] * 7 + [1] * 2
    tokens, mask = tokens_and_mask(data, 1)  # what people wrote stays plain text
    assert tokens == ["<s>", *"Q:</s>A:", *"no<s>", "</s>", *"Q:2A:", *"</s>4", "</s>"]
    assert mask == [0] * 9 + [1] * 6 + [0] * 5 + [1] * 6


def test_the_last_turn_alone_is_trained_and_what_follows_an_eos_is_given(rows, tmp_path, folder):
    other = with_chat_template(folder, tmp_path, CHAT.replace("+ eos_token", "+ eos_token + '\n'"))
    row = chat("2", "4", "2", "yes")
    for train_on, first in (("all", [1, 1]), ("last", [0, 0])):
        data = instruction_data(rows, tmp_path, other, [row], template=ChatTemplate(train_on))
        tokens, mask = tokens_and_mask(data, 0)
        assert tokens == ["<s>", *"Q:2A:", "4", "</s>", "\n", *"Q:2A:", *"yes", "</s>"]
        assert mask == [0] * 6 + first + [0] * 6 + [1] * 4


def test_the_prompt_of_training_is_the_prompt_of_generation(rows, tmp_path, folder):
    """For SFT's own predictions and for PPO, with and without a given start of the reply."""
    content = [
        {"instruction": "2+2", "output": "yes"},
        {"instruction": "你好吗", "reply_prefix": "很", "output": "好"},
    ]
    for template in (InstructionTemplate(SHORT), ChatTemplate()):
        data = instruction_data(rows, tmp_path, folder, content, template=template)
        asked = PromptData(rows(tmp_path / "x.jsonl", content), str(folder), template=template)
        asked.setup()
        for number, prompt in enumerate((QUESTION, ["<s>", *"Q:你好吗A:", "很"])):
            tokens, mask = tokens_and_mask(data, number)
            assert [token for token, trained in zip(tokens, mask, strict=True) if not trained] == prompt
            ids = asked.splits["train"][number]["input_ids"].tolist()
            assert data.tokenizer.convert_ids_to_tokens(ids) == prompt
        (batch,) = data.predict_dataloader()
        order = batch["rows"].tolist()
        prompts = [batch["prompt_ids"][order.index(n)][batch["prompt_mask"][order.index(n)]] for n in (0, 1)]
        assert [data.tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in prompts] == [
            QUESTION,
            ["<s>", *"Q:你好吗A:", "很"],
        ]


def test_a_batch_has_minus_100_on_prompt_and_padding(rows, tmp_path, folder, tokenizer):
    content = [{"instruction": "2+2", "output": "yes"}, {"instruction": "你好吗", "output": "很好"}]
    batch = instruction_data(rows, tmp_path, folder, content).collate("train", np.array([0, 1]))
    y, e, s, good, eos = tokenizer.convert_tokens_to_ids(["y", "e", "s", "很好", "</s>"])
    assert batch["labels"].tolist() == [
        [-100] * 8 + [y, e, s, eos],
        [-100] * 8 + [good, eos, -100, -100],
    ]
    assert batch["input_ids"][1].tolist()[-4:] == [good, eos, tokenizer.pad_token_id, tokenizer.pad_token_id]
    assert batch["document_ids"].tolist() == [[0] * 12, [0] * 10 + [-1, -1]]
    assert batch["position_ids"][0].tolist() == list(range(12))


def test_a_steps_normalizer_is_its_trained_tokens_over_all_micro_batches(rows, tmp_path, folder):
    """ "yes" and eos are 4, "很好" and eos 2, "4" and eos 2, "no" and eos 3: 11 in both micro-batches."""
    replies = ("yes", "很好", "4", "no")
    content = [{"instruction": "2", "output": reply} for reply in replies]
    data = instruction_data(rows, tmp_path, folder, content, global_batch_size=4)
    batches = iter(data.train_dataloader())
    first, second = next(batches), next(batches)
    assert (first["step"], second["step"]) == (0, 0)
    assert (first["normalizer"], second["normalizer"]) == (11, 11)
    assert sum(int((batch["labels"] != -100).sum()) for batch in (first, second)) == 11


def test_rows_in_a_pack_restart_positions_and_train_nothing_across_rows(rows, tmp_path, folder, tokenizer):
    """Rows of 6 + 4, 6 + 2 and 6 + 3 tokens; packs of 18 hold the first two, or the last with one of them."""
    content = [{"instruction": "2", "output": reply} for reply in ("yes", "4", "no")]
    data = instruction_data(rows, tmp_path, folder, content, max_length=18, packing=18, micro_batch_size=1)
    split = data.splits["train"]
    assert sorted(split.lengths.tolist()) == [9, 18]  # 10 + 8, and 9 alone
    batch = data.collate("train", np.array([split.lengths.tolist().index(18)]))
    prompt = ["<s>", *"Q:2A:"]
    tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    assert tokens == [*prompt, "y", "e", "s", "</s>", *prompt, "4", "</s>"]
    assert (batch["labels"][0] != -100).int().tolist() == [0] * 6 + [1] * 4 + [0] * 6 + [1] * 2
    assert batch["position_ids"][0].tolist() == [*range(10), *range(8)]
    assert batch["document_ids"][0].tolist() == [0] * 10 + [1] * 8
    assert split.weights.tolist()[split.lengths.tolist().index(18)] == 6


# --- policies: rows that cannot be trained on as they are

GOOD = {"instruction": "2", "output": "4"}  # 6 tokens of prompt, 2 of reply
YES = {"instruction": "2+2", "output": "yes"}  # 8 and 4
NO_EOS = CHAT.replace(" + eos_token", "")
TWO_BOS = "{{ bos_token }}" + CHAT


def outcome(data):
    """What the receipt says of the training rows: kept, truncated, dropped."""
    receipt = data.receipts[0]
    assert receipt.kept == len(data.splits["train"])
    assert receipt.rows == receipt.kept + sum(receipt.dropped.values())
    return receipt.kept, receipt.truncated, receipt.dropped


def test_a_reply_that_does_not_fit_is_dropped_and_counted(rows, tmp_path, folder):
    """12 tokens: they fit into 12, not into 11, and are never cut at the end."""
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=12)
    assert outcome(data) == (2, 0, {})
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=11)
    assert outcome(data) == (1, 0, {"prompt and reply are longer than max_length 11": 1})
    assert data.splits["train"].ids.tolist() == [1]
    assert tokens_and_mask(data, 0) == (["<s>", *"Q:2A:", "4", "</s>"], [0] * 6 + [1] * 2)


def test_a_reply_that_does_not_fit_can_cost_the_start_of_its_prompt(rows, tmp_path, folder):
    """12 tokens into 10: bos stays, `Q:` goes; the whole reply is there and trained."""
    policies = Policies(long_reply="truncate_left")
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=10, policies=policies)
    assert outcome(data) == (2, 1, {})
    assert tokens_and_mask(data, 0) == (["<s>", *"2+2A:", *"yes", "</s>"], [0] * 6 + [1] * 4)
    assert data.receipts[0].tokens == 10 + 8
    assert data.receipts[0].trained == 4 + 2
    (batch,) = data.predict_dataloader()
    asked = batch["prompt_ids"][batch["rows"].tolist().index(0)].tolist()
    assert data.tokenizer.convert_ids_to_tokens(asked) == ["<s>", *"2+2A:"]


def test_a_reply_that_alone_fills_the_limit_is_dropped_though_prompts_may_be_cut(rows, tmp_path, folder):
    """bos, "yes yes" and eos are 9 tokens: in 10 a token of the prompt is left, in 9 there would be none."""
    content = [{"instruction": "2", "output": "yes yes"}, GOOD]
    policies = Policies(long_reply="truncate_left")
    data = instruction_data(rows, tmp_path, folder, content, max_length=10, policies=policies)
    assert outcome(data) == (2, 1, {})
    assert tokens_and_mask(data, 0) == (["<s>", ":", *"yes yes", "</s>"], [0, 0] + [1] * 8)
    data = instruction_data(rows, tmp_path, folder, content, max_length=9, policies=policies)
    assert outcome(data) == (1, 0, {"reply alone fills max_length 9": 1})


def test_an_earlier_reply_whose_question_was_cut_away_is_not_trained(rows, tmp_path, folder):
    """`<s>Q:2A:4</s>Q:2+2A:yes</s>` is 19 tokens: in 13 the first question and `4` are gone, eos is not."""
    policies = Policies(long_prompt="truncate_left")
    content = [chat("2", "4", "2+2", "yes")]
    data = instruction_data(
        rows, tmp_path, folder, content, template=ChatTemplate(), max_length=13, policies=policies
    )
    tokens, mask = tokens_and_mask(data, 0)
    assert tokens == ["<s>", "</s>", *"Q:2+2A:", *"yes", "</s>"]
    assert mask == [0] * 9 + [1] * 4


def test_a_prompt_that_fills_max_length_is_dropped_and_counted(rows, tmp_path, folder):
    """8 tokens of prompt leave no place for a reply in 8; what is done to long replies does not matter."""
    policies = Policies(long_reply="truncate_left")
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=8, policies=policies)
    assert outcome(data) == (1, 0, {"prompt fills max_length 8": 1})
    assert data.splits["train"].ids.tolist() == [1]
    assert data.splits["train"].weights.tolist() == [2]  # "4" and eos


def test_a_prompt_that_fills_max_length_can_be_cut_from_the_left(rows, tmp_path, folder):
    """12 tokens into 8: bos stays, `Q:2+` goes."""
    policies = Policies(long_prompt="truncate_left")
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=8, policies=policies)
    assert outcome(data) == (2, 1, {})
    assert tokens_and_mask(data, 0) == (["<s>", *"2A:", *"yes", "</s>"], [0] * 4 + [1] * 4)


def test_an_empty_reply_is_dropped_and_counted(rows, tmp_path, folder):
    content = [{**GOOD, "output": " "}, GOOD, {**GOOD, "output": ""}]
    data = instruction_data(rows, tmp_path, folder, content)
    assert outcome(data) == (1, 0, {"empty `output`": 2})
    chats = [chat("2", "\n"), chat("2", "4")]
    data = instruction_data(rows, tmp_path, folder, chats, template=ChatTemplate())
    assert outcome(data) == (1, 0, {"empty reply": 1})


def test_a_missing_eos_is_appended_to_every_trained_turn(rows, tmp_path, folder):
    """Also where people wrote the text of eos there."""
    other = with_chat_template(folder, tmp_path, NO_EOS)
    content = [chat("2", "4", "你好吗", "很好"), chat("2", "no</s>")]
    options = {"template": ChatTemplate(), "policies": Policies(missing_eos="append")}
    data = instruction_data(rows, tmp_path, other, content, **options)
    assert outcome(data)[::2] == (2, {})
    tokens, mask = tokens_and_mask(data, 0)
    assert tokens == ["<s>", *"Q:2A:", "4", "</s>", *"Q:你好吗A:", "很好", "</s>"]
    assert mask == [0] * 6 + [1] * 2 + [0] * 7 + [1] * 2
    tokens, mask = tokens_and_mask(data, 1)
    assert tokens == ["<s>", *"Q:2A:", *"no</s>", "</s>"]
    assert mask == [0] * 6 + [1] * 7


def test_eos_is_appended_after_the_templates_own_end_of_a_turn(rows, tmp_path, folder):
    """ChatML on a base model: turns end with <|im_end|>, which is not the tokenizer's eos."""
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    other = with_chat_template(folder, tmp_path, chatml)
    options = {"template": ChatTemplate(), "policies": Policies(missing_eos="append")}
    data = instruction_data(rows, tmp_path, other, [chat("2", "yes")], **options)
    before = ["<|im_start|>", *"user\n2", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"]
    tokens, mask = tokens_and_mask(data, 0)
    assert tokens == [*before, *"yes", "<|im_end|>", "\n", "</s>"]
    assert mask == [0] * len(before) + [1] * 6


def test_rows_without_eos_can_be_dropped_and_counted(rows, tmp_path, folder):
    """This template ends no reply that begins with "no"."""
    some = CHAT.replace("+ eos_token", "+ (eos_token if m.content[:2] != 'no' else '')")
    other = with_chat_template(folder, tmp_path, some)
    options = {"template": ChatTemplate(), "policies": Policies(missing_eos="drop")}
    content = [chat("2", "no"), chat("2", "4"), chat("2", "no", "2", "4")]
    data = instruction_data(rows, tmp_path, other, content, **options)
    assert outcome(data) == (1, 0, {"a reply without </s> at its end": 2})
    assert data.splits["train"].ids.tolist() == [1]


def test_the_second_of_two_bos_can_be_removed(rows, tmp_path, folder):
    other = with_chat_template(folder, tmp_path, TWO_BOS)
    options = {"template": ChatTemplate(), "policies": Policies(double_bos="truncate_left")}
    data = instruction_data(rows, tmp_path, other, [chat("2", "yes")], **options)
    assert outcome(data)[::2] == (1, {})
    assert tokens_and_mask(data, 0) == (["<s>", *"Q:2A:", *"yes", "</s>"], [0] * 6 + [1] * 4)


def test_a_row_fits_once_its_second_bos_is_gone(rows, tmp_path, folder):
    """`<s><s>Q:2A:yes</s>` is 11 tokens."""
    other = with_chat_template(folder, tmp_path, TWO_BOS)
    options = {"template": ChatTemplate(), "policies": Policies(double_bos="truncate_left")}
    data = instruction_data(rows, tmp_path, other, [chat("2", "yes")], max_length=10, **options)
    assert outcome(data)[::2] == (1, {})


def test_rows_with_two_bos_can_be_dropped_and_counted(rows, tmp_path, folder):
    """This template writes a second bos before a question in digits."""
    some = CHAT.replace(
        "{{ bos_token }}", "{{ bos_token }}{% if messages[0].content == '2' %}<s>{% endif %}", 1
    )
    other = with_chat_template(folder, tmp_path, some)
    options = {"template": ChatTemplate(), "policies": Policies(double_bos="drop")}
    data = instruction_data(rows, tmp_path, other, [chat("2", "4"), chat("2+2", "<s>4")], **options)
    assert outcome(data) == (1, 0, {"two <s> at the beginning": 1})
    assert data.splits["train"].ids.tolist() == [1]


@pytest.mark.parametrize(
    ("chat_template", "policies"),
    [
        (NO_EOS, Policies(missing_eos="append")),
        (TWO_BOS, Policies(double_bos="truncate_left")),
    ],
    ids=["appended eos", "removed bos"],
)
def test_every_row_that_a_policy_changes_is_counted(rows, tmp_path, folder, chat_template, policies):
    other = with_chat_template(folder, tmp_path, chat_template)
    data = instruction_data(
        rows, tmp_path, other, [chat("2", "4")], template=ChatTemplate(), policies=policies
    )
    again = with_chat_template(folder, tmp_path, CHAT)
    plain = instruction_data(rows, tmp_path, again, [chat("2", "4")], template=ChatTemplate())
    assert data.receipts[0].to_dict() != plain.receipts[0].to_dict()


@pytest.mark.parametrize(
    ("policy", "bad", "chat_template", "reason"),
    [
        ("long_reply", chat("2+2", "yes"), CHAT, "prompt and reply are longer than max_length 11"),
        ("long_prompt", chat("2+2+2+2+2", "4"), CHAT, "prompt fills max_length 11"),
        ("empty_reply", chat("2", " "), CHAT, "empty reply"),
        ("missing_eos", chat("2", "no"), NO_EOS, "a reply without </s> at its end"),
        ("double_bos", chat("2", "no"), TWO_BOS, "two <s> at the beginning"),
    ],
)
def test_a_policy_of_error_stops_and_names_the_row(
    rows, tmp_path, folder, capsys, policy, bad, chat_template, reason
):
    """Row 2 after a good one; row 1 where the template is wrong for all rows."""
    other = with_chat_template(folder, tmp_path, chat_template)
    line = 2 if chat_template == CHAT else 1
    file = rows(tmp_path / "x.jsonl", [chat("2", "4")] * (line - 1) + [bad])
    options = {"train": file, "val": "null", "tokenizer": other, "group_by": "null", "max_length": 11}
    options |= {"template": CHAT_TEMPLATE, "max_dropped": 1, f"policies.{policy}": "error"}
    overrides = [f"--data.init_args.{key}={value}" for key, value in options.items()]
    assert main(["data", "receipt", "--config", CONFIG, *overrides]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trivium: ")]
    assert told == [f"trivium: data.train: {file}:{line}: {reason} (data.policies.{policy} is error)"]


def test_only_what_would_train_something_wrong_stops_unasked():
    """A wrong template is a mistake of the run; a long or an empty row is one of the row."""
    policies = Policies()
    assert (policies.missing_eos, policies.double_bos) == ("error", "error")
    assert (policies.long_prompt, policies.long_reply, policies.empty_reply) == ("drop", "drop", "drop")


# --- the receipt


def test_a_chat_without_an_assistant_or_with_an_unknown_role_is_dropped_with_the_reason(
    rows, tmp_path, tiny_tokenizer
):
    """The tiny tokenizer's own template, as `trivium tokenizer` writes it, raises on roles it does not
    know."""
    content = [
        {"messages": [{"role": "user", "content": "a film"}]},
        {"messages": [{"role": "robot", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "good film"}]},
    ]
    data = instruction_data(rows, tmp_path, tiny_tokenizer, content, template=ChatTemplate())
    receipt = data.receipts[0]
    assert (receipt.rows, receipt.kept) == (3, 1)
    reasons = sorted(receipt.dropped.items())
    assert reasons[0] == ("no assistant turn", 1)
    assert "robot" in reasons[1][0]


def test_the_receipts_sample_shows_what_is_trained(rows, tmp_path, folder):
    data = instruction_data(rows, tmp_path, folder, [{"instruction": "你好吗", "output": "很好"}])
    assert data.receipts[0].sample == [
        *((token, False) for token in ("<s>", *"Q:你好吗A:")),
        *[("很好", True), ("</s>", True)],
    ]


# --- pretraining blocks


def test_packed_blocks_restart_positions_and_train_no_token_across_documents():
    #             document 0 (ends)   1       2, cut by the block's end
    ids = np.array([[5, 6, 2, 1, 2, 1, 8, 9], [8, 2, 1, 7, 2, 0, 0, 0]])
    documents = np.array([[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, -1, -1, -1]])
    batch = packed_blocks(ids, documents, [0, 3])
    x = -100
    assert batch["labels"].tolist() == [[x, 6, 2, x, 2, x, 8, 9], [x, 2, x, 7, 2, x, x, x]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 0, 1, 2, 0, 1, 2]]
    assert batch["source"].tolist() == [0, 3]


def test_a_corpus_is_cut_into_blocks_of_whole_text_and_counts_its_targets(rows, tmp_path, folder, tokenizer):
    path = rows(tmp_path / "corpus.jsonl", [{"text": "你好"}, {"text": "no"}, {"text": "2+2"}])
    data = MixedCorpusData(
        {"a": Source(path, 1.0, val=path)},
        str(folder),
        sequence_length=5,
        global_batch_size=2,
        micro_batch_size=2,
    )
    data.setup()
    # <s> 你 好 </s> <s> | n o </s> <s> 2 | + 2 </s>: training leaves the short tail out, validation pads it
    blocks = [tokenizer.convert_ids_to_tokens(data.splits["train"][row][1][0]) for row in range(2)]
    assert blocks == [["<s>", "你", "好", "</s>", "<s>"], ["n", "o", "</s>", "<s>", "2"]]
    assert len(data.splits["train"]) == 2
    split = data.splits["train"]
    assert split.weights[split.rows()].tolist() == [3, 3]  # 你 好 </s>; o </s> and 2
    val = data.collate("val", np.array([2, -1]))
    assert val["document_ids"].tolist() == [[0, 0, 0, -1, -1], [-1] * 5]
    assert val["labels"].tolist() == [
        [-100, *tokenizer.convert_tokens_to_ids(["2", "</s>"]), -100, -100],
        [-100] * 5,
    ]
