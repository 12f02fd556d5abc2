"""A character tokenizer whose merges would join prompts to replies, and instruction data on it."""

import numpy as np

from datamodules import InstructionData, InstructionTemplate
from datamodules.rendering.tokenizer import load_tokenizer
from tests.conversations import SHORT

# A character tokenizer with three merges. Two of them would join the end of a prompt to the start of a reply,
# which is how the first token of a reply gets lost on formats that end in ":" or a line end.
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHARACTERS = sorted(
    set("### Instruction:\n\nResponse:Q:A: user assistant system 2+24yes no again <>/s| 你好吗很再见|_im")
)
MERGES = [(":", "y"), ("\n", "很"), ("很", "好")]
QUESTION = ["<s>", *"Q:2+2A:"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ 'Q:' + m.content + 'A:' }}{% else %}{{ m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)


def character_tokenizer(directory):
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
    tokenizer.save_pretrained(directory)
    return directory


def with_chat_template(folder, tmp_path, chat_template):
    """The directory of the same tokenizer with another chat template."""
    other = load_tokenizer(str(folder))
    other.chat_template = chat_template
    other.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


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
    batch = data.batch(data.splits["train"], np.array([row]))
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    assert (labels[labels != -100] == ids[labels != -100]).all()
    return data.tokenizer.convert_ids_to_tokens(ids.tolist()), (labels != -100).int().tolist()
