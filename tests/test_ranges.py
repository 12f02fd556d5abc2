"""Numbers out of range, keys that stand twice, metrics nobody logs, rows that a user's code fails on."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from datamodules import InstructionData, InstructionTemplate, MixedCorpusData, Source
from experiments.callbacks.monitors import monitor_errors
from experiments.cli.config_files import check_config_files
from experiments.cli.option_errors import option_errors
from modules import CausalLM
from modules.clipping import clip_to_norm
from modules.optim import endless_run_errors, optimizer_errors
from modules.ppo import PPOModule
from modules.ppo_checks import argument_errors


@pytest.mark.parametrize("limit", [None, 0, -1.0])
def test_a_clip_of_zero_or_less_is_none_and_turns_no_gradient_round(limit):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, -4.0])
    assert clip_to_norm(torch.optim.SGD([weight], lr=1), limit) == 5
    assert weight.grad.tolist() == [3, -4]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("gamma", x) for x in (-0.1, 1.1, float("nan"))],
        *[("gae_lambda", 2.0), ("clip_eps", 0.0), ("value_clip_eps", -1.0), ("kl_target", 0.0)],
        *[("temperature", 0.0), ("temperature", float("inf")), ("seed", -1), ("kl_coef", float("nan"))],
        *[("max_grad_norm", float("nan")), ("epochs", 0), ("kl_horizon", 0), ("score_clip", -1.0)],
    ],
)
def test_an_argument_of_ppo_out_of_its_range_is_refused_by_name(name, value):
    (line,) = argument_errors(PPOModule(actor="a", reward="r", **{name: value}), max_steps=-1)
    assert line.startswith(f"model.{name} is {value}: give ")


def test_ppos_defaults_and_a_clip_that_is_off_are_in_range():
    assert argument_errors(PPOModule(actor="a", reward="r", max_grad_norm=-1.0), max_steps=32) == []


@pytest.mark.parametrize("value", [0, -1, -0.5])
def test_a_clip_that_is_off_is_no_mistake(value):
    assert option_errors({"trainer": {"gradient_clip_val": value}}) == []


def test_steps_that_cut_an_iteration_of_ppo_are_refused_with_the_next_number():
    (line,) = argument_errors(PPOModule(actor="a", reward="r"), max_steps=17)  # 4 epochs × 4 minibatches
    assert line.startswith("trainer.max_steps is 17, no multiple of the 16 optimizer steps")
    assert line.endswith("give 32")


def test_a_falling_rate_without_a_last_step_is_refused_and_a_constant_one_is_not():
    assert endless_run_errors(-1, -1, 0.1) != []
    assert (
        endless_run_errors(-1, -1, 1.0)
        == endless_run_errors(8, -1, 0.1)
        == endless_run_errors(-1, 2, 0.1)
        == []
    )


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
def test_an_optimizer_that_cannot_step_here_is_refused_before_anything_is_built(name):
    (line,) = optimizer_errors(lambda groups: getattr(torch.optim, name)(groups, lr=1e-3), {})
    assert line.startswith("model.optimizer: ")
    assert name in line


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"seed_everything": -1}, "seed_everything is -1"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes is nan"),
        ({"trainer": {"val_check_interval": 0}}, "trainer.val_check_interval is 0"),
        ({"trainer": {"gradient_clip_val": float("nan")}}, "trainer.gradient_clip_val is nan"),
        ({"trainer": {"devices": "0"}}, "trainer.devices is 0: give 1 or more"),
        ({"trainer": {"check_val_every_n_epoch": 0}}, "trainer.check_val_every_n_epoch is 0"),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(options, field):
    (line,) = option_errors(options)
    assert line.startswith(field)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"run: a\ntrainer: {max_steps: 1}\nrun: b\n", ":3: `run` is there twice, in line 1 too"),
        (
            b"trainer:\n  max_steps: 1\n  max_steps: 2\n",
            ":3: `trainer.max_steps` is there twice, in line 2 too",
        ),
        (b"trainer:\n\tmax_steps: 1\n", ":2 is not YAML: a tab indents it: use spaces"),
        (b"- a\n- b\n", " holds no keys with values at its top"),
        (b"", " is empty"),
        (b"run: \xff\n", " is not UTF-8 (byte 5)"),
    ],
)
def test_a_yaml_that_the_parser_would_take_otherwise_is_refused_by_its_line(tmp_path, text, says):
    file = tmp_path / "mine.yaml"
    file.write_bytes(text)
    with pytest.raises(ValueError, match="mine.yaml") as refusal:
        check_config_files(["fit", "--config", str(file)])
    assert says in str(refusal.value)


def test_anchors_and_merged_keys_are_no_keys_that_stand_twice(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: *a\n")
    assert check_config_files(["fit", f"--config={file}"]) is None  # no refusal


def test_a_metric_that_is_never_logged_is_refused_with_the_nearest():
    (line,) = monitor_errors([EarlyStopping("val/los")], CausalLM.logs, validates=True)
    assert line.endswith("monitor `val/los` is never logged: did you mean `val/loss`?")
    assert monitor_errors([EarlyStopping("val/loss/english")], CausalLM.logs, validates=True) == []
    (line,) = monitor_errors([EarlyStopping("val/loss")], CausalLM.logs, validates=False)
    assert line.endswith("is logged by validation, and this run has none")


def body(row):
    return row["meta"]["body"]


class Failing(InstructionTemplate):
    """Fails on the second row."""

    def __repr__(self):
        return "Failing"

    def prompt(self, row, number, tokenizer):
        return super().prompt(row, number, tokenizer) if number != 1 else 1 / 0


def test_what_a_users_code_raises_on_a_row_is_told_with_its_place_and_skipped(tiny_tokenizer, tmp_path, rows):
    texts = rows(tmp_path / "t.jsonl", [{"meta": {"body": "good " * 20}}, {"meta": {}}])
    pairs = rows(tmp_path / "p.jsonl", [{"instruction": "a", "output": "b"}] * 3)

    def corpus(on_bad_row):
        source = Source(texts, text=body)
        options = {"sequence_length": 8, "on_bad_row": on_bad_row, "max_dropped": 1}
        return MixedCorpusData({"a": source}, tiny_tokenizer, **options)

    def instructions(on_bad_row):
        return InstructionData(
            pairs, tiny_tokenizer, template=Failing(), on_bad_row=on_bad_row, max_dropped=1
        )

    for make, place in (
        (corpus, f"{texts}:2: KeyError: 'body'"),
        (instructions, f"{pairs}:2: ZeroDivisionError"),
    ):
        with pytest.raises(ValueError, match="on_bad_row|Error") as refusal:
            make("error").read()
        assert place in str(refusal.value)
        assert len(make("skip").read()["train"]) >= 1
