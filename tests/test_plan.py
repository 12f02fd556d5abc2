"""`trivium plan --mixture`, in the data module's own YAML: published epochs, hand-computed phases and
temperatures, refusals, advice."""

import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from datamodules import MixedCorpusData
from datamodules.base import TextDataModule
from datamodules.sampling.mixture import Mixture, Source
from datamodules.sampling.mixture_schedule import MixtureSchedule
from experiments.cli.program import main
from experiments.plan import EXAMPLE
from experiments.plan.mixture import KEYS, mixture_plan, read_mixture
from tests.conftest import CONFIGS

ROOT = Path(__file__).resolve().parent.parent
G, T = 10**9, 10**12

# LLaMA (Touvron et al. 2023, table 1): weight in %, unique tokens in G, epochs at 1.4 T tokens.
LLAMA = {
    "CommonCrawl": (67, 852.7, 1.10),
    "C4": (15, 198.1, 1.06),
    "GitHub": (4.5, 98.4, 0.64),
    "Wikipedia": (4.5, 25.7, 2.45),
    "Books": (4.5, 28.3, 2.23),
    "ArXiv": (2.5, 33.0, 1.06),
    "StackExchange": (2, 27.2, 1.03),
}
TWO = "sources: {a: {weight: 1, tokens: 100e9}, b: {weight: 3, tokens: 50e9}}\n"


@pytest.fixture
def plan(tmp_path, capsys, monkeypatch):
    """Runs `trivium plan` on a file of this text; gives the exit code, stdout, and the lines of stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(text: str, tokens: str = "1e12", *options: str) -> tuple[int, str, list[str]]:
        file = tmp_path / "mixture.yaml"
        file.write_text(text, encoding="utf-8")
        code = main(["plan", "--mixture", str(file), "--tokens", tokens, *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err.replace(f"{file}", "FILE").splitlines()

    return run


def source(tokens: float, weight: float = 1.0) -> Source:
    return Source("", weight, tokens=tokens)


def llama() -> str:
    return "sources:\n" + "".join(
        f"  {name}: {{weight: {weight}, tokens: {tokens}e9}}\n" for name, (weight, tokens, _) in LLAMA.items()
    )


def cells(out: str) -> dict[str, list[str]]:
    """The table's rows by their first cell."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    return {name: rest for name, *rest in lines}


def test_llamas_epochs_follow_from_weights_sizes_and_budget(plan):
    code, out, err = plan(llama(), "1.4e12", "--json")
    assert (code, err) == (0, [])
    planned = json.loads(out)["sources"]
    assert list(planned) == list(LLAMA)
    assert {name: round(each["epochs"], 2) for name, each in planned.items()} == {
        name: epochs for name, (_, _, epochs) in LLAMA.items()
    }
    for name, (weight, _, _) in LLAMA.items():
        assert planned[name]["share"] == pytest.approx(weight / 100, rel=1e-12)
        assert planned[name]["tokens"] == pytest.approx(weight * 14 * G, rel=1e-12)


def test_the_table_shows_each_source_and_the_total(plan):
    code, out, _ = plan(llama(), "1.4e12")
    rows = cells(out)
    assert code == 0
    assert rows["Wikipedia"] == ["4.5%", "25.7 G", "63 G", "2.45"]
    assert rows["CommonCrawl"] == ["67.0%", "852.7 G", "938 G", "1.10"]
    assert rows["total"] == ["100.0%", "1.263 T", "1.4 T", "1.11"]


def test_the_start_of_each_second_epoch_is_told_in_order_also_past_the_budget(plan):
    """25.7 G / 4.5 % = 571.1 G; 98.4 G / 4.5 % = 2187 G."""
    _, out, _ = plan(llama(), "1.4e12")
    lines = [line.split() for line in out.partition("second epoch begins after")[2].strip().splitlines()]
    assert lines[0] == ["Wikipedia", "571.1", "G"]
    assert lines[-1] == ["GitHub", "2.187", "T", "(past", "this", "budget)"]
    assert len(lines) == 7


def test_json_is_sources_with_three_floats_each_and_nothing_else(plan):
    _, out, _ = plan(TWO, "1e12", "--json")
    assert json.loads(out) == {
        "sources": {
            "a": {"share": 0.25, "tokens": 250e9, "epochs": 2.5},
            "b": {"share": 0.75, "tokens": 750e9, "epochs": 15.0},
        }
    }
    assert re.fullmatch(r"\{.*\}\n", out)
    assert {type(value) for each in json.loads(out)["sources"].values() for value in each.values()} == {float}


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [
        (0, (1 / 2, 1 / 2)),  # 2·400⁰ : 2·100⁰
        (0.5, (2 / 3, 1 / 3)),  # 2·√400 : 2·√100 = 40 : 20
        (1, (4 / 5, 1 / 5)),  # 800 : 200
    ],
)
def test_temperature_is_the_power_of_the_size(temperature, shares):
    sources = {"large": source(400, 2), "small": source(100, 2)}
    planned = mixture_plan(Mixture(sources, temperature=temperature), 1000)
    assert [each.share for each in planned.values()] == pytest.approx(shares, rel=1e-12)


def test_a_weight_not_given_is_one_and_temperature_multiplies_those_given(plan):
    """3·√100 : 1·√400 = 30 : 20."""
    text = "temperature: 0.5\nsources: {a: {weight: 3, tokens: 100}, b: {tokens: 400}}"
    _, out, _ = plan(text, "1000", "--json")
    planned = json.loads(out)["sources"]
    assert [planned[name]["tokens"] for name in "ab"] == pytest.approx([600, 400])


def test_changes_hold_from_their_number_of_tokens_on():
    """1 : 3 for 400 tokens gives 100 and 300; then a alone for 400: 500 and 300; then b alone for 200."""
    sources = {"a": source(250, 1), "b": source(1000, 3)}
    changes = {800: {"b": 5.0}, 400: {"a": 7.0}}  # in any order
    planned = mixture_plan(Mixture(sources, changes), 1000)
    assert [each.tokens for each in planned.values()] == [500, 500]
    assert [each.share for each in planned.values()] == [0.5, 0.5]
    assert [each.epochs for each in planned.values()] == [2.0, 0.5]
    assert planned["a"].second_epoch == 550  # 400 + the 150 that are missing, all from a
    assert planned["b"].second_epoch == 1500  # 800 + the 700 that are missing


def test_a_source_that_is_dropped_before_it_is_through_has_no_second_epoch():
    mixture = Mixture({"a": source(1000), "b": source(10)}, {400: {"b": 1.0}})
    assert mixture_plan(mixture, 1000)["a"].second_epoch == math.inf


def test_temperature_holds_in_changes_too():
    """√400 : √100 = 2 : 1 throughout, as the weights are alike in both phases."""
    sources = {"a": source(400), "b": source(100)}
    planned = mixture_plan(Mixture(sources, {300: {"a": 5.0, "b": 5.0}}, 0.5), 900)
    assert [each.tokens for each in planned.values()] == pytest.approx([600, 300])


def test_the_plan_is_what_the_data_modules_schedule_draws_within_a_block():
    weights, later, blocks, block = [0.61, 0.3, 0.09], [0.1, 0.2, 0.7], 5000, 1000
    names = ["a", "b", "c"]
    sources = {name: source(10**6, weight) for name, weight in zip(names, weights, strict=True)}
    changes = {3700 * block: dict(zip(names, later, strict=True))}
    drawn = MixtureSchedule(weights, {3700: later}).drawn(blocks)
    planned = mixture_plan(Mixture(sources, changes), blocks * block)
    for each, count in zip(planned.values(), drawn, strict=True):
        assert abs(each.tokens / block - count) < 1


# --- the file


def stage(**data) -> str:
    """A stage's whole configuration."""
    arguments = {"tokenizer": "nowhere", "micro_batch_size": 2, "eval_batch_size": 2, **data}
    run = {"run": "runs/x", "model": {"class_path": "modules.CausalLM"}, "trainer": {"max_steps": 9}}
    data = {"class_path": "datamodules.MixedCorpusData", "init_args": arguments}
    return yaml.safe_dump({**run, "data": data})


def test_weights_change_at_optimizer_steps_which_the_batch_makes_tokens_of(tmp_path):
    """10 blocks of 4 tokens a step: from step 25 on are 1000 tokens."""
    file = tmp_path / "mixture.yaml"
    file.write_text(
        "sources: {a: {tokens: 9}, b: {tokens: 9}}\nsequence_length: 4\nglobal_batch_size: 10\n"
        "weight_changes: {25: {b: 1}}"
    )
    mixture = read_mixture(str(file))
    assert mixture.weight_changes == {1000: {"b": 1.0}}
    assert mixture_plan(mixture, 2000)["b"].tokens == 1500


def test_a_stages_configuration_its_data_and_its_sources_are_the_same_plan(plan):
    sources = {"a": {"train": "no/such/*.jsonl", "val": "x", "weight": 1, "tokens": 100e9}}
    sources["b"] = {"train": ["y"], "text": "body", "weight": 3, "tokens": 50e9}
    changes = {1000: {"a": 1}}
    whole = plan(stage(sources=sources, weight_changes=changes), "1e12", "--json")
    assert whole[0] == 0
    bare = {"sources": sources, "weight_changes": changes}
    assert plan(yaml.safe_dump({"data": bare}), "1e12", "--json") == whole
    assert plan(yaml.safe_dump(bare), "1e12", "--json") == whole
    first = 1000 * 1024 * 32  # tokens until the change, with the data module's own defaults
    drawn = json.loads(whole[1])["sources"]["b"]["tokens"]
    assert drawn == pytest.approx(0.75 * first, rel=1e-12)


def test_sources_whose_tokens_nobody_has_counted_are_refused_by_name(plan):
    code, _, err = plan((CONFIGS / "pretrain.yaml").read_text(), "1e9")
    assert code == 2
    assert len(err) == 4
    assert err[0] == (
        "trivium: FILE: data.sources.english has no `tokens`: give its number of unique tokens, such as "
        "852.7e9"
    )


def test_no_argument_of_the_data_module_passes_for_a_slip_of_the_pen(plan):
    classes = (MixedCorpusData, TextDataModule)
    names = {name for cls in classes for name in inspect.signature(cls).parameters}
    assert set(KEYS) <= set(names)
    others = {name: 1 for name in names if name not in KEYS}
    sources = {"a": {"tokens": 9}}
    assert plan(stage(sources=sources, **others))[0] == 0
    assert (
        "no key `temprature`: did you mean `temperature`?" in plan(stage(sources=sources, temprature=1))[2][0]
    )


def test_a_mixture_is_planned_without_torch(tmp_path):
    (tmp_path / "x.yaml").write_text(stage(sources={"a": {"train": "x", "tokens": 9}}))
    code = (
        "import sys, experiments.cli.program as c\n"
        f"assert c.main('plan --mixture {tmp_path}/x.yaml --tokens 1e3'.split()) == 0\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {"torch", "lightning", "transformers", "datasets"}.isdisjoint(done.stderr.split())


def test_a_source_past_its_max_epochs_is_marked_and_refused_with_what_to_do(plan):
    """25.7 G twice is 51.4 G: 3.671 % of 1.4 T, which against the other sources' 95.5 is a weight of 3.639;
    or 4.5 % of 1.142 T."""
    text = llama().replace("tokens: 25.7e9", "tokens: 25.7e9, max_epochs: 2")
    code, out, err = plan(text, "1.4e12")
    assert code == 2
    assert cells(out)["Wikipedia"][-1] == "2.45 > 2"
    assert err == [
        "trivium: data.sources.Wikipedia would be seen 2.45 times, 0.451 more than its max_epochs 2: lower "
        "its weight from 4.5 to 3.63, or train on fewer tokens, --tokens 1.14e+12"
    ]
    assert (
        plan(text.replace("{weight: 4.5, tokens: 25.7e9", "{weight: 3.63, tokens: 25.7e9"), "1.4e12")[0] == 0
    )
    assert (
        plan(text.replace("{weight: 4.5, tokens: 25.7e9", "{weight: 3.65, tokens: 25.7e9"), "1.4e12")[0] == 2
    )
    assert plan(text, "1.14e+12")[0] == 0
    assert plan(text, "1.15e+12")[0] == 2


def test_with_json_the_refusal_leaves_stdout_to_the_json_and_every_source_has_its_line(plan):
    text = TWO.replace("e9}", "e9, max_epochs: 1}")
    code, out, err = plan(text, "1e12", "--json")
    assert code == 2
    assert list(json.loads(out)["sources"]) == ["a", "b"]
    assert ["sources.a" in err[0], "sources.b" in err[1], len(err)] == [True, True, 2]


def test_the_advice_holds_with_temperature_and_changes(plan):
    document = {
        "temperature": 0.5,
        "sources": {"a": {"weight": 2, "tokens": 400}, "b": {"tokens": 100, "max_epochs": 2}},
        "weight_changes": {"70": {"a": 1, "b": 2}},
        "sequence_length": 5,
        "global_batch_size": 2,
    }
    code, _, (line,) = plan(json.dumps(document), "1000")  # JSON is YAML too
    factor, budget = re.search(r"to (\S+) of what they are, or .* --tokens (\S+)", line).groups()
    assert code == 2
    assert plan(json.dumps(document), budget)[0] == 0
    document["sources"]["b"]["weight"] = float(factor)
    document["weight_changes"]["70"]["b"] = 2 * float(factor)
    assert plan(json.dumps(document), "1000")[0] == 0


def test_an_only_source_is_not_told_to_lower_its_weight(plan):
    code, _, (line,) = plan("sources: {a: {tokens: 100, max_epochs: 3}}", "1000")
    assert code == 2
    assert line.endswith("its max_epochs 3: train on fewer tokens, --tokens 300")


def test_max_epochs_met_exactly_is_no_refusal(plan):
    text = "sources: {a: {weight: 0.3, tokens: 100, max_epochs: 3}, b: {weight: 0.7, tokens: 100}}"
    assert plan(text, "1000")[0] == 0


@pytest.mark.parametrize("tokens", ["852.7e9", "'852.7e9'", "852.7e+9", "852700000000", "852_700_000_000"])
def test_unique_tokens_are_read_however_yaml_writes_them(plan, tokens):
    _, out, _ = plan(f"sources: {{a: {{tokens: {tokens}}}}}", "852.7e9", "--json")
    assert json.loads(out)["sources"]["a"]["epochs"] == 1.0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "FILE: no sources: give `sources:`"),
        ("sources: {}", "FILE: no sources: give `sources:`"),
        ("sources: [a, b]", "FILE: no sources: give `sources:`"),
        ("temperature: 1", "FILE: no sources: give `sources:`"),
        ("sorces: {a: {tokens: 9}}", "FILE: there is no key `sorces`: did you mean `sources`?"),
        ("sources: {a: 0.3}", "FILE: data.sources.a is 0.3: give a mapping"),
        (
            "sources: {a: {weight: 1}}",
            "FILE: data.sources.a has no `tokens`: give its number of unique tokens",
        ),
        ("sources: {a: {tokens: 0}}", "FILE: data.sources.a.tokens is 0: give a number of 1 or more"),
        ("sources: {a: {tokens: many}}", "FILE: data.sources.a.tokens is 'many': give a number of 1 or more"),
        ("sources: {a: {tokens: .inf}}", "FILE: data.sources.a.tokens is inf: give a number"),
        ("sources: {a: {tokens: true}}", "FILE: data.sources.a.tokens is True: give a number"),
        ("sources: {a: {tokens: [1]}}", "FILE: data.sources.a.tokens is [1]: give a number"),
        (
            "sources: {a: {tokens: 9, weight: -1}}",
            "FILE: data.sources.a.weight is -1: give a number of 0 or more",
        ),
        ("sources: {a: {tokens: 9, weight: .nan}}", "FILE: data.sources.a.weight is nan: give a number"),
        ("sources: {a: {tokens: 9, weight: 0}}", "FILE: data.sources.a.weight is 0.0: give a number above 0"),
        (
            "sources: {a: {tokens: 9, max_epochs: 0}}",
            "FILE: data.sources.a.max_epochs is 0: give a number above",
        ),
        ("sources: {a: {tokens: 9, wieght: 1}}", "no key `wieght`: did you mean `weight`?"),
        ("sources: {a: {tokens: 9, zzz: 1}}", "no key `zzz`: choose from train, weight, val, text"),
        ("sources: {no: {tokens: 9}}", "FILE: sources: the name False is not text: put it in quotes"),
        (TWO + "temprature: 1", "FILE: there is no key `temprature`: did you mean `temperature`?"),
        (TWO + "temperature: warm", "FILE: data.temperature is 'warm': give a number of 0 or more"),
        (TWO + "temperature: 999", "data.temperature is 999, too large"),
        (TWO + "temperature: -1", "FILE: data.temperature is -1: give a number of 0 or more"),
        (TWO + "changes: {5: {a: 1}}", "FILE: there is no key `changes`"),
        (TWO + "weight_change: {5: {a: 1}}", "no key `weight_change`: did you mean `weight_changes`?"),
        (TWO + "weight_changes: [3]", "FILE: data.weight_changes is [3]: give optimizer steps"),
        (TWO + "weight_changes: {5: 3}", "FILE: data.weight_changes.5 is 3: give {name: weight}"),
        (TWO + "weight_changes: {a: {a: 1}}", "FILE: data.weight_changes.a: give an optimizer step"),
        (
            TWO + "weight_changes: {5: {}}",
            "FILE: data.weight_changes.5: give weights of 0 or more, one of them",
        ),
        (TWO + "weight_changes: {0: {a: 1}}", "FILE: data.weight_changes.0: give an optimizer step after"),
        (
            TWO + "weight_changes: {5: {a: 0}}",
            "data.weight_changes.5: give weights of 0 or more, one of them",
        ),
        (TWO + "weight_changes: {5: {a: -1}}", "data.weight_changes.5.a is -1: give a number of 0 or more"),
        (TWO + "weight_changes: {5: {a: x}}", "data.weight_changes.5.a is 'x': give a number of 0 or more"),
        (
            TWO + "weight_changes: {5: {a: 1, c: 1}}",
            "FILE: data.weight_changes.5 names c, which is no source: choose from a, b",
        ),
        (TWO + "weight_changes: {5: {a: 1}, 5: {b: 1}}", "FILE, line 2: `5` is given twice"),
        (TWO + "sequence_length: 0", "FILE: data.sequence_length is 0: give a number of 1 or more, tokens"),
        (TWO + "global_batch_size: x", "FILE: data.global_batch_size is 'x': give a number of 1 or more"),
        ("sources:\n  a: {tokens: 9}\n  a: {tokens: 8}", "FILE, line 3: `a` is given twice"),
        ("sources: {a: {tokens: 9, tokens: 8}}", "FILE, line 1: `tokens` is given twice"),
        ("sources: {a: {tokens: 9}", "FILE, line 1: expected ',' or '}'"),
        ("sources: {a: !!python/name:os.system x}", "FILE, line 1: could not determine a constructor"),
        ("sources: {a: {tokens: 2024-99-99}}", "FILE is not YAML: month must be in 1..12"),
        ("a: \x07", "FILE is not YAML: unacceptable character"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(plan, text, line):
    code, out, err = plan(text)
    assert (code, out) == (2, "")
    (told,) = err
    assert told.startswith("trivium: ")
    assert line in told


def test_all_mistakes_of_a_file_are_told_together(plan):
    _, _, err = plan("temperature: x\nsources: {a: {tokens: 0}, b: {tokens: 9, weight: -1}}")
    assert len(err) == 3


@pytest.mark.parametrize("tokens", ["0", "-5", "many", "nan", "inf", ""])
def test_a_budget_that_is_no_number_of_tokens_is_one_line(plan, tokens):
    code, out, (line,) = plan(TWO, f"{tokens}")
    assert (code, out) == (2, "")
    assert line == f"trivium: --tokens is '{tokens}': give a number of 1 or more, such as 852.7e9"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "nothing to plan: give --mixture FILE and --tokens N"),
        (["--mixture", "x.yaml"], "--mixture needs a budget: give --tokens, such as --tokens 1.4e12"),
        (["--mixture", "nowhere.yaml", "--tokens", "9"], "--mixture: nowhere.yaml is not a file"),
        (["--mixture", ".", "--tokens", "9"], "--mixture: . is not a file"),
        (["--mixtur", "x"], "unrecognized arguments: --mixtur x: did you mean `--mixture`?"),
        (["--mixture"], "argument --mixture: expected one argument"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(arguments, line, capsys):
    assert main(["plan", *arguments]) == 2
    printed = capsys.readouterr()
    (told,) = printed.err.splitlines()
    assert printed.out == ""
    assert told.startswith(f"trivium: {line}")


def test_a_file_that_is_not_text_is_one_line(tmp_path, capsys):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    assert main(["plan", "--mixture", str(tmp_path / "x"), "--tokens", "9"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not UTF-8 text" in line


def test_the_helps_example_is_a_plan_within_its_limits(plan):
    """Wikipedia: 5 % of 1.3 T and 30 % of 0.1 T are 95 G, 3.70 times its 25.7 G."""
    assert yaml.safe_load(EXAMPLE)["weight_changes"]
    code, out, err = plan(EXAMPLE, "1.4e12")
    assert (code, err) == (0, [])
    assert cells(out)["wikipedia"] == ["6.8%", "25.7 G", "95 G", "3.70"]


def test_the_help_teaches_and_imports_nothing_heavy():
    code = (
        "import sys, experiments.cli.program as c\n"
        "try: c.main(['plan', '--help'])\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    heavy = {"torch", "lightning", "transformers", "datasets", "numpy", "wandb", "rich", "jsonargparse"}
    assert heavy.isdisjoint(done.stderr.split())
    assert done.stdout.startswith("usage: trivium plan")
    assert EXAMPLE in done.stdout
    assert "trivium plan --mixture mixture.yaml --tokens 1.4e12" in done.stdout


def test_a_network_that_cannot_be_built_is_refused_in_a_line(capsys):
    config = CONFIGS / "pretrain.yaml"
    bad = '--model.init_args.config={"model_type": "llama", "hidden_act": "sillu", "vocab_size": 300}'
    assert main(["plan", "--config", str(config), bad]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trivium: model.config: ")
    assert "sillu" in line
