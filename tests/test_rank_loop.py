"""The circle of RLHF closed by people: replies ranked on the page train a reward model, PPO follows it, and
people who are not told prefer what it writes.

Who ranks is a script with one rule, in a real browser, so that what is learnt can be checked. The short form
is on tiny networks; with `TRIVIUM_QUICKSTART=runs/quickstart` the same is done on what the quickstart has
trained, in a few minutes, to the figures of `experiments/docs/rank.md`.
"""

import csv
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.cli.program import main
from experiments.web.access import Access
from experiments.web.rank.app import rank_app
from experiments.web.rank.command import check, items_of, parser
from experiments.web.rank.ledger import Ledger, read
from experiments.web.rank.report import report_of
from experiments.web.rank.session import Session
from tests.browsing import chromium, new_page, served

QUICKSTART = os.environ.get("TRIVIUM_QUICKSTART")


class Sizes(NamedTuple):
    """How much is done."""

    prompts: int
    held_out: int
    tokens: int
    epochs: int
    updates: int


def rule(texts):
    """Levels, 1 = best: the shorter in words, tied where the difference is two words or fewer."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].split()))
    levels, level, shortest = [0] * len(texts), 0, -9
    for i in order:
        words = len(texts[i].split())
        if words > shortest + 2:
            level, shortest = level + 1, words
        levels[i] = level
    return levels


def ranked_on_the_page(browser, folder, name, *options):
    """`trivium rank …`, all of whose prompts are ranked by the rule on its page; gives the file."""
    file = folder / f"{name}.jsonl"
    asked = parser().parse_args([*options, "--output", str(file)])
    check(asked)
    items = items_of(asked)
    people = Session(items, Ledger(file), asked.overlap, asked.seed)
    with served(rank_app(people, Access(port=0))) as url:
        page = new_page(browser, viewport={"width": 900, "height": 700})
        page.goto(url)
        page.fill("#person", "Ann")
        page.keyboard.press("Enter")
        for count in range(len(items)):
            page.wait_for_selector(f'#bar[data-mine="{count}"]', state="attached")
            texts = page.locator("#work .card .text").all_inner_texts()
            levels = rule(texts)
            before = 0
            for card in sorted(range(len(texts)), key=levels.__getitem__):
                page.keyboard.press(str(card + 1))
                if levels[card] == before:
                    page.keyboard.press("=")
                before = levels[card]
            if not count:
                page.screenshot(path=folder / f"{name}.png")
            page.keyboard.press("Enter")
        page.wait_for_selector("#end:not([hidden])")
        page.close()
    people.answers.close()
    return file


def rows_by_rule(items, file):
    """The same rule's judgement of other replies, as rows of preferences."""
    rows = []
    for each in items:
        levels = rule(each.replies)
        if len(set(levels)) > 1:
            rows.append({**each.prompt, "replies": each.replies, "ratings": [-level for level in levels]})
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def values(run, metric):
    """A metric's values in a run's file, in order."""
    (file,) = Path(run).glob("metrics/*/metrics.csv")
    with file.open(encoding="utf-8") as lines:
        return [float(row[metric]) for row in csv.DictReader(lines) if row.get(metric)]


def cut(source, start, count, file):
    """Some rows of a file as a file."""
    lines = Path(source).read_text(encoding="utf-8").splitlines(keepends=True)[start : start + count]
    file.write_text("".join(lines), encoding="utf-8")
    return str(file)


def loop(folder, sft, train, val, fit_reward, fit_ppo, sizes):
    """The whole circle; gives its figures."""
    begun = time.monotonic()
    sampling = ["--max-new-tokens", str(sizes.tokens)]
    with chromium() as browser:
        asked = cut(train, 0, sizes.prompts, folder / "asked.jsonl")
        ranks = ranked_on_the_page(browser, folder, "ranks", "--prompts", asked, "--models", sft, *sampling)
        others = cut(val, 0, sizes.held_out, folder / "others.jsonl")
        options = parser().parse_args(
            ["--prompts", others, "--models", sft, *sampling, "--output", str(folder / "held.jsonl")]
        )
        check(options)
        held_out = rows_by_rule(items_of(options), folder / "held_out.jsonl")
        ranking = ["--data.init_args.train", str(ranks), "--data.init_args.val", held_out]
        ranking += ["--trainer.max_epochs", str(sizes.epochs), "--trainer.val_check_interval", "1.0"]
        assert main([*fit_reward, "--run", str(folder / "reward"), *ranking]) == 0
        reward = ["--model.init_args.reward", str(folder / "reward" / "export")]
        reward += ["--trainer.max_steps", str(sizes.updates), "--trainer.limit_val_batches", "0"]
        assert main([*fit_ppo, "--run", str(folder / "ppo"), *reward]) == 0
        asked = cut(val, sizes.held_out, sizes.held_out, folder / "blind_prompts.jsonl")
        models = [f"sft={sft}", f"ppo={folder / 'ppo' / 'export'}"]
        blind = ranked_on_the_page(
            browser, folder, "blind", "--prompts", asked, "--models", *models, *sampling
        )
        assert main(["rank", "report", str(blind), "--output", str(folder / "rank.html")]) == 0
        page = new_page(browser, viewport={"width": 900, "height": 640})
        page.goto((folder / "rank.html").as_uri())
        page.screenshot(path=folder / "report.png")
    scores = values(folder / "ppo", "ppo/score")
    report = report_of(read(blind))
    return {
        "ranked": len(read(ranks)),
        "accuracy": values(folder / "reward", "reward/accuracy")[-1],
        "score": (scores[0], scores[-1]),
        "ppo": report["models"]["ppo"]["win_rate"],
        "position": report["position"]["p"],
        "minutes": (time.monotonic() - begun) / 60,
    }


@pytest.mark.slow
def test_what_people_rank_trains_a_reward_model_that_ppo_follows_and_they_prefer(tiny_stages, tmp_path):
    files = tiny_stages.files
    figures = loop(
        tmp_path,
        tiny_stages.export("sft"),
        files / "prompts.train.jsonl",
        files / "prompts.train.jsonl",
        tiny_stages.stage("reward"),
        [*tiny_stages.stage("ppo"), "--model.init_args.actor_lr=1e-3", "--model.init_args.kl_coef=0.01"],
        Sizes(prompts=16, held_out=16, tokens=8, epochs=12, updates=64),
    )
    print(figures)
    assert figures["ranked"] >= 10  # some prompts are there twice, and some replies all alike
    assert figures["accuracy"] >= 0.8
    assert figures["score"][1] > figures["score"][0]
    assert figures["ppo"]["value"] > 0.5


def long_form(tmp_path):
    folder = Path(str(QUICKSTART)).resolve()
    configs = Path(__file__).resolve().parent.parent / "experiments" / "configs"
    sft = str(folder / "sft" / "export")
    prompts = {split: folder / "data" / "prompts" / f"{split}.jsonl" for split in ("train", "val")}
    fit_reward = ["fit", "--config", str(configs / "reward.yaml"), "--model.init_args.pretrained", sft]
    fit_reward += ["--data.init_args.tokenizer", sft, "--model.init_args.warmup_steps", "3"]
    fit_ppo = ["fit", "--config", str(configs / "ppo.yaml"), "--model.init_args.actor", sft]
    fit_ppo += ["--data.init_args.tokenizer", sft]
    fit_ppo += [f"--data.init_args.{split}={file}" for split, file in prompts.items()]
    sizes = Sizes(prompts=60, held_out=60, tokens=48, epochs=6, updates=72)
    figures = loop(tmp_path, sft, prompts["train"], prompts["val"], fit_reward, fit_ppo, sizes)
    print(figures)
    assert figures["ranked"] == 60
    assert figures["accuracy"] >= 0.9
    assert figures["score"][1] > figures["score"][0] + 1
    assert figures["ppo"]["low"] > 0.5
    assert figures["minutes"] <= 10


if QUICKSTART:
    test_the_circle_on_the_quickstarts_data_reaches_its_bars_within_ten_minutes = pytest.mark.slow(long_form)
