"""A stage and its data must speak of the same kind of batch: a wrong pair is refused before a file is opened,
in a notebook too."""

import lightning as L
import pytest

import datamodules.base
from datamodules import InstructionData, MixedCorpusData, PreferenceData, PromptData, Source, TokenData
from modules import CausalLM, PPOModule, RewardModule, SFTModule

NOWHERE = "nowhere/rows.jsonl"
TRAINER = {
    "accelerator": "cpu",
    "max_steps": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
DATA = {
    "MixedCorpusData": lambda tokenizer: MixedCorpusData({"a": Source(NOWHERE)}, tokenizer),
    "InstructionData": lambda tokenizer: InstructionData(NOWHERE, tokenizer),
    "TokenData": lambda tokenizer: TokenData(NOWHERE, tokenizer),
    "PreferenceData": lambda tokenizer: PreferenceData(NOWHERE, tokenizer),
    "PromptData": lambda tokenizer: PromptData(NOWHERE, tokenizer),
}
STAGES = {
    "CausalLM": lambda config: CausalLM(config),
    "SFTModule": lambda config: SFTModule("nowhere/model"),
    "RewardModule": lambda config: RewardModule("nowhere/model"),
    "PPOModule": lambda config: PPOModule("nowhere/actor", "nowhere/reward"),
}
RIGHT = {
    ("CausalLM", "MixedCorpusData"),
    ("CausalLM", "InstructionData"),
    ("CausalLM", "TokenData"),
    ("SFTModule", "MixedCorpusData"),
    ("SFTModule", "InstructionData"),
    ("SFTModule", "TokenData"),
    ("RewardModule", "PreferenceData"),
    ("PPOModule", "PromptData"),
}
KINDS = {
    "MixedCorpusData": "tokens",
    "InstructionData": "tokens",
    "TokenData": "tokens",
    "PreferenceData": "ranked_replies",
    "PromptData": "prompts",
}
READS = {stage: KINDS[data] for stage, data in RIGHT}
MODULES = {
    cls.__name__: cls for cls in (MixedCorpusData, InstructionData, TokenData, PreferenceData, PromptData)
}
PAIRS = [(stage, data) for stage in STAGES for data in DATA]


@pytest.mark.parametrize(("stage", "data"), [pair for pair in PAIRS if pair not in RIGHT])
def test_a_wrong_pair_is_refused_in_a_line_before_anything_is_read(tiny_config, tiny_tokenizer, stage, data):
    with pytest.raises(ValueError, match="makes") as refused:
        L.Trainer(**TRAINER).fit(STAGES[stage](tiny_config), DATA[data](tiny_tokenizer))
    (line,) = str(refused.value).splitlines()
    made, read = KINDS[data], READS[stage]
    assert line.startswith(f"data: {data} makes {made}, but {stage} reads {read}: give datamodules.")
    assert line.endswith(f", or a stage that reads {made}")
    assert {right for given, right in RIGHT if given == stage} <= set(
        line.replace(",", " ").replace(".", " ").split()
    )


@pytest.mark.parametrize(("stage", "data"), sorted(RIGHT))
def test_a_right_pair_gets_as_far_as_its_files(tiny_config, tiny_tokenizer, stage, data):
    with pytest.raises(ValueError, match=f"{NOWHERE} does not exist") as refused:
        L.Trainer(**TRAINER).fit(STAGES[stage](tiny_config), DATA[data](tiny_tokenizer))
    assert "makes" not in str(refused.value)


@pytest.mark.parametrize("data", DATA)
def test_a_wrong_configuration_is_refused_with_a_wrong_pair_before_anything_is_read(
    tiny_config, tiny_tokenizer, data
):
    wrong = DATA[data](tiny_tokenizer)
    wrong.max_dropped, wrong.makes = 2.0, "pictures"
    with pytest.raises(ValueError, match="makes pictures") as refused:
        L.Trainer(**TRAINER).fit(CausalLM(tiny_config), wrong)
    assert str(refused.value).splitlines()[1:] == ["data.max_dropped is 2.0: give a share between 0 and 1"]


def test_who_makes_a_kind_is_named_as_the_data_modules_say_themselves():
    for kind, makers in datamodules.base.MAKERS.items():
        names = {name for name, cls in MODULES.items() if cls.makes == kind}
        assert names == set(makers.replace("datamodules.", "").split(" or "))


def test_a_users_own_kind_is_refused_by_its_name_and_a_plain_module_is_not(tiny_tokenizer):
    class Pictures(L.LightningModule):
        reads, updates_per_batch = "pictures", 1

    data = DATA["PromptData"](tiny_tokenizer)
    (line,) = data.pairing_errors(Pictures())
    assert "but Pictures reads pictures: give one whose `makes` is 'pictures', or a stage" in line
    assert data.pairing_errors(L.LightningModule()) == []


@pytest.mark.parametrize(
    ("data", "arguments", "spec"),
    [
        (MixedCorpusData, {"sequence_length": 64}, (1, 64, "")),
        (InstructionData, {"max_length": 32, "packing": None}, (1, 32, "")),
        (InstructionData, {"max_length": 32, "packing": 96}, (1, 96, "")),
        (PreferenceData, {"max_length": 32, "packing": None}, (4, 32, "4 replies to a prompt")),
        (PreferenceData, {"max_length": 32, "packing": 96}, (1, 96, "")),
        (PromptData, {"max_prompt_length": 16}, (1, 16, "")),
    ],
)
def test_rows_are_described_from_arguments_alone(data, arguments, spec):
    assert data.row_spec(arguments) == spec


def test_a_source_without_files_is_for_a_plan_only(tiny_tokenizer):
    data = MixedCorpusData({"a": Source(tokens=10**9)}, tiny_tokenizer)
    (line,) = data.config_errors(1)
    assert line.startswith("data.sources.a has no train: name its files")


def test_the_tokens_of_a_source_that_has_files_are_not_looked_at(tiny_files, tiny_tokenizer):
    file = str(tiny_files / "a.train.jsonl")
    counts = []
    for tokens in (None, 7):
        data = MixedCorpusData({"a": Source(file, tokens=tokens)}, tiny_tokenizer, sequence_length=32)
        assert data.config_errors(1) == []
        data.setup()
        counts.append(data.receipts[0].tokens)
    assert counts[0] == counts[1] > 7


def test_the_longest_row_is_that_of_any_split(tiny_tokenizer, tmp_path, rows):
    short, long = (
        {"instruction": "Write.", "output": word} for word in ("good", "a dull film and a sad story")
    )
    files = [rows(tmp_path / f"{name}.jsonl", [row]) for name, row in (("train", short), ("val", long))]
    data = InstructionData(files[0], tiny_tokenizer, val=files[1])
    data.setup()
    assert data.longest_row == data.splits["val"].longest > data.splits["train"].longest
