"""Ranked replies: what a row compares, who preferred what, and rows that compare nothing."""

import numpy as np
import pytest

from datamodules import ChatTemplate, PreferenceData
from datamodules.layouts.comparison import comparison, ratings_of
from datamodules.rendering.segments import BadRow, DropRow

ASK = {"instruction": "Write."}


def turns(*texts):
    """A conversation, the user first."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


# --- several labelers


@pytest.mark.parametrize(
    ("given", "means", "shares"),
    [
        # one labeler, as a list of numbers: each pair is certain, a tie one half
        ([3, 1, 1], [3, 1, 1], [[0.5, 1, 1], [0, 0.5, 0.5], [0, 0.5, 0.5]]),
        ([[3, 1, 1]], [3, 1, 1], [[0.5, 1, 1], [0, 0.5, 0.5], [0, 0.5, 0.5]]),
        # two of three prefer the first; the mean says so too
        ([[2, 1], [2, 1], [1, 2]], [5 / 3, 4 / 3], [[0.5, 2 / 3], [1 / 3, 0.5]]),
        # a tie is one half: (1/2 + 1) / 2
        ([[2, 2], [3, 1]], [2.5, 1.5], [[0.5, 0.75], [0.25, 0.5]]),
        # one loud labeler decides the mean, two quiet ones the share
        ([[9, 1], [1, 2], [1, 2]], [11 / 3, 5 / 3], [[0.5, 1 / 3], [2 / 3, 0.5]]),
        # who did not rate a reply does not compare it: (1, 2) by the first alone, (2, 3) by the second alone,
        # (1, 3) by nobody, so by the means 1 < 3
        (
            [[1, 2, None], [None, 1, 3]],
            [1, 1.5, 3],
            [[0.5, 0, 0], [1, 0.5, 0], [1, 1, 0.5]],
        ),
        # nobody compared them and the means are equal
        ([[2, None], [None, 2]], [2, 2], [[0.5, 0.5], [0.5, 0.5]]),
        # a labeler without a word
        ([[None, None], [4, 1]], [4, 1], [[0.5, 1], [0, 0.5]]),
    ],
)
def test_means_and_shares_by_hand(given, means, shares):
    found_means, found_shares = ratings_of(given, len(means))
    assert found_means == pytest.approx(means, rel=1e-12)
    assert found_shares == pytest.approx(np.array(shares), rel=1e-12)


def test_a_pair_and_its_reverse_always_add_up_to_one():
    rng = np.random.default_rng(0)
    for _ in range(50):
        table = rng.integers(1, 4, (4, 5)).astype(object)
        table[rng.random((4, 5)) < 0.4] = None
        table[0] = 2  # every reply is rated
        _, shares = ratings_of(table.tolist(), 5)
        assert shares + shares.T == pytest.approx(np.ones((5, 5)), rel=1e-12)


@pytest.mark.parametrize(
    "given",
    [
        [1],
        [1, 2, 3],
        [1, None],
        [1, "2"],
        [],
        "12",
        {"a": 1},
        3,
        [[1, 2], [1]],
        [[1, 2], 3],
        [1, [2]],
        [[1, None], [2, None]],
        [[1, "2"]],
        [1, float("nan")],
    ],
    ids=str,
)
def test_ratings_that_do_not_rate_every_reply_are_refused(given):
    with pytest.raises(BadRow, match="`ratings`"):
        ratings_of(given, 2)


# --- what a row compares


def test_replies_without_ratings_are_ranked_best_first():
    _, texts, ratings, shares = comparison({**ASK, "replies": ["a", "b", "c"]})
    assert texts == ["a", "b", "c"]
    assert ratings[0] > ratings[1] > ratings[2]
    assert shares.tolist() == [[0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5]]


@pytest.mark.parametrize("share", [None, 1, 0.75, 0.51])
def test_agreement_is_the_share_who_chose_so(share):
    row = {**ASK, "chosen": "a", "rejected": "b"} | ({} if share is None else {"agreement": share})
    _, texts, ratings, shares = comparison(row)
    p = share or 1
    assert texts == ["a", "b"]
    assert ratings[0] > ratings[1]
    assert shares == pytest.approx(np.array([[0.5, p], [1 - p, 0.5]]), rel=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.2, 0, 1.01, 75, "0.75", float("nan")], ids=str)
def test_an_agreement_that_says_nothing_is_refused(share):
    with pytest.raises(BadRow, match="`agreement` is no share above 0.5 and at most 1"):
        comparison({**ASK, "chosen": "a", "rejected": "b", "agreement": share})


def test_conversations_that_differ_in_their_last_message_share_the_rest():
    row = {
        "chosen": turns("Hi", "Hello.", "Write.", "a good film"),
        "rejected": turns("Hi", "Hello.", "Write.", "no"),
        "agreement": 0.8,
    }
    found, texts, _, shares = comparison(row)
    assert found["messages"] == turns("Hi", "Hello.", "Write.")
    assert texts == ["a good film", "no"]
    assert shares[0, 1] == 0.8


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (turns("Hi", "a"), turns("Hi", "a")),  # the same
        (turns("Hi", "a"), turns("Ho", "a")),  # the question differs
        (turns("Hi", "a"), turns("Ho", "b")),
        (turns("Hi", "a", "so", "b"), turns("Hi", "c", "so", "b")),  # an earlier reply differs
        (turns("Hi", "a"), turns("Hi", "a", "more", "b")),  # one goes on
        (turns("Hi", "a", "more"), turns("Hi", "a", "other")),  # the user's word is last
        ([], []),
        (turns("Hi", "a"), []),
    ],
    ids=range(8),
)
def test_conversations_that_differ_elsewhere_are_left_out(chosen, rejected):
    with pytest.raises(DropRow):
        comparison({"chosen": chosen, "rejected": rejected})


@pytest.mark.parametrize(
    "row",
    [
        {"replies": ["a", "b"]},  # no prompt
        {**ASK, "replies": "a"},
        {**ASK, "replies": ["a", None]},
        ASK,
        {**ASK, "chosen": "a"},
        {**ASK, "chosen": "a", "rejected": 3},
        {**ASK, "chosen": turns("Hi", "a"), "rejected": "b"},
        {"chosen": turns("Hi", "a")},
        {"chosen": turns("Hi") + [{"role": "assistant", "content": 3}], "rejected": turns("Hi", "b")},
        {"chosen": ["Hi", "a"], "rejected": ["Hi", "b"]},  # texts in place of messages
    ],
    ids=range(10),
)
def test_rows_of_a_wrong_type_are_refused(row):
    with pytest.raises(BadRow):
        comparison(row)


# --- through the data module


@pytest.fixture
def read(tmp_path, rows, tiny_tokenizer):
    def read(lines, **options):
        file = rows(tmp_path / "x.jsonl", lines)
        data = PreferenceData(
            file, tiny_tokenizer, **{"max_length": 128, "max_dropped": 1.0, "global_batch_size": 2, **options}
        )
        data.setup()
        return data

    return read


def test_a_batch_says_who_preferred_what(read):
    """Three replies by three labelers, and a pair; the matrix is as wide as the most replies."""
    data = read(
        [
            {**ASK, "replies": ["good", "bad", "dull"], "ratings": [[3, 2, 1], [2, 3, 1], [3, 1, None]]},
            {**ASK, "chosen": "fun", "rejected": "sad", "agreement": 0.75},
        ]
    )
    batch = data.batch(data.splits["train"], np.array([0, 1]))
    assert batch["prompt_index"].tolist() == [0, 0, 0, 1, 1]
    assert batch["ratings"].tolist() == pytest.approx([8 / 3, 2, 1, 1, 0])  # fp32
    expected = [[0.5, 2 / 3, 1], [1 / 3, 0.5, 1], [0, 0, 0.5], [0.5, 0.75, 0], [0.25, 0.5, 0]]
    assert batch["preferred"].flatten().tolist() == pytest.approx(sum(expected, []), abs=1e-6)  # fp32
    ends = [batch["input_ids"][tuple(end)].item() for end in batch["reply_ends"]]
    assert ends == [data.tokenizer.eos_token_id] * 5
    replies = [data.tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]]
    assert [reply.split("\n")[-1] for reply in replies] == ["good", "bad", "dull", "fun", "sad"]


def test_a_reply_that_is_too_long_or_empty_takes_its_row_of_the_matrix_with_it(read):
    """Of four replies the second is empty and the third too long; 0 and 3 are left."""
    long = "a very dull film and " * 40
    labelers = [[4, 3, 2, 1], [1, 2, 3, 4], [4, 3, 2, 1], [4, 3, 2, 1]]
    data = read([{**ASK, "replies": ["good", " ", long, "bad"], "ratings": labelers}])
    item = data.splits["train"][0]
    assert item["ratings"].tolist() == pytest.approx([13 / 4, 7 / 4])
    assert item["preferred"].reshape(2, 2).tolist() == [[0.5, 0.75], [0.25, 0.5]]
    assert data.receipts[0].truncated == 1


def test_conversations_and_messages_go_through_the_chat_template(read):
    data = read(
        [
            {
                "chosen": turns("Hi", "Hello.", "Write.", "good"),
                "rejected": turns("Hi", "Hello.", "Write.", "bad"),
            },
            {"messages": turns("Write."), "replies": ["fun", "sad"]},
        ],
        template=ChatTemplate(),
    )
    good, bad = (data.tokenizer.decode(ids) for ids in data.splits["train"][0]["replies"])
    assert good == (
        "<s>### Instruction:\nHi\n\n### Response:\nHello.</s>"
        "### Instruction:\nWrite.\n\n### Response:\ngood</s>"
    )
    assert bad == good.replace("good", "bad")
    fun, _ = (data.tokenizer.decode(ids) for ids in data.splits["train"][1]["replies"])
    assert fun == "<s>### Instruction:\nWrite.\n\n### Response:\nfun</s>"


def test_rows_that_compare_nothing_are_left_out_and_counted(read):
    data = read(
        [
            {**ASK, "chosen": "good", "rejected": "bad"},
            {**ASK, "chosen": "good", "rejected": "good"},  # the same text
            {**ASK, "replies": ["good", "bad"], "ratings": [2, 2]},  # a tie
            {**ASK, "replies": ["good", "bad"], "ratings": [[1, 2], [2, 1]]},  # a tie of the means
            {**ASK, "replies": ["good"], "ratings": [2]},  # alone
            {**ASK, "replies": ["good", " "]},  # the other is empty
        ]
    )
    receipt = data.receipts[0]
    assert (receipt.rows, receipt.kept, receipt.trained) == (6, 1, 1)
    assert receipt.dropped == {"no two different replies of different rating within max_length 128": 5}


@pytest.mark.parametrize("strict", [True, False])
def test_a_row_of_a_wrong_type_is_told_with_its_place_or_left_out(read, strict):
    lines = [{**ASK, "chosen": "good", "rejected": "bad"}, {**ASK, "replies": ["a", "b"], "ratings": [1]}]
    if strict:
        with pytest.raises(ValueError, match=r"data\.train: .*x\.jsonl:2: 2 `replies` but 1 `ratings`"):
            read(lines)
    else:
        data = read(lines, on_bad_row="skip")
        assert (data.receipts[0].rows, data.receipts[0].kept) == (2, 1)


def test_messages_that_are_texts_are_told_with_their_place_not_traced(read):
    with pytest.raises(ValueError, match=r"data\.train: .*x\.jsonl:1: "):
        read([{"chosen": ["Hi", "a"], "rejected": ["Hi", "b"]}], template=ChatTemplate())
