"""Parts of the GPU check on what comes after a run's first steps: going on from a checkpoint, averaged
weights, and replies that are written together."""

import json
import random
import time
from collections import defaultdict
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from experiments.benchmarks.gpu_data import LARGE, TINY, save_networks, write_data
from experiments.benchmarks.gpu_networks import wait
from experiments.benchmarks.gpu_report import Report
from experiments.benchmarks.gpu_stages import farthest, fit, fit_line, run_program
from experiments.chat.engine import Engine, Piece, Request, Settings
from experiments.evaluation.engine import Model

MIDDLE = {"pretrain": 10, "ppo": 8}
"""stage → the step at which its run is taken up again; all of a run are twice as many"""
CALLBACKS = "lightning.pytorch.callbacks."
AVERAGE = {"class_path": f"{CALLBACKS}EMAWeightAveraging", "init_args": {"decay": 0.8}}


def resume(report: Report) -> None:
    """A run that goes on from its middle, beside one that never stopped; and one that has no step left."""
    write_data(report.folder)
    for stage, middle in MIDDLE.items():
        name = f"{stage}: a run that goes on from its middle, loss against one that never stopped"
        with report.guarded(name):
            folder = str(report.folder / f"{stage}-middle")
            options: dict[str, Any] = {"dirpath": folder, "filename": "{step}", "save_top_k": -1}
            options["every_n_train_steps"] = middle
            half = [{"class_path": f"{CALLBACKS}ModelCheckpoint", "init_args": options}]
            more = [f"--trainer.max_steps={2 * middle}"]
            if stage == "ppo":  # its parents are random networks
                actor, reward = report.folder / "actor", report.folder / "reward"
                parents = {"model.init_args.actor": actor, "model.init_args.reward": reward}
                parents["data.init_args.tokenizer"] = actor
                more = [*more, *(f"--{key}={value}" for key, value in parents.items())]
            saving = [*more, f"--trainer.callbacks={json.dumps(half)}"]
            whole = fit(report, stage, report.device.type, "32-true", stage, saving)
            later = [*more, f"--ckpt_path={folder}/step={middle}.ckpt"]
            rest = fit(report, stage, report.device.type, "32-true", f"{stage}-later", later)
            report.at_most(name, farthest(rest, whole[len(whole) - len(rest) :]), 1e-4)
    with report.guarded("no step left"):
        last = report.folder / "pretrain-later/checkpoints/last.ckpt"
        line = fit_line(report, "pretrain", report.device.type, "32-true", "ended")
        run_program([*line, f"--trainer.max_steps={2 * MIDDLE['pretrain']}", f"--ckpt_path={last}"])
        same = exported(report, "ended").equal(exported(report, "pretrain-later"))
        name = "a run with no step left exports the weights"
        report.between(name, same, 1, 1, "the same" if same else "others")


def averages(report: Report) -> None:
    """The exponential mean of the weights of 20 steps, beside the CPU's."""
    write_data(report.folder)
    with report.guarded("averaged weights"):
        for run, device in (("expected", "cpu"), ("own", report.device.type)):
            fit(report, "pretrain", device, "32-true", run, [f"--trainer.callbacks={json.dumps([AVERAGE])}"])
        expected, own = exported(report, "expected"), exported(report, "own")
        gap = float((own - expected).norm() / expected.norm())
        report.at_most("EMA of the weights against the CPU's, relative", gap, 1e-3)


def exported(report: Report, run: str) -> Tensor:
    """All weights that a run has exported, in one vector."""
    parts = load_file(report.folder / run / "export/model.safetensors")
    return torch.cat([parts[name].flatten().float() for name in sorted(parts)])


def replies(report: Report) -> None:
    """Replies written together, each beside the same alone, and tokens a second."""
    write_data(report.folder)
    config = TINY if report.tiny else LARGE["135 M"]
    directory, _ = save_networks(config, report.folder / "tokenizer", report.folder)
    rng, length = random.Random(0), 8 if report.tiny else 64
    with report.guarded("replies"):
        model = Model.load(directory, "model")
        prompts = [[rng.randrange(3, 300) for _ in range(rng.randint(4, 64))] for _ in range(32)]
        together, seconds = written(report, model, prompts, length)
        alone = [written(report, model, [prompt], length)[0][0] for prompt in prompts[:2]]
        same = sum(a == b for a, b in zip(alone, together, strict=False)) / len(alone)
        report.between("greedy replies that are the same alone", same, 1, 1, f"{same:.0%}")
        tokens = sum(map(len, together))
        report.add(f"replies, {len(prompts)} together", f"{tokens / seconds:,.0f} tokens/s", tokens / seconds)


def written(
    report: Report, model: Model, prompts: list[list[int]], length: int
) -> tuple[list[list[int]], float]:
    """The tokens of greedy replies that are written together, and the seconds it took."""
    tokens: dict[int, list[int]] = defaultdict(list)

    def tell(place: int, piece: Piece) -> None:
        tokens[place] += [each.token for each in piece.tokens]

    engine, settings = Engine(), Settings(length, temperature=0, top_logprobs=0)
    requests = [
        Request(model, prompt, settings, tell=partial(tell, place)) for place, prompt in enumerate(prompts)
    ]
    wait(report)
    start = time.perf_counter()
    engine.submit(requests)
    while engine.busy:
        engine.advance()
    wait(report)
    return [tokens[place] for place in range(len(prompts))], time.perf_counter() - start
