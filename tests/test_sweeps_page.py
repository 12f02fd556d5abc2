"""The page about sweeps and the shipped sweeps are true: they are read, by W&B's schema too, and name options
that there are."""

import json
import re
import shlex
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from experiments.cli.parser import ParseOnly, parse
from experiments.cli.shipped_configs import CONFIGS, file_of
from experiments.docs.all_pictures import SWEPT
from experiments.docs.sweeps_picture import main as draw
from experiments.sweep.command import expanded, is_fit, nested
from experiments.sweep.run import _parser
from experiments.sweep.sampling import next_configuration
from experiments.sweep.spec import read_spec

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "experiments" / "docs"
PAGE = (DOCS / "sweeps.md").read_text(encoding="utf-8")
SWEEPS = sorted((ROOT / "experiments/configs/sweeps").glob("*.yaml"))
SCHEMA = json.loads((files("sweeps") / "config" / "schema.json").read_text())


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_shipped_sweep_is_one_of_wandbs_and_its_first_run_a_command_that_fit_takes(
    file, monkeypatch, tmp_path
):
    spec = read_spec(file)
    document = {
        key: value for key, value in spec.document.items() if key != "run_cap"
    }  # younger than the schema
    assert not list(jsonschema.Draft7Validator(SCHEMA).iter_errors(document))
    assert f"({file.relative_to(DOCS.parent).as_posix()})" in PAGE.replace("../", "")
    if not is_fit(spec.command, spec.program):
        return
    first = next_configuration(spec, [], 0)
    assert first is not None
    options = nested({each.path: first.values[each.name] for each in spec.parameters})
    words = expanded(spec.command, spec.program, options, tmp_path / "a.json")
    script = shlex.split(words[3].replace('"$@"', "").replace('exec "$0" ', ""))
    monkeypatch.chdir(ROOT)
    config = parse([*script, *words[5:]], ParseOnly).config["fit"].as_dict()
    for name, value in first.values.items():
        place = config
        for key in re.split(r"\.(?!\d)", name):
            place = place[key]
        assert place == pytest.approx(value)


def test_the_commands_of_the_page_are_accepted():
    commands = [
        line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()
    ]
    kinds = [shlex.split(line)[:2] for line in commands]
    assert [kinds.count(["trivium", name]) for name in ("sweep", "configs")] == [8, 1]
    for line in commands:
        words = shlex.split(line)
        if words[:2] == ["trivium", "sweep"]:
            given, _, for_runs = (" ".join(words[2:]) + " ").partition(" -- ")
            file = file_of(_parser().parse_args(given.split()).file, "sweeps")
            if for_runs:
                parse(["fit", "--config", str(CONFIGS / "pretrain.yaml"), *for_runs.split()], ParseOnly)
        else:
            file = str(ROOT / words[1]) if words[0] == "sbatch" else file_of(words[2], "sweeps")
        assert Path(file).is_file()


def test_the_links_of_the_page_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert targets
    assert [target for target in targets if not (DOCS / target).exists()] == []


def test_each_sweep_that_asks_a_question_has_its_picture_on_the_page():
    assert {*SWEPT, "scaling"} == {file.stem for file in SWEEPS}
    for name in SWEPT:
        file = f"sweep-{name}.png"
        assert f"]({file})" in PAGE
        assert (DOCS / file).stat().st_size < 150_000


def test_the_picture_of_the_page_can_be_drawn(tmp_path):
    (file,) = draw(str(tmp_path), seeds=1, runs=11)
    assert file.name == "sweeps.png"
    assert f"]({file.name})" in PAGE
    assert (DOCS / file.name).stat().st_size < 150_000
