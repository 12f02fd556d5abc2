"""A rank that is killed at any moment costs no more than what came after the last checkpoint: the run goes
on by `--ckpt_path newest` to the same losses and weights, bit for bit, and leaves nothing half-written.

Here a few moments of each phase; `make faults` has a dozen for every stage under every strategy.
"""

import signal

import pytest

import modules.ppo as ppo
from tests.faults.moments import Moment, Watch, told
from tests.faults.runs import STAGES, STRATEGIES, Death

DOZEN = 12
SHORT = {
    ("pretrain", "one"): (4,),
    ("sft", "one"): (8,),
    ("reward", "one"): (9,),
    ("ppo", "one"): (5,),
    ("pretrain", "zero2"): (4,),
}


def pytest_generate_tests(metafunc):
    if "number" not in metafunc.fixturenames:
        return
    every = metafunc.config.getoption("--every-moment", default=False)
    cells = (
        {(stage, strategy): range(DOZEN) for stage in STAGES for strategy in STRATEGIES} if every else SHORT
    )
    moments = [(*cell, number) for cell, numbers in cells.items() for number in numbers]
    metafunc.parametrize(("stage", "strategy", "number"), moments)


def test_a_killed_run_goes_on_bit_for_bit(runs, outcomes, stage, strategy, number):
    deaths = runs.deaths(stage, strategy)
    assert len(deaths) == DOZEN
    outcome = runs.killed(stage, strategy, deaths[number], f"{stage}_{strategy}_{number}")
    outcomes[stage, strategy].append(outcome)
    assert outcome.lost == 0, deaths[number]
    assert not outcome.problems, f"{deaths[number]}: {outcome.problems}"


def test_a_run_killed_in_its_last_validation_still_validates(runs):
    """PPO saves and validates after its last iteration here: no step is left when it goes on."""
    (counts,) = told(runs.undisturbed("ppo", "one") / "0.log", "counts")
    death = Death(0, Moment("validating", int(0.9 * counts["validating"])))
    assert runs.killed("ppo", "one", death, "ppo_last_validation") == (0, [])


class WatchesUpdates(Watch):
    """Counts PPO's optimizer steps too, each where it is over."""

    def __call__(self):
        super().__call__()
        self._within(ppo.PPOModule, "update", "training", after=lambda stage: self._happens("update"))


@pytest.mark.parametrize(
    ("struck", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 1), (signal.SIGTERM, 143)]
)
def test_an_iteration_that_is_broken_off_between_its_updates_is_made_again(runs, struck, code):
    """PPO's third iteration has taken the first of its two steps."""
    runs.undisturbed("ppo", "one")
    name, moment = f"ppo_{struck.name}_between_updates", Moment("update", 5, signal=struck)
    leg = runs.start("ppo", "one", name, "struck", moments={0: moment}, watch=WatchesUpdates)
    assert leg.wait() == [code], leg.errors
    assert "Traceback" not in leg.errors
    saved = told(leg.folder / "0.log", "saved")
    # no step is saved amid an iteration; SIGTERM is heard at its end
    assert set(saved) <= {2, 4, 6}
    assert (saved[-1] == 6) == (struck is signal.SIGTERM)
    assert runs.goes_on("ppo", "one", name, saved=saved[-1]) == (0, [])
