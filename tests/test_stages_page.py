"""The pages about stages and PPO are true: their code is the code that the tests run, their names exist, and
their tables say what the classes say."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import datamodules
import modules
from datamodules.base import TextDataModule
from experiments.cli.program import main
from modules.sharding import Sharding
from modules.stage import Stage
from tests.ranks import curve
from tests.toy_data import QuestionData

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "experiments" / "docs"
STAGES, PPO = ((DOCS / name).read_text(encoding="utf-8") for name in ("stages.md", "ppo.md"))


@pytest.mark.parametrize("file", ["toy_stage.py", "toy_data.py"])
def test_the_pages_code_is_the_file_that_is_tested(file):
    blocks = re.findall(r"^```python\n(.*?)^```$", STAGES, re.MULTILINE | re.DOTALL)
    _, _, code = (ROOT / "tests" / file).read_text(encoding="utf-8").partition('"""\n\n')
    assert code in blocks


def test_every_link_of_the_pages_leads_to_a_file_or_a_section():
    for page in (STAGES, PPO):
        titles = {title.lower().replace(" ", "-") for title in re.findall("^## (.*)$", page, re.MULTILINE)}
        for target in re.findall(r"\]\(([^)]+)\)", page):
            assert target[1:] in titles if target.startswith("#") else (DOCS / target).exists(), target


def test_every_name_of_the_ppo_page_exists():
    names = set(re.findall(r"`(modules(?:\.\w+)+)`", PPO))
    assert len(names) >= 15
    for name in names:
        value = import_module(".".join(name.split(".")[:2]))
        for part in name.split(".")[2:]:
            value = getattr(value, part)


def test_the_ppo_page_names_every_metric_of_an_iteration_and_no_other():
    source = "".join((ROOT / "modules" / name).read_text() for name in ("ppo.py", "ppo_checks.py"))
    named = set(re.findall(r"`ppo/(\w+)`", PPO))
    assert {"score", "kl_per_sequence", "grad_norm_actor", "ratio_max"} <= named
    assert all(
        name in source or name.removesuffix("_actor").removesuffix("_critic") in source for name in named
    )


def test_the_table_of_stages_says_what_the_classes_say():
    rows = re.findall(r"^\| \[`(\w+)`\]\([^)]*\) \| `(\w+)` \| `(\w+)`", STAGES, re.MULTILINE)
    assert {stage for stage, _, _ in rows} == set(modules.__all__)
    for stage, data, kind in rows:
        assert getattr(modules, stage).reads == getattr(datamodules, data).makes == kind


def test_what_a_stage_says_of_itself_is_there_and_the_seven_methods_are_the_protocols():
    told = re.findall(
        r"`(\w+)(?:\(\w*\))?`",
        STAGES.split("## What a stage says of itself")[1].split("What a stage asks")[0],
    )
    assert {"network_specs", "exports", "config_errors"} <= set(told)
    assert all(
        hasattr(Stage, name) or name in Stage.__annotations__
        for name in told
        if name not in ("fit", "plan", "export")
    )
    asked = re.findall(r"`(\w+)`", STAGES.split("the Protocol in")[1].split("stage that uses them")[0])
    assert asked
    assert all(hasattr(Sharding, name) for name in asked)


def test_a_kind_of_data_in_one_file_is_trained(tiny_stages, rows, tmp_path):
    file = rows(
        tmp_path / "q.jsonl", [{"question": f"is film {n} good", "answer": "very good"} for n in range(32)]
    )
    line = [
        "fit",
        "--model=CausalLM",
        f"--model.pretrained={tiny_stages.export('pretrain')}",
        "--model.warmup_steps=0",
    ]
    line += ["--data=tests.toy_data.QuestionData", f"--data.train={file}"]
    line += [f"--data.tokenizer={tiny_stages.export('pretrain')}", f"--run={tmp_path / 'run'}"]
    line += ["--trainer.accelerator=cpu", "--trainer.max_steps=12", "--trainer.log_every_n_steps=1"]
    assert main(line) == 0
    losses = list(curve(tmp_path / "run").values())
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert issubclass(QuestionData, TextDataModule)
    assert len(inspect.getsource(QuestionData).splitlines()) < 40  # it is a toy
