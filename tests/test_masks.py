"""From rows to batches: which tokens are trained on, worked out by hand, token by token, in English and
Chinese. How a row becomes text is in `test_rendering.py`, what is done to rows that do not fit in
`test_policies.py`."""

import numpy as np
import pytest

from datamodules import ChatTemplate, InstructionTemplate, MixedCorpusData, PromptData, Source
from datamodules.collate import packed_blocks
from datamodules.rendering.tokenizer import load_tokenizer
from tests.characters import (
    CHAT,
    QUESTION,
    character_tokenizer,
    instruction_data,
    tokens_and_mask,
    with_chat_template,
)
from tests.conversations import SHORT, chat


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return character_tokenizer(tmp_path_factory.mktemp("characters"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(str(folder))


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
    data = instruction_data(rows, tmp_path, folder, content)
    batch = data.batch(data.splits["train"], np.array([0, 1]))
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
    batch = data.batch(data.splits["train"], np.array([split.lengths.tolist().index(18)]))
    prompt = ["<s>", *"Q:2A:"]
    tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    assert tokens == [*prompt, "y", "e", "s", "</s>", *prompt, "4", "</s>"]
    assert (batch["labels"][0] != -100).int().tolist() == [0] * 6 + [1] * 4 + [0] * 6 + [1] * 2
    assert batch["position_ids"][0].tolist() == [*range(10), *range(8)]
    assert batch["document_ids"][0].tolist() == [0] * 10 + [1] * 8
    assert split.weights.tolist()[split.lengths.tolist().index(18)] == 6


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
    blocks = [
        tokenizer.convert_ids_to_tokens(data.splits["train"].members(row)[0]["input_ids"]) for row in range(2)
    ]
    assert blocks == [["<s>", "你", "好", "</s>", "<s>"], ["n", "o", "</s>", "<s>", "2"]]
    assert len(data.splits["train"]) == 2
    split = data.splits["train"]
    assert split.weights[split.row_ids()].tolist() == [3, 3]  # 你 好 </s>; o </s> and 2
    val = data.batch(data.splits["val"], np.array([2, -1]))
    assert val["document_ids"].tolist() == [[0, 0, 0, -1, -1], [-1] * 5]
    assert val["labels"].tolist() == [
        [-100, *tokenizer.convert_tokens_to_ids(["2", "</s>"]), -100, -100],
        [-100] * 5,
    ]
