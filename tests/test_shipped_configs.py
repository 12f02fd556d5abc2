"""The YAMLs that come with Trivium, by name and from any folder."""

import shutil

import pytest
import yaml

from experiments.cli.program import main
from experiments.cli.shipped_configs import CONFIGS, file_of, shipped, whole, with_shipped_configs


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
    files = [*CONFIGS.glob("*.yaml"), *CONFIGS.glob("sweeps/*.yaml")]
    assert sorted(name.strip() for name in lines) == sorted(
        file.relative_to(CONFIGS).with_suffix("").as_posix() for file in files
    )
    by_name = {name.strip(): text for name, text in lines.items()}
    assert by_name["sft"].endswith("the loss on the reply alone.")
    assert by_name["sweeps/sft"].strip() == "How often over the instructions, and at which peak rate?"


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_copied_config_says_what_the_shipped_one_does(name, tmp_path, capsys):
    assert main(["configs", name]) == 0
    copied = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(shipped()[name].read_text())
    if isinstance(given["trainer"], str):
        given["trainer"] = yaml.safe_load((CONFIGS / given["trainer"]).read_text())
    assert copied == given
    assert whole(shipped()[name]).startswith("# ")


def test_a_folder_of_ones_own_does_not_hide_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft").mkdir()
    assert with_shipped_configs(["--config", "sft"]) == ["--config", str(CONFIGS / "sft.yaml")]


@pytest.mark.parametrize("name", sorted(shipped("sweeps")))
def test_a_shipped_sweep_goes_by_its_name_and_can_be_copied(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = CONFIGS / "sweeps" / f"{name}.yaml"
    assert file_of(name, "sweeps") == file_of(f"sweeps/{name}", "sweeps") == str(file)
    assert main(["configs", f"sweeps/{name}"]) == 0
    assert capsys.readouterr().out == file.read_text()


def test_a_name_that_is_not_shipped_is_refused_with_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in (["fit", "--config", "stf"], ["configs", "stf"], ["sweep", "stf"]):
        assert main(line) == 2
        assert "did you mean `sft`, which is shipped?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward", "ppo"])
def test_where_its_files_come_from_is_told_and_nothing_is_left(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", name]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("trivium: runs/quickstart is what `trivium quickstart` makes: run it here, or")
    assert sum("`trivium quickstart`" in line for line in told) == 1
    assert list(tmp_path.iterdir()) == []
