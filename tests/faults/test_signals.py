"""SIGTERM to any rank, in training, validation or rollout: all ranks save together and end with exit code
143; the run goes on bit for bit."""

import signal

import pytest

from tests.faults.moments import COMPUTING, Moment, told

CASES = [
    ("ppo", "one", "sampling", (0,)),
    ("sft", "ddp", "validating", (0, 1)),
    ("sft", "ddp", "training", (1,)),
    ("reward", "fsdp", "training", (0,)),
    ("pretrain", "zero2", "training", (1,)),
    ("ppo", "ddp", "sampling", (1,)),
]
SHORT = 3  # of them; `make faults` tries all
PARAMETERS = [*CASES[:SHORT], *(pytest.param(*case, marks=pytest.mark.long) for case in CASES[SHORT:])]


@pytest.mark.parametrize(("stage", "strategy", "phase", "struck"), PARAMETERS)
def test_a_run_that_is_told_to_end_saves_and_goes_on_bit_for_bit(runs, stage, strategy, phase, struck):
    assert phase in COMPUTING
    name = f"{stage}_{strategy}_{phase}_terminated"
    (counts,) = told(runs.undisturbed(stage, strategy) / "0.log", "counts")
    moment = Moment(phase, counts[phase] // 3, signal=signal.SIGTERM)
    leg = runs.start(stage, strategy, name, "terminated", moments=dict.fromkeys(struck, moment))
    codes = leg.wait()
    assert codes == [128 + signal.SIGTERM] * len(codes), leg.errors
    saved = told(leg.folder / "0.log", "saved")
    assert f"Ended by SIGTERM at step {saved[-1]}; a checkpoint was saved" in leg.errors
    assert "Traceback" not in leg.errors
    assert not (runs.run(name) / "export").exists()
    assert runs.goes_on(stage, strategy, name, saved=saved[-1]) == (0, [])
