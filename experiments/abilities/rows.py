"""How an experiment's rows become a data module's: a tokenizer of whole words, and tokens in Parquet."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.abilities.ability import END, PAD, Block


def write_tokenizer(vocabulary: Sequence[str], folder: Path) -> None:
    """A Hugging Face tokenizer that cuts at spaces; a word's number is its place in `vocabulary`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*vocabulary, END, PAD]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=PAD
    ).save_pretrained(folder)


def write_rows(blocks: Iterable[Block], file: Path) -> None:
    """Parquet with `input_ids` and `labels`, −100 where nothing is trained; complete or not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
    partial = file.with_suffix(".partial")
    with pq.ParquetWriter(partial, schema) as writer:
        for block in blocks:
            labels = np.where(block.answers, block.ids, -100)
            columns = [_lists(pa, array) for array in (block.ids, labels)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=10_000)
    partial.replace(file)


def _lists(pa, array: np.ndarray):  # type: ignore[no-untyped-def]
    """(rows, T) numbers as an Arrow column of lists."""
    offsets = np.arange(0, array.size + 1, array.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, array.astype(np.int32).reshape(-1))
