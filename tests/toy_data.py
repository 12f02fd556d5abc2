"""A fifth kind of data in a file of its own: questions and answers, the loss on the answer."""

import numpy as np

from datamodules.base import RowSpec, TextDataModule
from datamodules.caching.row_encoder import FLAGS, INTS, RowEncoder
from datamodules.collate import IGNORED, token_rows
from datamodules.rendering.segments import Segment, reply, text_of


class QuestionData(TextDataModule):
    """Rows `question`, `answer`.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        tokenizer: a Hugging Face directory or cached hub name.
        kwargs: as of `TextDataModule`.
    """

    makes = "tokens"

    def __init__(self, train: str, tokenizer: str, **kwargs):
        super().__init__(tokenizer, global_batch_size=8, micro_batch_size=4, eval_batch_size=4, **kwargs)
        self.train = train

    @classmethod
    def row_spec(cls, arguments):
        return RowSpec(sequences=1, tokens=64)

    def read(self):
        return {"train": self.encode(self.train, "data.train", QuestionEncoder(self.tokenizer))}

    def batch(self, split, rows):
        items = [split.members(max(0, row))[0] for row in rows]
        labels = [np.where(item["trained"], item["input_ids"], IGNORED) for item in items]
        ids = [[item["input_ids"]] for item in items]
        return token_rows(ids, [[row] for row in labels], [0] * len(rows), self.tokenizer.pad_token_id)


class QuestionEncoder(RowEncoder):
    """`QUESTION? ANSWER`, each row's tokens kept in the token cache with which of them are trained on."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, {"input_ids": INTS, "trained": FLAGS}, settings="questions")

    def render(self, row, number):
        question = Segment(text_of(row, "question") + "? ", trained=False)
        return [[question, *reply(text_of(row, "answer"), self.tokenizer)]]

    def finish(self, row, tokens):
        ids, trained = tokens[0]
        return {"input_ids": ids, "trained": trained, "length": len(ids), "weight": int(trained.sum())}
