"""Runs of the four stages under four strategies, small enough that hundreds of them can be killed, and
whether one that was killed has lost anything."""

import csv
import json
import random
import signal
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.leg import Leg
from tests.faults.moments import COMPUTING, Moment, Watch, told
from tests.ranks import zero

STAGES = ("pretrain", "sft", "reward", "ppo")
STRATEGIES = ("one", "ddp", "fsdp", "zero2")
NETWORK = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
STEPS = 8
# a checkpoint every two minutes of a clock on which every look is a minute later
COMMON = {"trainer.max_steps": STEPS, "trainer.log_every_n_steps": 1, "checkpoint_minutes": 2}
COMMON |= {"trainer.limit_val_batches": 2, "trainer.accelerator": "cpu", "trainer.enable_progress_bar": False}
COMMON |= {"trainer.enable_model_summary": False, "data.init_args.eval_batch_size": 4}
# 4 rows a step in micro-batches of 2: on one process a step accumulates, on two it does not
LEARNING = {"data.init_args.global_batch_size": 4, "data.init_args.micro_batch_size": 2}
LEARNING |= {"model.init_args.warmup_steps": 2}
# 8 prompts an iteration of 1 epoch × 2 minibatches: 4 iterations
PPO = {"data.init_args.global_batch_size": 8, "model.init_args.max_new_tokens": 4}
PPO |= {"model.init_args.epochs": 1, "model.init_args.minibatches": 2, "model.init_args.micro_batch_size": 2}
PPO |= {"model.init_args.kl_target": 0.5, "model.init_args.kl_horizon": 64, "trainer.val_check_interval": 2}
OF_THE_MACHINE = ("train/tokens_per_second",)  # no two runs have the same
PHASES = {  # how many of a dozen moments each phase has
    **{"training": 2, "validating": 2, "saving": 4, "bytes of a checkpoint": 1, "pruning": 1},
    **{"exporting": 1, "bytes of the export": 1},
}
PPO_PHASES = PHASES | {"training": 1, "validating": 1, "sampling": 2}


class Death(NamedTuple):
    """Of one rank; its neighbours die with it, as on a machine that fails, or find it out."""

    rank: int
    moment: Moment
    together: bool = True


class Outcome(NamedTuple):
    """Of a run that was killed and went on."""

    lost: int  # steps beyond those since the last checkpoint
    problems: list[str]  # what is not as in the undisturbed run


class Runs:
    """Command lines of runs in a folder, and the processes that run them."""

    def __init__(self, folder: Path, lines: Any):
        self.folder, self.lines = folder, lines
        self.whole: dict[tuple[str, str], Path] = {}  # the logs of undisturbed runs

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def line(self, stage: str, strategy: str, name: str) -> list[str]:
        """`trivium fit …` of a stage that starts from the undisturbed runs of one process."""
        options: dict[str, Any] = COMMON | (PPO if stage == "ppo" else LEARNING)
        if stage != "ppo":  # three times in eight steps
            options |= {"trainer.val_check_interval": 3 * (2 if strategy == "one" else 1)}
        if stage == "pretrain":
            options |= {"model.init_args.config": json.dumps(NETWORK)}
        line = self.lines.stage(stage, run=name) + [f"--{key}={value}" for key, value in options.items()]
        if strategy == "zero2":
            line += zero(2)
        elif strategy != "one":
            line += ["--trainer.devices=2", f"--trainer.strategy=strategies.{strategy}"]
        return line

    def start(
        self,
        stage: str,
        strategy: str,
        name: str,
        leg: str,
        *more: str,
        moments: Mapping[int, Moment] | None = None,
        counts: bool = False,
        watch: type[Watch] = Watch,
    ) -> Leg:
        """Begins a leg of a run, in which ranks may have moments."""
        folder = self.folder / "legs" / name / leg
        watches = [
            watch(self.run(name), folder / f"{rank}.log", (moments or {}).get(rank), counts)
            for rank in range(ranks_of(strategy))
        ]
        return Leg(folder, [*self.line(stage, strategy, name), *more], watches)

    def undisturbed(self, stage: str, strategy: str) -> Path:
        """The logs of a run that nothing happens to; its parents' runs are made first."""
        if (stage, strategy) not in self.whole:
            for parent in STAGES[: STAGES.index(stage)] if strategy != "one" else ():
                self.undisturbed(parent, "one")
            if strategy == "one" and stage != STAGES[0]:
                self.undisturbed(STAGES[STAGES.index(stage) - 1], "one")
            leg = self.start(stage, strategy, name_of(stage, strategy), "whole", counts=True)
            assert set(leg.wait()) == {0}, leg.errors
            self.whole[stage, strategy] = leg.folder
        return self.whole[stage, strategy]

    def deaths(self, stage: str, strategy: str) -> list[Death]:
        """A dozen of them, each in another moment; the same ones every time."""
        logs = sorted(self.undisturbed(stage, strategy).glob("*.log"))
        run = self.run(name_of(stage, strategy))
        rng = random.Random(f"{stage} {strategy}")
        deaths = []
        for phase, number in (PPO_PHASES if stage == "ppo" else PHASES).items():
            for moment_rank, moment in (_draw(rng, phase, logs, run, i) for i in range(number)):
                deaths.append(Death(moment_rank, moment))
        alone = {0, 5} if strategy != "one" else set()  # in training, in saving: the neighbour finds it out
        return [death._replace(together=number not in alone) for number, death in enumerate(deaths)]

    def killed(self, stage: str, strategy: str, death: Death, name: str) -> Outcome:
        """Kills a run and lets it go on by the documented command."""
        self.undisturbed(stage, strategy)
        moments = {death.rank: death.moment}
        leg = self.start(stage, strategy, name, "killed", moments=moments)
        codes = leg.wait(death.together)
        if codes[death.rank] not in (-signal.SIGKILL, -signal.SIGXFSZ):
            return Outcome(0, [f"the moment never came: exit codes {codes}: {leg.errors[-500:]}"])
        whole = self.run(name_of(stage, strategy))
        problems = _export_problems(self.run(name), whole, may_lack=True)
        saved = max(told(leg.folder / "0.log", "saved"), default=0)
        outcome = self.goes_on(stage, strategy, name, saved)
        return outcome._replace(problems=problems + outcome.problems)

    def goes_on(self, stage: str, strategy: str, name: str, saved: int) -> Outcome:
        """Lets a run that had saved so many steps go on to its end, and compares it with the undisturbed."""
        leg = self.start(stage, strategy, name, "goes_on", "--ckpt_path=newest")
        codes = leg.wait()
        if set(codes) == {2} and not saved and len(leg.told) == 1:  # nothing was saved: it begins again
            leg = self.start(stage, strategy, name, "again", "--overwrite=true")
            codes = leg.wait()
        if set(codes) != {0}:
            return Outcome(STEPS, [f"cannot go on: exit codes {codes}: {leg.errors[-1500:]}"])
        lost = max(0, saved - max(told(leg.folder / "0.log", "begins")))
        return Outcome(lost, self.compare(stage, strategy, name))

    def compare(self, stage: str, strategy: str, name: str) -> list[str]:
        """What is not in a finished run as in the undisturbed one, bit for bit."""
        run, whole = self.run(name), self.run(name_of(stage, strategy))
        return _curve_problems(run, whole) + _export_problems(run, whole) + _file_problems(run, whole)


def ranks_of(strategy: str) -> int:
    return 1 if strategy == "one" else 2


def name_of(stage: str, strategy: str) -> str:
    """Of an undisturbed run; that of one process is the next stage's parent."""
    return stage if strategy == "one" else f"{stage}_{strategy}"


def _draw(rng: random.Random, phase: str, logs: Sequence[Path], run: Path, number: int) -> tuple[int, Moment]:
    """A moment of a phase, and the rank that dies then."""
    if phase.startswith("bytes"):
        export = phase == "bytes of the export"
        files = (run / ("export" if export else "checkpoints")).rglob("*")
        size = max(file.stat().st_size for file in files if file.is_file())
        savings = len(told(logs[0], "saved"))
        return 0, Moment("bytes", -1 if export else rng.randint(1, savings), rng.randint(1, size - 1))
    if phase in COMPUTING:
        rank = rng.randrange(len(logs))
        (counts,) = told(logs[rank], "counts")
        # a few calls depend on the clock and on the memory
        return rank, Moment(phase, rng.randint(1, int(0.98 * counts[phase])))
    kinds = defaultdict(list)
    for rank, log in enumerate(logs):
        (files,) = told(log, "files")
        own = [kind for of, kind in files if of == phase]
        for place, kind in enumerate(own, start=1):
            kinds[kind].append((rank, Moment(phase, place)))
    # renames first: what lies before and after them is what a folder must survive
    names = sorted(kinds, key=lambda kind: (not kind.startswith("os.rename"), rng.random()))
    return rng.choice(kinds[names[number % len(names)]])


def _curves(run: Path) -> dict[tuple[str, str], set[str]]:
    """Metric and step → what the legs of a run have written, digit for digit."""
    values = defaultdict(set)
    for file in sorted(run.glob("metrics/version_*/metrics.csv")):
        with file.open() as rows:
            for row in csv.DictReader(rows):
                for name, value in row.items():
                    if value and name != "step" and name not in OF_THE_MACHINE:
                        values[name, row["step"]].add(value)
    return values


def _curve_problems(run: Path, whole: Path) -> list[str]:
    own, expected = _curves(run), _curves(whole)
    problems = [f"{name} of step {step} is not written" for name, step in expected if (name, step) not in own]
    for place, values in own.items():
        if values != expected.get(place):
            problems.append(f"{place[0]} of step {place[1]}: {values}, not {expected.get(place)}")
    return problems


def _export_problems(run: Path, whole: Path, may_lack: bool = False) -> list[str]:
    if may_lack and not (run / "export").exists():
        return []
    own, expected = _tree(run / "export"), _tree(whole / "export")
    if own.keys() != expected.keys():
        return [f"export: {sorted(own.keys() ^ expected.keys())} are missing or too many"]
    return [f"export/{name} differs" for name in own if own[name] != expected[name]]


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _file_problems(run: Path, whole: Path) -> list[str]:
    """Files that an undisturbed run does not have, or lacks; every start has metrics of its own."""
    names = [
        {
            str(file.relative_to(folder))
            for file in folder.rglob("*")
            if "metrics" not in file.relative_to(folder).parts[:1]
        }
        for folder in (run, whole)
    ]
    return [f"{name} is missing or too many" for name in sorted(names[0] ^ names[1])]
