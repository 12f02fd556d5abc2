"""Which tokens are trained on: rows worked out by hand, token by token, in English and Chinese."""

import numpy as np
import pytest

from datamodules import ChatTemplate, InstructionData, InstructionTemplate, MixedCorpusData, Source
from datamodules.collate import packed_blocks
from datamodules.tokenizer import load_tokenizer

# A character tokenizer with three merges. Two of them would join the end of a prompt to the start of a reply,
# which is how the first token of a reply gets lost on formats that end in ":" or a line end.
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHARACTERS = sorted(
    set("### Instruction:\n\nResponse:Q:A: user assistant system 2+24yes no again <>/s| 你好吗很再见|_im")
)
MERGES = [(":", "y"), ("\n", "很"), ("很", "好")]
SHORT = "Q:{content}A:"
QUESTION = ["<s>", "Q", ":", "2", "+", "2", "A", ":"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ 'Q:' + m.content + 'A:' }}{% else %}{{ m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)


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


def tokens_and_mask(template, row, tokenizer):
    """A row's tokens as texts, and 1 where they are trained."""
    segments = template.segments(row, tokenizer)
    ids = [token for segment in segments for token in segment.ids]
    mask = [int(segment.trained) for segment in segments for _ in segment.ids]
    return tokenizer.convert_ids_to_tokens(ids), mask


def test_the_merges_would_join_prompt_and_reply(tokenizer):
    """Without this the tests below would pass for the wrong reason."""
    assert tokenizer.tokenize("A:yes") == ["A", ":y", "e", "s"]
    assert tokenizer.tokenize("\n很") == ["\n很"]


@pytest.mark.parametrize(
    ("row", "prompt", "reply"),
    [
        ({"instruction": "2+2", "output": "yes"}, QUESTION, ["y", "e", "s", "</s>"]),
        ({"instruction": "2+2", "input": "", "output": "4"}, QUESTION, ["4", "</s>"]),
        (
            {"instruction": "2", "input": "4", "output": "no"},
            ["<s>", "Q", ":", "2", "\n", "4", "A", ":"],
            ["n", "o", "</s>"],
        ),
        (
            {"instruction": "你好吗", "output": "很好"},
            ["<s>", "Q", ":", "你", "好", "吗", "A", ":"],
            ["很好", "</s>"],
        ),
        (
            {"instruction": "你好", "input": "再见", "output": "再见很好"},
            ["<s>", "Q", ":", "你", "好", "\n", "再", "见", "A", ":"],
            ["再", "见", "很好", "</s>"],
        ),
    ],
)
def test_instruction_rows_train_the_reply_and_its_eos(tokenizer, row, prompt, reply):
    tokens, mask = tokens_and_mask(InstructionTemplate(SHORT), row, tokenizer)
    assert tokens == prompt + reply
    assert mask == [0] * len(prompt) + [1] * len(reply)


def test_the_default_format_is_the_documented_one_and_keeps_the_first_reply_token(tokenizer):
    row = {"instruction": "你好吗", "output": "很好"}
    tokens, mask = tokens_and_mask(InstructionTemplate(), row, tokenizer)
    assert "".join(tokens) == "<s>### Instruction:\n你好吗\n\n### Response:\n很好</s>"
    assert tokens[-4:] == [":", "\n", "很好", "</s>"]
    assert sum(mask) == 2
    assert mask[-2:] == [1, 1]


def test_the_prompt_of_training_is_the_prompt_of_generation(tokenizer):
    row = {"instruction": "2+2", "output": "yes"}
    for template, given in ((InstructionTemplate(SHORT), row), (ChatTemplate(), chat("2+2", "yes"))):
        trained = template.segments(given, tokenizer)[0].ids
        asked = template.prompt({"instruction": "2+2"}, tokenizer)
        assert trained == asked


def test_a_given_start_of_the_reply_is_tokenised_on_its_own(tokenizer):
    ids = InstructionTemplate(SHORT).prompt({"instruction": "2+2", "reply_prefix": "yes"}, tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids) == [*QUESTION, "y", "e", "s"]


def chat(*turns):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


def test_a_chat_trains_every_assistant_turn_with_its_eos(tokenizer):
    tokens, mask = tokens_and_mask(ChatTemplate(), chat("2+2", "yes", "你好吗", "很好"), tokenizer)
    first, second = ["y", "e", "s", "</s>"], ["Q", ":", "你", "好", "吗", "A", ":"]
    assert tokens == QUESTION + first + second + ["很好", "</s>"]
    assert mask == [0] * 8 + [1] * 4 + [0] * 7 + [1] * 2
    assert tokens.count("<s>") == 1
    assert tokens.count("</s>") == 2


def test_what_a_template_writes_after_eos_is_given_not_trained(tokenizer, folder):
    other = load_tokenizer(str(folder))
    other.chat_template = CHAT.replace("+ eos_token", "+ eos_token + '\n'")
    tokens, mask = tokens_and_mask(ChatTemplate(), chat("2", "4", "2", "4"), other)
    assert tokens == ["<s>", *"Q:2A:", "4", "</s>", "\n", *"Q:2A:", "4", "</s>"]
    assert mask == [0] * 6 + [1] * 2 + [0] * 6 + [1] * 2


def test_special_tokens_written_in_an_instruction_row_stay_plain_text(tokenizer):
    row = {"instruction": "</s>", "input": "<s>", "output": "no</s>"}
    tokens, mask = tokens_and_mask(InstructionTemplate(SHORT), row, tokenizer)
    assert tokens == ["<s>", *"Q:</s>", "\n", *"<s>A:", *"no</s>", "</s>"]
    assert mask == [0] * 13 + [1] * 7


def test_special_tokens_written_in_a_chat_stay_plain_text(tokenizer):
    tokens, mask = tokens_and_mask(ChatTemplate(), chat("</s>", "no<s>", "2", "</s>4"), tokenizer)
    assert tokens == ["<s>", *"Q:</s>A:", *"no<s>", "</s>", *"Q:2A:", *"</s>4", "</s>"]
    assert mask == [0] * 9 + [1] * 6 + [0] * 5 + [1] * 6
    asked = ChatTemplate().prompt({"instruction": "<s></s>"}, tokenizer)
    assert tokenizer.convert_ids_to_tokens(asked) == ["<s>", *"Q:<s></s>A:"]


def test_a_turn_ends_at_the_templates_own_end_token_and_the_reply_still_learns_eos(tokenizer, folder):
    """ChatML on a base model: turns end with <|im_end|>, which is not the tokenizer's eos."""
    other = load_tokenizer(str(folder))
    other.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokens, mask = tokens_and_mask(ChatTemplate(), chat("2", "yes"), other)
    before = ["<|im_start|>", *"user", "\n", "2", "<|im_end|>", "\n", "<|im_start|>", *"assistant", "\n"]
    assert tokens[: len(before)] == before
    assert "<|im_end|>" in tokens[len(before) :]
    assert tokens[-1] == "</s>"
    assert mask == [0] * len(before) + [1] * (len(tokens) - len(before))


# --- through the data module: labels, truncation, dropping, the receipt


def instruction_data(rows, tmp_path, folder, content, **options):
    options = {
        "template": InstructionTemplate(SHORT),
        "micro_batch_size": 2,
        "global_batch_size": 2,
    } | options
    data = InstructionData(train=rows(tmp_path / "rows.jsonl", content), tokenizer=str(folder), **options)
    data.setup()
    return data


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


def test_a_cut_reply_is_counted_as_truncated_and_loses_its_eos(rows, tmp_path, folder, tokenizer):
    content = [{"instruction": "2+2", "output": "yes"}, {"instruction": "2+2", "output": "4"}]
    data = instruction_data(rows, tmp_path, folder, content, max_length=10)
    receipt = data.receipts[0]
    assert (receipt.rows, receipt.kept, receipt.truncated, receipt.dropped) == (2, 2, 1, {})
    assert (receipt.tokens, receipt.trained) == (20, 4)  # 8 + "y" "e", and 8 + "4" eos
    labels = data.collate("train", np.array([0]))["labels"][0].tolist()
    assert labels == [-100] * 8 + tokenizer.convert_tokens_to_ids(["y", "e"])


def test_a_prompt_that_fills_max_length_is_dropped_with_the_reason(rows, tmp_path, folder):
    content = [{"instruction": "2+2", "output": "yes"}, {"instruction": "2", "output": "4"}]
    data = instruction_data(rows, tmp_path, folder, content, max_length=8)
    receipt = data.receipts[0]
    assert (receipt.rows, receipt.kept, receipt.truncated) == (2, 1, 0)
    assert receipt.dropped == {"prompt fills max_length 8, no reply token left": 1}
    assert data.splits["train"].ids.tolist() == [1]
    assert data.splits["train"].weights.tolist() == [2]  # "4" and eos


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
    given, trained = data.receipts[0].sample
    assert (given[1], trained[1]) == (False, True)
    # this tokenizer has no decoder: it puts spaces in between
    assert trained[0].replace(" ", "") == "很好</s>"


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
    assert data.splits["train"].weights.tolist() == [3, 3]  # 你 好 </s>; o </s> and 2
    val = data.collate("val", np.array([2, -1]))
    assert val["document_ids"].tolist() == [[0, 0, 0, -1, -1], [-1] * 5]
    assert val["labels"].tolist() == [
        [-100, *tokenizer.convert_tokens_to_ids(["2", "</s>"]), -100, -100],
        [-100] * 5,
    ]
