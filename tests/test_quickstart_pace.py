"""The quickstart's steps follow from its minutes and the machine's pace."""

import json
import math

import pytest

from experiments.cli.program import main
from experiments.quickstart import run
from experiments.quickstart.collect import read_curves
from experiments.quickstart.pace import BUDGETS, EVALUATION, choose, fixed_steps, least_minutes, slowness

TAKES = {each.name: each.seconds for each in BUDGETS}


def curve(run, name):
    """A metric's values over all parts of a run."""
    return [value for _, value in read_curves(run)[name]]


def test_first_steps_that_are_timed_and_gone_on_from_are_those_of_the_whole_run(tiny_stages, capsys):
    """They end one step after the warm-up, where the learning rate does not yet know how many follow."""
    line = [*tiny_stages.stage("pretrain", run="whole"), "--model.init_args.warmup_steps=5"]
    line += ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=1"]
    assert main([*line, "--trainer.max_steps=14"]) == 0
    parts, file = tiny_stages.out / "parts", tiny_stages.out / "parts/pace.json"
    pace = {"class_path": "experiments.quickstart.pace.Pace", "init_args": {"file": str(file)}}
    first = [
        "--trainer.max_steps=6",
        "--trainer.limit_val_batches=0",
        f"--trainer.callbacks+={json.dumps(pace)}",
    ]
    assert main([*line, "--run", str(parts), *first]) == 0
    assert 0 < json.loads(file.read_text()) < 10
    assert main([*line, "--run", str(parts), "--trainer.max_steps=14", "--ckpt_path=last"]) == 0
    assert "14/14" in capsys.readouterr().out  # the bar counts on, in an epoch of 24
    losses = curve(parts, "train/loss")
    assert len(losses) == 14
    assert losses == curve(tiny_stages.out / "whole", "train/loss")


class Machine:
    """A machine on which steps take `slower` times what the budgets say, and later stages `later` times that:
    what the budgets foretell of them is wrong by so much."""

    def __init__(self, slower: float, later: float = 1.0):
        self.pace = {each.name: each.seconds * slower * (later if i else 1) for i, each in enumerate(BUDGETS)}
        self.slower = slower

    def run(self, minutes: float) -> tuple[dict[str, int], float]:
        """The steps of a quickstart, and the seconds that it takes in all."""
        clock, measured, steps = 15.0 * self.slower, {}, {}
        for budget in BUDGETS:
            pace = measured[budget.name] = self.pace[budget.name]
            clock += budget.first * pace
            steps[budget.name] = choose(budget, measured, 60 * minutes - clock)
            clock += (steps[budget.name] - budget.first) * pace + budget.fixed * self.slower
        return steps, clock + EVALUATION * self.slower


@pytest.mark.parametrize("minutes", [8, 10, 20])
@pytest.mark.parametrize("later", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("slower", [0.6, 1.0, 1.3])
def test_the_minutes_are_held_on_fast_and_slow_machines(slower, later, minutes):
    steps, seconds = Machine(slower, later).run(minutes)
    assert seconds == pytest.approx(60 * minutes, rel=0.15)
    assert all(steps[each.name] % each.unit == 0 for each in BUDGETS)


def test_a_machine_like_the_budgets_takes_their_steps_in_about_the_same_proportion():
    steps, _ = Machine(1.0).run(10)
    stretches = [steps[each.name] / each.steps for each in BUDGETS]
    assert max(stretches) / min(stretches) < 1.1


def test_ppo_takes_no_more_than_its_most_and_others_take_the_time():
    steps, seconds = Machine(0.5).run(15)
    assert steps["ppo"] == BUDGETS[-1].most
    assert seconds == pytest.approx(900, rel=0.15)


def test_the_least_minutes_are_those_in_which_every_stage_has_enough():
    machine = Machine(1.0)
    first = BUDGETS[0]
    least = least_minutes({"pretrain": TAKES["pretrain"]}, 15 + first.first * first.seconds)
    steps, _ = machine.run(math.ceil(least))
    # stretched alike, the stage that wants most of its steps decides
    assert all(steps[each.name] >= 0.85 * each.enough for each in BUDGETS)
    fewer, _ = machine.run(0.8 * least)
    assert any(fewer[each.name] < each.enough for each in BUDGETS)


def test_slowness_is_how_much_longer_steps_take():
    assert slowness({name: 3 * seconds for name, seconds in TAKES.items()}) == pytest.approx(3)
    assert slowness({"pretrain": 2 * TAKES["pretrain"]}) == pytest.approx(2)


def test_steps_are_taken_as_they_are_given():
    assert fixed_steps("640,320,300,200") == {"pretrain": 640, "sft": 320, "reward": 300, "ppo": 200}


@pytest.mark.parametrize("text", ["640", "640,320,300,201", "640,320,300,8", "a,b,c,d", ""])
def test_other_steps_are_refused_in_a_line(text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--steps", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"trivium: --steps is {text}: give four numbers, PPO's a multiple of 8")


@pytest.mark.parametrize(
    ("given", "slower", "taken"),
    [(None, 0.9, 10), (None, 1.5, 12), (None, 5.0, 20), (10.0, 1.5, 10), (3.0, 0.9, 3)],
)
def test_without_minutes_a_slower_machine_takes_what_its_bars_want_up_to_twenty(
    tmp_path, monkeypatch, given, slower, taken
):
    """Where the budgets were set, 429 × 0.23 + 240 × 0.31 + 225 × 0.36 + 152 × 0.53 + 48 + 82 = 465 s are to
    come after pretraining's first steps; what comes before takes no time here. 1.5 × 465 s = 11.6 minutes."""
    monkeypatch.chdir(tmp_path)
    run.FOLDER.mkdir(parents=True)
    monkeypatch.setattr(run, "train", lambda name, steps: None)
    monkeypatch.setattr(run, "measure", lambda budget: slower * budget.seconds)
    state = run.State.begin(given, {}, resume=False, overwrite=False)
    state.seconds.clear()  # this process has been there for longer
    for budget in BUDGETS:
        run.run_stage(budget, state)
    assert state.minutes == taken
