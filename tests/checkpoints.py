"""Small checkpoints as others save them: by plain transformers, of several architectures, with or without a
tokenizer."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
WORDS = "write good dull fun bad film music slow great sad plot story"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
TYPES = {
    "llama": SIZES,
    "mistral": {**SIZES, "sliding_window": 16},
    "qwen2": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "tie_word_embeddings": False},
}


def saved_model(
    folder, kind="llama", vocabulary=300, auto_class=AutoModelForCausalLM, seed=3, save=None, **more
):
    """A network by plain transformers, saved to a folder; gives the model."""
    torch.manual_seed(seed)
    options = {"max_position_embeddings": 128, "pad_token_id": 0, **TYPES[kind], **more}
    model = auto_class.from_config(AutoConfig.for_model(kind, vocab_size=vocabulary, **options))
    model.save_pretrained(folder, **(save or {}))
    return model


def byte_tokenizer(folder, special, words=WORDS, **options):
    """A byte-level BPE tokenizer with the special tokens last, as GPT-2's, saved to a folder; gives the
    tokenizer. `options` name which of them are eos, bos, pad."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens, merges = list(alphabet), []
    for word in words.split():
        whole = "Ġ"
        for letter in word:
            if (whole, letter) not in merges:
                merges.append((whole, letter))
                tokens.append(whole + letter)
            whole += letter
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens(list(special))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **options)
    tokenizer.save_pretrained(folder)
    return tokenizer


def gpt2_like(folder):
    """One special token, which is bos, eos and unk; none to pad with."""
    name = "<|endoftext|>"
    return byte_tokenizer(folder, [name], bos_token=name, eos_token=name, unk_token=name)
