"""Tokenizers and rows for the tests of rendering."""

from datamodules.rendering.tokenizer import load_tokenizer
from datamodules.rendering.whole_text import encode_batch

SHORT = "Q:{content}A:"
# as SmolLM2-Instruct's
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chatml_tokenizer(path):
    """A tokenizer with ChatML's tokens and template; a turn's end is its eos."""
    tokenizer = load_tokenizer(path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHATML
    return tokenizer


def joining_tokenizer():
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
