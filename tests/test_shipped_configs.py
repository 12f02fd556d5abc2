"""The YAMLs that come with Trivium, by name and from any folder."""

import shutil
from pathlib import Path

import pytest
import yaml

from experiments.cli.program import main
from experiments.cli.shipped_configs import CONFIGS, shipped, whole, with_shipped_configs


@pytest.mark.parametrize("form", ["--config sft", "--config=sft", "-c sft"])
def test_a_shipped_config_goes_by_its_name(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    line = ["fit", *form.split(), "--config", "other.yaml", "--run", "ppo"]
    words = with_shipped_configs(line)
    assert " ".join(words).replace(str(CONFIGS / "sft.yaml"), "sft") == " ".join(line)
    assert str(CONFIGS / "sft.yaml") in " ".join(words)


def test_a_file_of_ones_own_goes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(CONFIGS / "ppo.yaml", "sft")
    assert with_shipped_configs(["--config", "sft"]) == ["--config", "sft"]


def test_the_list_has_each_config_with_its_comment(capsys):
    assert main(["configs"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert sorted(lines) == sorted(file.stem for file in Path("experiments/configs").glob("*.yaml"))
    assert lines["sft"].endswith("the loss on the reply alone.")


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_copied_config_says_what_the_shipped_one_does(name, tmp_path, capsys):
    assert main(["configs", name]) == 0
    copied = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(shipped()[name].read_text())
    if isinstance(given["trainer"], str):
        given["trainer"] = yaml.safe_load((CONFIGS / given["trainer"]).read_text())
    assert copied == given
    assert whole(shipped()[name]).startswith("# ")


def test_a_name_that_is_not_shipped_is_refused_with_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in (["fit", "--config", "stf"], ["configs", "stf"]):
        assert main(line) == 2
        assert "did you mean `sft`, which is shipped?" in capsys.readouterr().err
