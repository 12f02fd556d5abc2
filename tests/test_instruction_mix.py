"""Several sources of instructions: shares by tokens or by rows, and a template for each."""

import json

import numpy as np
import pytest
import yaml

from datamodules import ChatTemplate, InstructionData, InstructionSource, InstructionTemplate, MixedTemplates
from experiments.cli.program import main

SIZES = {"short": 90, "long": 40}
WEIGHTS = {"short": 0.4, "long": 0.6}


@pytest.fixture
def sources(tmp_path, rows):
    """Short rows and long ones, about one to four in tokens."""
    rng = np.random.default_rng(0)
    words = ["good", "bad", "film", "story", "fun"]

    def row(low, high):
        return {"instruction": "Write.", "output": " ".join(rng.choice(words, rng.integers(low, high)))}

    files = {}
    for name, (low, high) in {"short": (1, 4), "long": (120, 128)}.items():
        files[name] = rows(tmp_path / f"{name}.jsonl", [row(low, high) for _ in range(SIZES[name])])
    return {name: InstructionSource(files[name], WEIGHTS[name]) for name in SIZES}


def ready(sources, tokenizer, **options):
    given = {"max_length": 256, "global_batch_size": 8, "micro_batch_size": 4, **options}
    data = InstructionData(sources, tokenizer, **given)
    data.setup()
    return data


def drawn(data, rows):
    """The first training rows (or packs): of each source how many, and their tokens."""
    split, order = data.splits["train"], data.order()
    taken = np.array([order[n] for n in range(rows)])
    long = taken >= split.starts[1]
    tokens = split.lengths[taken]
    return np.array([(~long).sum(), long.sum()]), np.array([tokens[~long].sum(), tokens[long].sum()])


def unevenness(lengths, count):
    """How far the tokens of `count` rows, whole epochs and a part of one, may be from count × the mean: the
    part may be the longest rows, or the shortest."""
    rest, mean, ordered = count % len(lengths), lengths.mean(), np.sort(lengths)
    return (
        max(rest * mean - ordered[:rest].sum(), ordered[len(lengths) - rest :].sum() - rest * mean)
        + lengths.max()
    )  # and one row, by which the schedule may be off


def test_weights_by_tokens_are_shares_of_the_tokens(sources, tiny_tokenizer):
    data = ready(sources, tiny_tokenizer)
    lengths = [part.lengths for part in data.splits["train"].parts]
    assert lengths[1].mean() > 2.5 * lengths[0].mean()
    for steps in (data.steps_per_epoch, 50, 200):
        counts, tokens = drawn(data, 8 * steps)
        total = tokens.sum()
        allowed = sum(unevenness(part, n) for part, n in zip(lengths, counts, strict=True)) / total
        assert allowed < 0.1
        assert abs(tokens[0] / total - 0.4) < allowed
        assert abs(counts[0] / counts.sum() - 0.4) > 0.15  # of the rows it is another share


def test_weights_by_rows_are_shares_of_the_rows(sources, tiny_tokenizer):
    data = ready(sources, tiny_tokenizer, mix_by="rows")
    for rows in range(1, 400, 7):
        counts, _ = drawn(data, rows)
        assert abs(counts - rows * np.array([0.4, 0.6])).max() < 1


def test_weights_by_tokens_hold_for_packs_too(sources, tiny_tokenizer):
    data = ready(sources, tiny_tokenizer, packing=512)
    lengths = [part.lengths for part in data.splits["train"].parts]
    counts, tokens = drawn(data, 8 * 100)
    allowed = sum(unevenness(part, n) for part, n in zip(lengths, counts, strict=True)) / tokens.sum()
    assert allowed < 0.05
    assert abs(tokens[0] / tokens.sum() - 0.4) < allowed


def test_weights_by_rows_count_the_rows_in_packs(sources, tiny_tokenizer):
    data = ready(sources, tiny_tokenizer, packing=512, mix_by="rows")
    parts = data.splits["train"].parts
    inside = np.concatenate([np.diff(part.starts) for part in parts])  # rows of each pack
    order = data.order()
    taken = np.array([order[n] for n in range(800)])
    long = taken >= data.splits["train"].starts[1]
    rows = np.array([inside[taken[~long]].sum(), inside[taken[long]].sum()])
    counts = [(~long).sum(), long.sum()]
    allowed = sum(unevenness(np.diff(part.starts), n) for part, n in zip(parts, counts, strict=True))
    assert allowed / rows.sum() < 0.05
    assert abs(rows[0] / rows.sum() - 0.4) < allowed / rows.sum()


def test_every_row_of_each_source_comes_once_in_its_epoch(sources, tiny_tokenizer):
    data = ready(sources, tiny_tokenizer, mix_by="rows")
    order = data.order()
    taken = [order[n] for n in range(300)]  # 120 short, 180 long
    short = [row for row in taken if row < 90]
    long = [row - 90 for row in taken if row >= 90]
    assert sorted(short[:90]) == list(range(90))
    for epoch in range(4):
        assert sorted(long[40 * epoch : 40 * epoch + 40]) == list(range(40))


def test_batches_hold_rows_of_both_and_their_normalizer(sources, tiny_tokenizer):
    data = ready(sources, tiny_tokenizer)
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(8), strict=False)]
    split = data.splits["train"]
    for step in range(4):
        parts = batches[2 * step : 2 * step + 2]
        assert {float(batch["normalizer"]) for batch in parts} == {
            sum(int((batch["labels"] != -100).sum()) for batch in parts)
        }
        for batch in parts:
            for ids, row in zip(batch["input_ids"], batch["rows"].tolist(), strict=True):
                (item,) = split.members(row)
                assert ids[: len(item["input_ids"])].tolist() == item["input_ids"].tolist()
    rows = np.concatenate([batch["rows"].numpy() for batch in batches])
    assert (rows < 90).any()
    assert (rows >= 90).any()


def test_one_source_by_name_is_trained_as_the_files_alone(sources, tiny_tokenizer):
    named = ready({"long": sources["long"]}, tiny_tokenizer)
    alone = ready(sources["long"].train, tiny_tokenizer)
    assert [named.sampler().rows(n).tolist() for n in range(9)] == [
        alone.sampler().rows(n).tolist() for n in range(9)
    ]


# --- templates


def text(data, row):
    (item,) = data.splits["train"].members(row)
    return data.tokenizer.decode(item["input_ids"])


def test_a_source_has_its_own_template_or_the_common_one(sources, tiny_tokenizer):
    sources["short"].template = InstructionTemplate(prompt="Q: {content} A:")
    data = ready(sources, tiny_tokenizer, template=InstructionTemplate(system="Be brief."))
    assert text(data, 0).startswith("<s>Q: Write. A:")
    assert text(data, 90).startswith("<s>Be brief.\n\n### Instruction:\nWrite.")


def test_a_sources_impossible_template_is_refused(sources, tiny_tokenizer):
    sources["short"].template = InstructionTemplate(prompt="no place")
    data = InstructionData(sources, tiny_tokenizer)
    (line,) = data.config_errors(1)
    assert "has no {content}" in line
    assert line.startswith("data.train.short.template")


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(sources, tiny_tokenizer, weight):
    sources["long"].weight = weight
    lines = InstructionData(sources, tiny_tokenizer).config_errors(1)
    assert lines == [f"data.train.long.weight is {weight}: give a number above 0"]


def test_no_source_is_refused(tiny_tokenizer):
    assert InstructionData({}, tiny_tokenizer).config_errors(1) == [
        "data.train is empty: name at least one source"
    ]


def test_mixed_templates_reach_each_rows_share(sources, tiny_tokenizer):
    styles = {"plain": InstructionTemplate(), "q": InstructionTemplate(prompt="Q: {content} A:")}
    sources["short"].template = MixedTemplates(
        {**styles, "chat": ChatTemplate()}, {"plain": 1, "q": 2, "chat": 1}
    )
    data = ready(sources, tiny_tokenizer)
    asked = sum(text(data, row).startswith("<s>Q: ") for row in range(90))
    assert abs(asked - 45) < 1  # half of them, within one


CONFIG = {
    "run": "run",
    "model": {"class_path": "modules.SFTModule", "init_args": {"pretrained": "none"}},
    "data": {
        "class_path": "datamodules.InstructionData",
        "init_args": {
            "template": {
                "class_path": "datamodules.MixedTemplates",
                "init_args": {
                    "templates": {
                        "alpaca": {
                            "class_path": "datamodules.InstructionTemplate",
                            "init_args": {"style": "alpaca"},
                        },
                        "chat": {"class_path": "datamodules.ChatTemplate"},
                    },
                    "weights": {"alpaca": 3, "chat": 1},
                },
            },
        },
    },
}


@pytest.fixture
def told(sources, tiny_tokenizer, tmp_path, capsys, monkeypatch):
    """What `trivium data receipt` prints for the YAML above with some changes."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(change=lambda options: None):
        config = json.loads(json.dumps(CONFIG))
        options = config["data"]["init_args"]
        options["tokenizer"] = tiny_tokenizer
        options["max_length"] = 512
        options["train"] = {
            name: {"train": source.train, "weight": source.weight} for name, source in sources.items()
        }
        change(options)
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        code = main(["data", "receipt", "--config", str(tmp_path / "sft.yaml")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_sources_with_templates_of_their_own_are_written_in_yaml(told):
    def own(options):
        options["train"]["long"]["template"] = {
            "class_path": "datamodules.InstructionTemplate",
            "init_args": {"prompt": "Q: {content} A:"},
        }

    code, out, err = told(own)
    assert code == 0, err
    lines = [line for line in out.splitlines() if "data.train." in line]
    assert [line.replace("│", " ").split()[:3] for line in lines[:2]] == [
        ["data.train.short", "90", "90"],
        ["data.train.long", "40", "40"],
    ]
    assert "Q: Write. A:" in out  # and of `long`


def test_mixed_templates_are_written_in_yaml(told):
    code, out, err = told()
    assert code == 0, err
    assert "data.train.short, one row" in out
    # three of four rows of each source, within one, so one of the first two at least
    assert "Below is an instruction that describes a task." in out


def test_mixed_templates_with_other_names_in_the_weights_are_refused_in_one_line(told):
    def misspelt(options):
        options["template"]["init_args"]["weights"] = {"alpaca": 3, "chatt": 1}

    code, _, err = told(misspelt)
    assert code == 2
    assert "data.template.weights names alpaca, chatt, but the templates are alpaca, chat" in err
    assert "Traceback" not in err
