"""Tokenizers out: saved so that transformers reads the same tokens back."""

import copy
import json
from pathlib import Path
from typing import Any

PADS = ("<pad>", "<|pad|>", "<|padding|>", "<|sequence_pad|>")


def save_tokenizer(tokenizer: Any, folder: Path | str) -> None:
    """Saves a tokenizer; `AutoTokenizer` reads the same one back, whatever model's config lies beside it.

    For a few model types (`qwen2`, `qwen3_5`, …) transformers takes the type's own class whatever the files
    say, which keeps their vocabulary alone: it cuts and normalises text in its own way and adds the special
    tokens that its class has by default. What is written here makes it take the whole of tokenizer.json.
    """
    tokenizer.save_pretrained(folder)
    file = Path(folder) / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in tokenizer.SPECIAL_TOKENS_ATTRIBUTES:
        if getattr(tokenizer, name, None) is None:
            config[name] = None  # else the class's default
    # read by `TokenizersBackend.convert_to_native_format` and nothing else; it loads no code: that is asked
    # of `from_pretrained`, where the caller says so
    config["trust_remote_code"] = True
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def with_pad_token(tokenizer: Any) -> Any:
    """A copy whose pad token is new, with the id after its last."""
    padded, taken = copy.deepcopy(tokenizer), tokenizer.get_vocab()
    padded.add_special_tokens({"pad_token": next(pad for pad in PADS if pad not in taken)})
    return padded
