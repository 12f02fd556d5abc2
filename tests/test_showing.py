"""What shows itself: tables and coloured tokens in a notebook, the same as text in a terminal, and nobody's
text as HTML."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import datamodules
from datamodules import InstructionData, MixedCorpusData, PreferenceData, PromptData, Source
from experiments.evaluation.card import AbilityCard
from experiments.plan.run_plan import plan_of
from modules.errors import UserError
from modules.rollout import Rollout

ROOT = Path(datamodules.__file__).resolve().parent.parent
EVIL = "<script>alert(1)</script>"


def tags(html):
    return set(re.findall(r"<(\w+)", html))


def test_the_two_libraries_show_by_the_same_code():
    assert (ROOT / "modules/showing.py").read_text() == (ROOT / "datamodules/showing.py").read_text()


def train_batch(data, number=0):
    data.setup()
    return data.batch(data.splits["train"], np.array([number]))


def test_a_receipt_and_batches_show_rows_that_are_html_as_text(rows, tmp_path, tiny_tokenizer):
    texts = rows(tmp_path / "texts.jsonl", [{"text": f"good film {EVIL} \x1b[31m"}] * 40)
    asked = rows(tmp_path / "asked.jsonl", [{"instruction": f"say {EVIL}", "output": f"film {EVIL}"}])
    ranked = rows(
        tmp_path / "ranked.jsonl",
        [{"instruction": EVIL, "replies": [f"good {EVIL}", "bad"], "ratings": [2, 1]}],
    )
    every = [
        MixedCorpusData({f"a{EVIL}": Source(texts, 1.0)}, tiny_tokenizer, sequence_length=64),
        InstructionData(asked, tiny_tokenizer),
        PreferenceData(ranked, tiny_tokenizer),
        PromptData(asked, tiny_tokenizer),
    ]
    for data in every:
        batch = train_batch(data)
        shown = datamodules.show(batch, data.tokenizer)
        for html, text in (
            (data.receipts._repr_html_(), repr(data.receipts)),
            (data.receipts[0]._repr_html_(), repr(data.receipts[0])),
            (shown._repr_html_(), repr(shown)),
        ):
            assert tags(html) == {"table", "caption", "tr", "th", "td", "pre", "span"}
            assert "&lt;" in html
            assert "\x1b" not in html + text
            assert "<script>" in text.replace("\n", "").replace(" ", "")


def test_a_batch_shows_what_is_trained_and_where_documents_begin(rows, tmp_path, tiny_tokenizer):
    asked = rows(tmp_path / "rows.jsonl", [{"instruction": "good film", "output": "bad plot"}])
    data = InstructionData(asked, tiny_tokenizer)
    shown = datamodules.show(train_batch(data), data.tokenizer).__rich__()
    line = shown.renderables[2]
    green = "".join(line.plain[span.start : span.end] for span in line.spans if "#14532d" in str(span.style))
    assert green == "bad plot</s>"
    ranked = rows(tmp_path / "r.jsonl", [{"instruction": "x", "replies": ["good", "bad"], "ratings": [2, 1]}])
    data = PreferenceData(ranked, tiny_tokenizer)
    line = repr(datamodules.show(train_batch(data), data.tokenizer))
    assert line.count("│") >= 2
    assert re.search(r"good\S* rated 2 .*bad\S* rated 1 ", " ".join(line.split()))


def a_rollout(tokenizer):
    ids = tokenizer.encode(f"good {EVIL}", add_special_tokens=False)
    width = len(ids)
    ids, ones = torch.tensor([ids]), torch.ones(1, width, dtype=torch.bool)
    rollout = Rollout.sampled(ids, ones, ids, ones)
    weights = torch.linspace(-1, 1, width)[None]
    numbers = {"scores": torch.tensor([1.25]), "ref_logprobs": weights.abs() * -1, "advantages": weights}
    return rollout._replace(**numbers), weights


def test_a_rollout_shows_its_numbers_and_each_token_in_the_colour_of_one(tiny_tokenizer):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    rollout, weights = a_rollout(tokenizer)
    kl = float(weights.abs().sum())
    for shown in (repr(rollout), rollout._repr_html_(), rollout.show(tokenizer)._repr_html_()):
        assert "1.250" in shown
        assert f"{kl:.3f}" in shown
    html = rollout.show(tokenizer)._repr_html_()
    assert tags(html) == {"table", "caption", "tr", "th", "td", "pre", "span"}
    assert "&lt;" in html
    line = rollout.show(tokenizer).__rich__().renderables[2]
    colours = [str(span.style).split("#")[-1] for span in line.spans if " on " in str(span.style)]
    assert len(colours) == weights.shape[1]
    red, green = (int(colours[0][:2], 16), int(colours[0][2:4], 16)), (colours[-1][:2], colours[-1][2:4])
    assert red[0] > red[1]
    assert int(green[0], 16) < int(green[1], 16)
    with pytest.raises(UserError, match="by is 'advantage': give one of logprobs, ref_logprobs, values"):
        rollout.show(tokenizer, by="advantage")


def test_a_plan_and_an_ability_card_show_themselves(tiny_config, tiny_tokenizer, stage_lines, tmp_path):
    _, _, config, *overrides = stage_lines(tmp_path).stage("pretrain")
    plan = plan_of([config], [*overrides, "--trainer.max_steps=10"])
    assert "<table" in plan._repr_html_()
    assert "bytes of a rank at its fullest" in repr(plan)
    assert "10 steps" in repr(plan)
    card = AbilityCard(["choices"], every_n_steps=10)
    card.history = [(0, {"ability/choices": 0.25}), (10, {})]
    assert json.dumps(re.findall(r">([\d.–]+)</td>", card._repr_html_()), ensure_ascii=False) in (
        '["0", "0.250", "10", "–"]'
    )
    assert "choices" in repr(card)
