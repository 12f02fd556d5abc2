"""The page on strategies is true: its commands and lines are accepted, its picture can be drawn, its links
lead somewhere."""

import inspect
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

import strategies
from experiments.cli.program import main

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "experiments" / "docs"
PAGE = (DOCS / "strategies.md").read_text(encoding="utf-8")


def code(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_strategy_of_the_page_exists():
    named = set(re.findall(r"strategies\.([a-z]\w+)", PAGE)) - {"py", "png"}
    assert {"ddp", "fsdp", "deepspeed"} <= named <= set(strategies.__all__)


def test_the_yaml_of_the_page_makes_its_strategy():
    (block,) = code("yaml")
    given = yaml.safe_load(block)["trainer"]["strategy"]
    make = getattr(strategies, given["class_path"].removeprefix("strategies."))
    inspect.signature(make).bind(**given["init_args"])
    assert type(make(**given["init_args"])).__name__ == "ZeRO"


@pytest.mark.parametrize("line", [line for block in code("sh") for line in block.splitlines()])
def test_every_command_of_the_page_works(line, tiny_stages, tmp_path, monkeypatch, capsys):
    program, command, *argv = shlex.split(line)
    assert program == "trivium"
    if command == "export":
        shutil.copytree(tiny_stages.out / "sft", tmp_path / "runs" / "mine")
        monkeypatch.chdir(tmp_path)
        assert main([command, *argv]) == 0
        assert load_file(argv[1] + "/model.safetensors")
        return
    assert command == "plan"
    monkeypatch.chdir(ROOT)
    if "--config" in argv:  # with the tiny network in place of the quickstart's
        argv += [f"--model.init_args.pretrained={tiny_stages.export('pretrain')}"]
    assert main([command, *argv]) == 0
    assert "zero3" in capsys.readouterr().out


def test_the_picture_is_drawn_from_the_plan(tmp_path):
    from experiments.docs.strategy_pictures import main as draw

    (file,) = draw(str(tmp_path))
    assert re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE) == [file.name]
    assert file.stat().st_size < 150_000
    assert Image.open(file).size == Image.open(DOCS / file.name).size == (1600, 1240)


def test_links_lead_to_sections_and_files():
    titles = re.findall("^## (.*)$", PAGE, re.MULTILINE)
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) == {title.lower().replace(" ", "-") for title in titles}
    for file in re.findall(r"`(tests/[\w.]+)`", PAGE):
        assert (ROOT / file).is_file()
    assert "experiments/docs/strategies.md" in (ROOT / "README.md").read_text(encoding="utf-8")
