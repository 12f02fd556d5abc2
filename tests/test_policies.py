"""What the policies do to rows that cannot be trained on as they are, and that each is counted."""

from pathlib import Path

import pytest

from datamodules import ChatTemplate
from datamodules.instruction import Policies
from experiments.cli.program import main
from tests.characters import CHAT, character_tokenizer, instruction_data, tokens_and_mask, with_chat_template
from tests.conversations import chat

CONFIG = str(Path(__file__).resolve().parent.parent / "experiments" / "configs" / "sft.yaml")
CHAT_TEMPLATE = "datamodules.ChatTemplate"


GOOD = {"instruction": "2", "output": "4"}  # 6 tokens of prompt, 2 of reply
YES = {"instruction": "2+2", "output": "yes"}  # 8 and 4
NO_EOS = CHAT.replace(" + eos_token", "")
TWO_BOS = "{{ bos_token }}" + CHAT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return character_tokenizer(tmp_path_factory.mktemp("characters"))


def outcome(data):
    """What the receipt says of the training rows: kept, truncated, dropped."""
    receipt = data.receipts[0]
    assert receipt.kept == len(data.splits["train"])
    assert receipt.rows == receipt.kept + sum(receipt.dropped.values())
    return receipt.kept, receipt.truncated, receipt.dropped


def test_a_reply_that_does_not_fit_is_dropped_and_counted(rows, tmp_path, folder):
    """12 tokens: they fit into 12, not into 11, and are never cut at the end."""
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=12)
    assert outcome(data) == (2, 0, {})
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=11)
    assert outcome(data) == (1, 0, {"prompt and reply are longer than max_length 11": 1})
    assert data.splits["train"].ids.tolist() == [1]
    assert tokens_and_mask(data, 0) == (["<s>", *"Q:2A:", "4", "</s>"], [0] * 6 + [1] * 2)


def test_a_reply_that_does_not_fit_can_cost_the_start_of_its_prompt(rows, tmp_path, folder):
    """12 tokens into 10: bos stays, `Q:` goes; the whole reply is there and trained."""
    policies = Policies(long_reply="truncate_left")
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=10, policies=policies)
    assert outcome(data) == (2, 1, {})
    assert tokens_and_mask(data, 0) == (["<s>", *"2+2A:", *"yes", "</s>"], [0] * 6 + [1] * 4)
    assert data.receipts[0].tokens == 10 + 8
    assert data.receipts[0].trained == 4 + 2
    (batch,) = data.predict_dataloader()
    asked = batch["prompt_ids"][batch["rows"].tolist().index(0)].tolist()
    assert data.tokenizer.convert_ids_to_tokens(asked) == ["<s>", *"2+2A:"]


def test_a_reply_that_alone_fills_the_limit_is_dropped_though_prompts_may_be_cut(rows, tmp_path, folder):
    """bos, "yes yes" and eos are 9 tokens: in 10 a token of the prompt is left, in 9 there would be none."""
    content = [{"instruction": "2", "output": "yes yes"}, GOOD]
    policies = Policies(long_reply="truncate_left")
    data = instruction_data(rows, tmp_path, folder, content, max_length=10, policies=policies)
    assert outcome(data) == (2, 1, {})
    assert tokens_and_mask(data, 0) == (["<s>", ":", *"yes yes", "</s>"], [0, 0] + [1] * 8)
    data = instruction_data(rows, tmp_path, folder, content, max_length=9, policies=policies)
    assert outcome(data) == (1, 0, {"reply alone fills max_length 9": 1})


def test_an_earlier_reply_whose_question_was_cut_away_is_not_trained(rows, tmp_path, folder):
    """`<s>Q:2A:4</s>Q:2+2A:yes</s>` is 19 tokens: in 13 the first question and `4` are gone, eos is not."""
    policies = Policies(long_prompt="truncate_left")
    content = [chat("2", "4", "2+2", "yes")]
    data = instruction_data(
        rows, tmp_path, folder, content, template=ChatTemplate(), max_length=13, policies=policies
    )
    tokens, mask = tokens_and_mask(data, 0)
    assert tokens == ["<s>", "</s>", *"Q:2+2A:", *"yes", "</s>"]
    assert mask == [0] * 9 + [1] * 4


def test_a_prompt_that_fills_max_length_is_dropped_and_counted(rows, tmp_path, folder):
    """8 tokens of prompt leave no place for a reply in 8; what is done to long replies does not matter."""
    policies = Policies(long_reply="truncate_left")
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=8, policies=policies)
    assert outcome(data) == (1, 0, {"prompt fills max_length 8": 1})
    assert data.splits["train"].ids.tolist() == [1]
    assert data.splits["train"].weights.tolist() == [2]  # "4" and eos


def test_a_prompt_that_fills_max_length_can_be_cut_from_the_left(rows, tmp_path, folder):
    """12 tokens into 8: bos stays, `Q:2+` goes."""
    policies = Policies(long_prompt="truncate_left")
    data = instruction_data(rows, tmp_path, folder, [YES, GOOD], max_length=8, policies=policies)
    assert outcome(data) == (2, 1, {})
    assert tokens_and_mask(data, 0) == (["<s>", *"2A:", *"yes", "</s>"], [0] * 4 + [1] * 4)


def test_an_empty_reply_is_dropped_and_counted(rows, tmp_path, folder):
    content = [{**GOOD, "output": " "}, GOOD, {**GOOD, "output": ""}]
    data = instruction_data(rows, tmp_path, folder, content)
    assert outcome(data) == (1, 0, {"empty `output`": 2})
    chats = [chat("2", "\n"), chat("2", "4")]
    data = instruction_data(rows, tmp_path, folder, chats, template=ChatTemplate())
    assert outcome(data) == (1, 0, {"empty reply": 1})


def test_a_missing_eos_is_appended_to_every_trained_turn(rows, tmp_path, folder):
    """Also where people wrote the text of eos there."""
    other = with_chat_template(folder, tmp_path, NO_EOS)
    content = [chat("2", "4", "你好吗", "很好"), chat("2", "no</s>")]
    options = {"template": ChatTemplate(), "policies": Policies(missing_eos="append")}
    data = instruction_data(rows, tmp_path, other, content, **options)
    assert outcome(data)[::2] == (2, {})
    tokens, mask = tokens_and_mask(data, 0)
    assert tokens == ["<s>", *"Q:2A:", "4", "</s>", *"Q:你好吗A:", "很好", "</s>"]
    assert mask == [0] * 6 + [1] * 2 + [0] * 7 + [1] * 2
    tokens, mask = tokens_and_mask(data, 1)
    assert tokens == ["<s>", *"Q:2A:", *"no</s>", "</s>"]
    assert mask == [0] * 6 + [1] * 7


def test_the_templates_own_end_of_a_turn_is_an_end(rows, tmp_path, folder):
    """ChatML on a base model: turns end with <|im_end|>, which is not the tokenizer's eos."""
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    other = with_chat_template(folder, tmp_path, chatml)
    data = instruction_data(rows, tmp_path, other, [chat("2", "yes")], template=ChatTemplate())
    before = ["<|im_start|>", *"user\n2", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"]
    tokens, mask = tokens_and_mask(data, 0)
    assert tokens == [*before, *"yes", "<|im_end|>"]
    assert mask == [0] * len(before) + [1] * 4


def test_rows_without_eos_can_be_dropped_and_counted(rows, tmp_path, folder):
    """This template ends no reply that begins with "no"."""
    some = CHAT.replace("+ eos_token", "+ (eos_token if m.content[:2] != 'no' else '')")
    other = with_chat_template(folder, tmp_path, some)
    options = {"template": ChatTemplate(), "policies": Policies(missing_eos="drop")}
    content = [chat("2", "no"), chat("2", "4"), chat("2", "no", "2", "4")]
    data = instruction_data(rows, tmp_path, other, content, **options)
    assert outcome(data) == (1, 0, {"a reply without </s> at its end": 2})
    assert data.splits["train"].ids.tolist() == [1]


def test_the_second_of_two_bos_can_be_removed(rows, tmp_path, folder):
    other = with_chat_template(folder, tmp_path, TWO_BOS)
    options = {"template": ChatTemplate(), "policies": Policies(double_bos="truncate_left")}
    data = instruction_data(rows, tmp_path, other, [chat("2", "yes")], **options)
    assert outcome(data)[::2] == (1, {})
    assert tokens_and_mask(data, 0) == (["<s>", *"Q:2A:", *"yes", "</s>"], [0] * 6 + [1] * 4)


def test_a_row_fits_once_its_second_bos_is_gone(rows, tmp_path, folder):
    """`<s><s>Q:2A:yes</s>` is 11 tokens."""
    other = with_chat_template(folder, tmp_path, TWO_BOS)
    options = {"template": ChatTemplate(), "policies": Policies(double_bos="truncate_left")}
    data = instruction_data(rows, tmp_path, other, [chat("2", "yes")], max_length=10, **options)
    assert outcome(data)[::2] == (1, {})


def test_rows_with_two_bos_can_be_dropped_and_counted(rows, tmp_path, folder):
    """This template writes a second bos before a question in digits."""
    some = CHAT.replace(
        "{{ bos_token }}", "{{ bos_token }}{% if messages[0].content == '2' %}<s>{% endif %}", 1
    )
    other = with_chat_template(folder, tmp_path, some)
    options = {"template": ChatTemplate(), "policies": Policies(double_bos="drop")}
    data = instruction_data(rows, tmp_path, other, [chat("2", "4"), chat("2+2", "<s>4")], **options)
    assert outcome(data) == (1, 0, {"two <s> at the beginning": 1})
    assert data.splits["train"].ids.tolist() == [1]


@pytest.mark.parametrize(
    ("chat_template", "policies"),
    [
        (NO_EOS, Policies(missing_eos="append")),
        (TWO_BOS, Policies(double_bos="truncate_left")),
    ],
    ids=["appended eos", "removed bos"],
)
def test_every_row_that_a_policy_changes_is_counted(rows, tmp_path, folder, chat_template, policies):
    other = with_chat_template(folder, tmp_path, chat_template)
    data = instruction_data(
        rows, tmp_path, other, [chat("2", "4")], template=ChatTemplate(), policies=policies
    )
    again = with_chat_template(folder, tmp_path, CHAT)
    plain = instruction_data(rows, tmp_path, again, [chat("2", "4")], template=ChatTemplate())
    assert data.receipts[0].to_dict() != plain.receipts[0].to_dict()


@pytest.mark.parametrize(
    ("policy", "bad", "chat_template", "reason"),
    [
        ("long_reply", chat("2+2", "yes"), CHAT, "prompt and reply are longer than max_length 11"),
        ("long_prompt", chat("2+2+2+2+2", "4"), CHAT, "prompt fills max_length 11"),
        ("empty_reply", chat("2", " "), CHAT, "empty reply"),
        ("missing_eos", chat("2", "no"), NO_EOS, "a reply without </s> at its end"),
        ("double_bos", chat("2", "no"), TWO_BOS, "two <s> at the beginning"),
    ],
)
def test_a_policy_of_error_stops_and_names_the_row(
    rows, tmp_path, folder, capsys, policy, bad, chat_template, reason
):
    """Row 2 after a good one; row 1 where the template is wrong for all rows."""
    other = with_chat_template(folder, tmp_path, chat_template)
    line = 2 if chat_template == CHAT else 1
    file = rows(tmp_path / "x.jsonl", [chat("2", "4")] * (line - 1) + [bad])
    options = {"train": file, "val": "null", "tokenizer": other, "group_by": "null", "max_length": 11}
    options |= {"template": CHAT_TEMPLATE, "max_dropped": 1, f"policies.{policy}": "error"}
    overrides = [f"--data.init_args.{key}={value}" for key, value in options.items()]
    assert main(["data", "receipt", "--config", CONFIG, *overrides]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trivium: ")]
    assert told == [f"trivium: data.train: {file}:{line}: {reason} (data.policies.{policy} is error)"]


def test_only_what_would_train_something_wrong_stops_unasked():
    """A wrong template is a mistake of the run; a long or an empty row is one of the row."""
    policies = Policies()
    assert (policies.missing_eos, policies.double_bos) == ("error", "error")
    assert (policies.long_prompt, policies.long_reply, policies.empty_reply) == ("drop", "drop", "drop")
