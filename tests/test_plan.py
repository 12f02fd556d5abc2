"""`trivium plan --mixture`: published epochs, hand-computed phases and temperatures, refusals, advice."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from datamodules.sampling.mixture_schedule import MixtureSchedule
from experiments.cli.program import main
from experiments.plan.mixture import mixture_plan
from experiments.plan.mixture_file import EXAMPLE, Change, Source
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
    found = json.loads(out)["sources"]
    assert list(found) == list(LLAMA)
    assert {name: round(each["epochs"], 2) for name, each in found.items()} == {
        name: epochs for name, (_, _, epochs) in LLAMA.items()
    }
    for name, (weight, _, _) in LLAMA.items():
        assert found[name]["share"] == pytest.approx(weight / 100, rel=1e-12)
        assert found[name]["tokens"] == pytest.approx(weight * 14 * G, rel=1e-12)


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
    sources = {"large": Source(400, 2), "small": Source(100, 2)}
    found = mixture_plan(sources, 1000, temperature)
    assert [each.share for each in found.values()] == pytest.approx(shares, rel=1e-12)


def test_a_weight_not_given_is_one_and_temperature_multiplies_those_given(plan):
    """3·√100 : 1·√400 = 30 : 20."""
    text = "temperature: 0.5\nsources: {a: {weight: 3, tokens: 100}, b: {tokens: 400}}"
    _, out, _ = plan(text, "1000", "--json")
    found = json.loads(out)["sources"]
    assert [found[name]["tokens"] for name in "ab"] == pytest.approx([600, 400])


def test_changes_hold_from_their_number_of_tokens_on():
    """1 : 3 for 400 tokens gives 100 and 300; then a alone for 400: 500 and 300; then b alone for 200."""
    sources = {"a": Source(250, 1), "b": Source(1000, 3)}
    changes = [Change(800, {"b": 5}), Change(400, {"a": 7})]  # in any order
    found = mixture_plan(sources, 1000, changes=changes)
    assert [each.tokens for each in found.values()] == [500, 500]
    assert [each.share for each in found.values()] == [0.5, 0.5]
    assert [each.epochs for each in found.values()] == [2.0, 0.5]
    assert found["a"].second_epoch == 550  # 400 + the 150 that are missing, all from a
    assert found["b"].second_epoch == 1500  # 800 + the 700 that are missing


def test_a_source_that_is_dropped_before_it_is_through_has_no_second_epoch():
    sources = {"a": Source(1000), "b": Source(10)}
    assert mixture_plan(sources, 1000, changes=[Change(400, {"b": 1})])["a"].second_epoch is None


def test_temperature_holds_in_changes_too():
    """√400 : √100 = 2 : 1 throughout, as the weights are alike in both phases."""
    sources = {"a": Source(400), "b": Source(100)}
    found = mixture_plan(sources, 900, 0.5, [Change(300, {"a": 5, "b": 5})])
    assert [each.tokens for each in found.values()] == pytest.approx([600, 300])


def test_the_plan_is_what_the_data_modules_schedule_draws_within_a_block():
    weights, later, blocks, block = [0.61, 0.3, 0.09], [0.1, 0.2, 0.7], 5000, 1000
    names = ["a", "b", "c"]
    sources = {name: Source(10**6, weight) for name, weight in zip(names, weights, strict=True)}
    changes = [Change(3700 * block, dict(zip(names, later, strict=True)))]
    drawn = MixtureSchedule(weights, {3700: later}).drawn(blocks)
    found = mixture_plan(sources, blocks * block, changes=changes)
    for each, count in zip(found.values(), drawn, strict=True):
        assert abs(each.tokens / block - count) < 1


def test_a_source_past_its_max_epochs_is_marked_and_refused_with_what_to_do(plan):
    """25.7 G twice is 51.4 G: 3.671 % of 1.4 T, which against the other sources' 95.5 is a weight of 3.639;
    or 4.5 % of 1.142 T."""
    text = llama().replace("tokens: 25.7e9", "tokens: 25.7e9, max_epochs: 2")
    code, out, err = plan(text, "1.4e12")
    assert code == 2
    assert cells(out)["Wikipedia"][-1] == "2.45 > 2"
    assert err == [
        "trivium: sources.Wikipedia would be seen 2.45 times, 0.451 more than its max_epochs 2: lower its "
        "weight from 4.5 to 3.63, or train on fewer tokens, --tokens 1.14e+12"
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
        "changes": [{"after_tokens": 700, "weights": {"a": 1, "b": 2}}],
    }
    code, _, (line,) = plan(json.dumps(document), "1000")  # JSON is YAML too
    factor, budget = re.search(r"to (\S+) of what they are, or .* --tokens (\S+)", line).groups()
    assert code == 2
    assert plan(json.dumps(document), budget)[0] == 0
    document["sources"]["b"]["weight"] = float(factor)
    document["changes"][0]["weights"]["b"] = 2 * float(factor)
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
        ("sources: {a: 0.3}", "FILE: sources.a is 0.3: give a mapping"),
        ("sources: {a: {weight: 1}}", "FILE: sources.a has no `tokens`: give its number of unique tokens"),
        ("sources: {a: {tokens: 0}}", "FILE: sources.a.tokens is 0: give a number of 1 or more"),
        ("sources: {a: {tokens: many}}", "FILE: sources.a.tokens is 'many': give a number of 1 or more"),
        ("sources: {a: {tokens: .inf}}", "FILE: sources.a.tokens is inf: give a number"),
        ("sources: {a: {tokens: true}}", "FILE: sources.a.tokens is True: give a number"),
        ("sources: {a: {tokens: [1]}}", "FILE: sources.a.tokens is [1]: give a number"),
        ("sources: {a: {tokens: 9, weight: -1}}", "FILE: sources.a.weight is -1: give a number of 0 or more"),
        ("sources: {a: {tokens: 9, weight: .nan}}", "FILE: sources.a.weight is nan: give a number"),
        ("sources: {a: {tokens: 9, weight: 0}}", "FILE: sources: every weight is 0"),
        ("sources: {a: {tokens: 9, max_epochs: 0}}", "FILE: sources.a.max_epochs is 0: give a number above"),
        ("sources: {a: {tokens: 9, wieght: 1}}", "no key `wieght`: did you mean `weight`?"),
        ("sources: {a: {tokens: 9, zzz: 1}}", "no key `zzz`: choose from tokens, weight, max_epochs"),
        ("sources: {no: {tokens: 9}}", "FILE: sources: the name False is not text: put it in quotes"),
        (TWO + "temprature: 1", "FILE: there is no key `temprature`: did you mean `temperature`?"),
        (TWO + "temperature: warm", "FILE: temperature is 'warm': give a number of 0 or more"),
        (TWO + "temperature: 999", "temperature is 999, too large"),
        (TWO + "changes: {a: 1}", "FILE: changes is {'a': 1}: give a list"),
        (TWO + "changes: [3]", "FILE: changes[0] is 3: give {after_tokens: 1e12, weights:"),
        (TWO + "changes: [{weights: {a: 1}}]", "FILE: changes[0] has no `after_tokens`"),
        (TWO + "changes: [{after_tokens: 5}]", "FILE: changes[0] has no `weights`"),
        (TWO + "changes: [{after_tokens: 0, weights: {a: 1}}]", "FILE: changes[0].after_tokens is 0: give"),
        (TWO + "changes: [{after_tokens: 5, weights: {a: 0}}]", "changes[0].weights: every weight is 0"),
        (TWO + "changes: [{after_tokens: 5, weights: {a: -1}}]", "changes[0].weights.a is -1: give a number"),
        (
            TWO + "changes: [{after_tokens: 5, weights: {a: 1, c: 1}}]",
            "FILE: changes[0].weights: there is no source `c`: choose from a, b",
        ),
        (
            TWO + "changes: [{after_tokens: 5, weights: {a: 1}}, {after_tokens: 5.0, weights: {b: 1}}]",
            "FILE: changes[1].after_tokens is 5 again",
        ),
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
    assert yaml.safe_load(EXAMPLE)["changes"]
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
