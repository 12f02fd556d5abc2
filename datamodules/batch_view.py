"""A batch made visible: what a model is given, token by token, and what of it is trained."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from datamodules.collate import IGNORED, Batch
from datamodules.receipt import printable, sample
from datamodules.showing import Shown

TRAINED = ("#14532d on #bbf7d0", "#14532d on #86efac")
GIVEN = ("#374151 on #e5e7eb", "#374151 on #cbd5e1")
PADDING = "#9ca3af"
ROWS = 4


class ShownBatch(Shown):
    """A batch's tensors and the tokens of its first rows."""

    def __init__(self, batch: Batch, tokenizer: Any, rows: int):
        self.batch, self.tokenizer, self.rows = batch, tokenizer, rows

    def __rich__(self) -> Group:
        table = Table(title="Batch", title_justify="left")
        for name in ("key", "shape", "dtype"):
            table.add_column(name, no_wrap=True)
        for key, value in self.batch.items():
            table.add_row(key, str(tuple(getattr(value, "shape", ()))), str(getattr(value, "dtype", "")))
        return Group(table, _legend("labels" in self.batch), *self._lines())

    def _lines(self) -> Iterator[Text]:
        if "prompt_ids" in self.batch:
            prompts = zip(self.batch["prompt_ids"], self.batch["prompt_mask"], strict=True)
            for ids, mask in islice(prompts, self.rows):
                yield _padding(int((~mask).sum())) + self._tokens(ids[mask], [False] * int(mask.sum()))
        elif "document_ids" in self.batch:
            for row in range(min(self.rows, len(self.batch["input_ids"]))):
                yield self._row(row)

    def _row(self, row: int) -> Text:
        """Its documents one after another, a bar before each; of ranked replies the rating after each."""
        ids, documents = self.batch["input_ids"][row], self.batch["document_ids"][row]
        labels = self.batch.get("labels")
        line = Text()
        for document in documents[documents >= 0].unique():
            place = documents == document
            trained = [False] * int(place.sum()) if labels is None else labels[row][place] != IGNORED
            line += Text("│", "bold magenta") + self._tokens(ids[place], trained)
            if "reply_ends" in self.batch:
                last = place.nonzero().max()
                (reply,) = (self.batch["reply_ends"] == last.new_tensor([row, last])).all(1).nonzero()[:, 0]
                line += Text(f" rated {float(self.batch['ratings'][reply]):g} ", "bold magenta")
        return line + _padding(int((documents < 0).sum()))

    def _tokens(self, ids: Any, trained: Any) -> Text:
        line = Text()
        for place, (token, flag) in enumerate(sample(self.tokenizer, ids, trained)):
            line.append(printable(token), (TRAINED if flag else GIVEN)[place % 2])
        return line


def _padding(tokens: int) -> Text:
    return Text(f" {tokens} × padding" if tokens else "", PADDING)


def _legend(trained: bool) -> Text:
    words: list[str | tuple[str, str]] = [("trained", TRAINED[0]), " "] if trained else []
    return Text.assemble(*words, ("given", GIVEN[0]), "; a shade a token, a bar before each document")


def show(batch: Batch, tokenizer: Any, rows: int = ROWS) -> ShownBatch:
    """A batch that shows itself, in a notebook and as text.

    Args:
        batch: of any of the data modules.
        tokenizer: the data module's.
        rows: whose tokens are shown.
    """
    return ShownBatch(batch, tokenizer, rows)
