"""Rows that are tokens already are trained on as they are."""

import json

import numpy as np
import pytest

from datamodules import InstructionData, TokenData
from datamodules.errors import UserError


@pytest.fixture
def token_data(tmp_path, tiny_tokenizer):
    def make(rows, kind=TokenData, **options):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = kind(str(file), tiny_tokenizer, **{"global_batch_size": 2, "micro_batch_size": 2, **options})
        data.prepare_data()
        data.setup()
        return data

    return make


def two_rows(data):
    return data.batch(data.splits["train"], np.arange(2))


def test_labels_say_what_is_trained_on(token_data):
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]}, {"input_ids": [9, 4]}]
    batch = two_rows(token_data(rows))
    assert batch["input_ids"][0].tolist() == [5, 6, 7, 8]
    assert batch["input_ids"][1][:2].tolist() == [9, 4]
    # without labels all is trained on but the first, which nothing predicts; then comes padding
    assert batch["labels"].tolist() == [[-100, 6, -100, 8], [-100, 4, -100, -100]]
    assert batch["document_ids"].tolist() == [[0, 0, 0, 0], [0, 0, -1, -1]]


def test_what_instructions_become_is_trained_on_as_well_as_the_instructions(token_data):
    """The batch of rendered rows, and of their tokens given as such, are one."""
    rows = [{"instruction": "2+2", "output": "4"}, {"instruction": "3", "output": "33"}]
    rendered = two_rows(token_data(rows, InstructionData))
    lengths = (rendered["document_ids"] >= 0).sum(1).tolist()
    pairs = zip(rendered["input_ids"], rendered["labels"], lengths, strict=True)
    given = [{"input_ids": ids[:n].tolist(), "labels": labels[:n].tolist()} for ids, labels, n in pairs]
    batch = two_rows(token_data(given))
    for name in ("input_ids", "labels", "position_ids", "document_ids"):
        assert batch[name].equal(rendered[name]), name


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"ids": [1, 2]}, "no `input_ids` (it has `ids`)"),
        ({"input_ids": [1, 2.5]}, "`input_ids` is no list of whole numbers"),
        ({"input_ids": [True, False]}, "`input_ids` is no list of whole numbers"),
        ({"input_ids": [[1], [2]]}, "`input_ids` is no list of whole numbers"),
        ({"input_ids": "1 2"}, "`input_ids` is no list of whole numbers"),
        ({"input_ids": [1, 99999]}, "`input_ids` holds 99999, but the tokenizer's ids are 0 to"),
        ({"input_ids": [1, -1]}, "`input_ids` holds -1, but the tokenizer's ids are 0 to"),
        ({"input_ids": [1, 2], "labels": [2]}, "`labels` has 1 tokens, `input_ids` 2"),
        ({"input_ids": [1, 2, 3], "labels": [2, 3, -100]}, "do not shift them"),
    ],
)
def test_a_row_that_is_no_tokens_stops_the_run_with_its_place(token_data, row, reason):
    with pytest.raises(UserError) as refusal:
        token_data([{"input_ids": [4, 5]}, row])
    assert "rows.jsonl:2: " in str(refusal.value)
    assert reason in str(refusal.value)


def test_what_cannot_be_trained_on_is_dropped_and_counted(token_data):
    rows = [
        {"input_ids": [4, 5]},
        {"input_ids": []},
        {"input_ids": [4, 5], "labels": [4, -100]},  # nothing predicts a first token
        {"input_ids": [4, 5, 6, 7]},
    ]
    data = token_data(rows, max_length=3, max_dropped=1.0)
    dropped = data.receipts[0].dropped
    assert dropped == {"empty `input_ids`": 1, "nothing to train on": 1, "longer than max_length 3": 1}


def test_a_template_for_tokens_is_refused(tiny_tokenizer):
    from datamodules import InstructionSource, InstructionTemplate

    data = TokenData({"a": InstructionSource("x.jsonl", template=InstructionTemplate())}, tiny_tokenizer)
    assert data.config_errors(1)[-1] == (
        "data.train.a.template: rows that are tokens have none: leave it out"
    )
