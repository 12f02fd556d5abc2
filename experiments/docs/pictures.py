"""Draws the pictures of `data.md` from the code that trains.

The same code gives the same pictures. What a colour says, a line style, a hatch, a frame or a name says too.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib import rc_context

from experiments.commands.tokenizer import train
from experiments.docs.cache_picture import TEXTS, cache
from experiments.docs.drawing import STYLE, save
from experiments.docs.mask_picture import CHAT, INSTRUCTION, mask
from experiments.docs.mix_picture import mix
from experiments.docs.packing_picture import packing


def main(folder: str) -> list[Path]:
    """Writes every picture; returns their files."""
    with rc_context(STYLE), TemporaryDirectory() as scratch:
        tokenizer = _tokenizer(Path(scratch))
        figures = {
            "mix.png": mix(),
            "packing.png": packing(),
            "mask.png": mask(tokenizer),
            "cache.png": cache(tokenizer, Path(scratch)),
        }
        return save(figures, Path(folder))


def _tokenizer(scratch: Path) -> Any:
    """A byte-level BPE of the pictures' texts, so that words are tokens."""
    texts = [*TEXTS, *INSTRUCTION.values(), *(message["content"] for message in CHAT["messages"])]
    file = scratch / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return train([str(file)], 400, str(scratch / "tokenizer"))
