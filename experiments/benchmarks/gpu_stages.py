"""Parts of the GPU check that run stages through the program's own command line: losses beside the CPU's,
strategies, memory beside the plan's, and where PPO's time goes."""

import contextlib
import csv
import gc
import importlib.util
import io
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.gpu_data import LARGE, SMALL, TINY, save_networks, write_data
from experiments.benchmarks.gpu_report import Report
from experiments.cli.program import main as program
from experiments.cli.user_errors import REPORT
from experiments.plan.config import read_run
from experiments.plan.estimate import estimate_memory
from modules import PPOModule

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CURVES = {"pretrain": "train/loss", "sft": "train/loss", "reward": "train/loss", "ppo": "ppo/entropy"}
"""stage → what is compared step by step; PPO's loss is 0 at first, so the mean −log p of what it samples"""
TOLERANCES = {"32-true": 1e-4, "bf16-mixed": 1e-2}


def stages(report: Report) -> None:
    """Twenty steps of each stage in fp32 and bf16, beside the same run on the CPU in fp32."""
    write_data(report.folder)
    for stage in CURVES:
        with report.guarded(f"{stage} on the CPU"):
            expected = fit(report, stage, "cpu", "32-true", run=stage)
        for precision, tolerance in TOLERANCES.items():
            name = f"{stage} {precision}, {CURVES[stage]} against the CPU's"
            with report.guarded(name):
                curve = fit(report, stage, report.device.type, precision, run=f"{stage}-{precision}")
                # in bf16 PPO samples other tokens now and then, and goes on from them
                samples = stage == "ppo" and precision != "32-true"
                report.at_most(name, farthest(curve, expected), tolerance * (5 if samples else 1))


def strategies(report: Report) -> None:
    """Strategies of several ranks, on one, beside none; of DeepSpeed's, one that offloads too."""
    write_data(report.folder)
    given: dict[str, tuple[str, dict[str, Any]]] = {
        "DDP": ("ddp", {}),
        "FSDP2": ("fsdp", {}),
        "FSDP2, cpu_offload": ("fsdp", {"cpu_offload": True}),
        "ZeRO-3": ("deepspeed", {"stage": 3}),
        "ZeRO-2, offload": ("deepspeed", {"stage": 2, "offload": "optimizer"}),
    }
    with report.guarded("no strategy"):
        alone = fit(report, "pretrain", report.device.type, "32-true", run="alone")
    for name, (strategy, options) in given.items():
        if strategy == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
            report.add(name, "DeepSpeed is not installed")
            continue
        with report.guarded(name):
            value = json.dumps({"class_path": f"strategies.{strategy}", "init_args": options})
            more = [f"--trainer.strategy={value}"]
            curve = fit(report, "pretrain", report.device.type, "32-true", strategy + str(len(options)), more)
            report.at_most(f"{name} on one rank, loss against none", farthest(curve, alone), 1e-4)


def memory(report: Report) -> None:
    """The most memory that a fit has taken, beside the plan's forecast."""
    write_data(report.folder)
    shapes = {"tiny": TINY} if report.tiny else LARGE
    for name, config in shapes.items():
        for precision in TOLERANCES:
            title = f"{name}, pretraining, {precision}"
            if name == "1 B" and precision == "32-true":
                continue
            with report.guarded(title):
                options = fit_line(report, "pretrain", "auto", precision, f"{name}-{precision}")[2:]
                config_file, options = options[0], options[1:]
                rows = 4 if report.tiny else 8
                options += [
                    f"--model.init_args.config={json.dumps(config)}",
                    "--model.init_args.pretrained=null",
                    f"--data.init_args.sequence_length={64 if report.tiny else 2048}",
                    f"--data.init_args.global_batch_size={rows}",
                    f"--data.init_args.micro_batch_size={rows}",
                    "--trainer.limit_val_batches=0",
                ]
                run = read_run([config_file], options, 1)._replace(on_cpu=report.device.type == "cpu")
                forecast = estimate_memory(run, run.parallelism).peak
                started = _peak(report)
                run_program(["fit", "--config", config_file, *options, "--trainer.fast_dev_run=3"])
                if report.device.type != "cuda":
                    report.add(f"{title}: forecast", f"{forecast / 1e6:.1f} MB", forecast / 1e6)
                    continue
                peak = torch.cuda.max_memory_allocated() - started
                text = f"{peak / 1e9:.2f} GB, forecast {forecast / 1e9:.2f}: {peak / forecast:.2f} of it"
                report.between(f"{title}: peak", peak / forecast, 0.8, 1.1, text)


def _peak(report: Report) -> int:
    """Begins to measure; the bytes that are held already."""
    if report.device.type != "cuda":
        return 0
    gc.collect()  # of the run before
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


class TimedPPO(PPOModule):
    """PPO that knows how long its parts took, in seconds."""

    seconds: dict[str, list[float]] = defaultdict(list)

    def training_step(self, *args: Any) -> None:
        _timed("iteration", super().training_step)(*args)

    def sample(self, *args: Any) -> Any:
        return _timed("sampling and scoring", super().sample)(*args)

    def respond(self, *args: Any) -> Any:
        return _timed("sampling", super().respond)(*args)

    def update(self, *args: Any, **options: Any) -> None:
        _timed("update", super().update)(*args, **options)


def _timed(name: str, work: Callable) -> Callable:
    def timed(*args: Any, **options: Any) -> Any:
        _wait()
        start = time.perf_counter()
        result = work(*args, **options)
        _wait()
        TimedPPO.seconds[name].append(time.perf_counter() - start)
        return result

    return timed


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ppo(report: Report) -> None:
    """Where the time of PPO's iterations goes; the first one is not counted."""
    write_data(report.folder)
    actor, reward = save_networks(
        TINY if report.tiny else LARGE["135 M"], report.folder / "tokenizer", report.folder
    )
    prompts, updates, tokens = (8, 4, 4) if report.tiny else (128, 16, 128)
    with report.guarded("split of time"):
        line = fit_line(
            report, "ppo", report.device.type, "bf16-mixed", "ppo-timed", actor, reward, updates * 3
        )
        more: dict[str, Any] = {
            "model.class_path": "experiments.benchmarks.gpu_stages.TimedPPO",
            "model.init_args.max_new_tokens": tokens,
            "model.init_args.rollout_batch_size": prompts,
            "model.init_args.micro_batch_size": 32,
            "model.init_args.epochs": updates // 4,
            "model.init_args.minibatches": 4,
            "data.init_args.global_batch_size": prompts,
        }
        where = next(index for index, word in enumerate(line) if word.startswith("--model."))
        line[where:where] = [f"--model.class_path={more.pop('model.class_path')}"]
        more["trainer.limit_val_batches"] = 0
        run_program([*line, *(f"--{key}={value}" for key, value in more.items())])
        seconds = {name: sum(times[len(times) // 3 :]) / 2 for name, times in TimedPPO.seconds.items()}
        seconds["scoring"] = seconds.pop("sampling and scoring") - seconds["sampling"]
        total = seconds.pop("iteration")
        seconds["other"] = total - sum(seconds.values())
        for name, spent in seconds.items():
            report.add(f"PPO, {name}", f"{spent:.2f} s, {spent / total:.0%}", spent)
        rate = prompts / total
        report.add(f"PPO, {prompts} prompts × {tokens} tokens", f"{rate:.1f} samples/s", rate)


def fit(
    report: Report,
    stage: str,
    accelerator: str,
    precision: str,
    run: str,
    more: list[str] = [],  # noqa: B006
) -> list[float]:
    """Trains a stage from the CPU run's exports and gives its curve, a value a step (PPO: an iteration)."""
    run_program([*fit_line(report, stage, accelerator, precision, run), *more])
    values: dict[int, float] = {}
    with (report.folder / run / "metrics/version_0/metrics.csv").open() as lines:
        for row in csv.DictReader(lines):
            if row.get(CURVES[stage]):
                values[int(row["step"])] = float(row[CURVES[stage]])
    return list(values.values())


def farthest(curve: list[float], expected: list[float]) -> float:
    """The largest relative distance of two curves at the same step."""
    pairs = zip(curve, expected, strict=True)
    return max(abs(value - right) / abs(right) for value, right in pairs)


def run_program(line: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = program(line)
    print(errors.getvalue(), file=sys.stderr)
    if code:
        said = [text for text in errors.getvalue().splitlines() if text.strip() and REPORT not in text]
        raise RuntimeError(said[-1] if said else f"`trivium {line[0]}` ended with {code}")


def fit_line(
    report: Report,
    stage: str,
    accelerator: str,
    precision: str,
    run: str,
    actor: str | None = None,
    reward: str | None = None,
    steps: int = 20,
) -> list[str]:
    """`trivium fit` of a stage; its parents are the CPU's runs where nothing else is given."""
    folder = report.folder
    sft, tokenizer = str(folder / "sft/export"), str(folder / "tokenizer")
    kinds = {"sft": "instructions", "reward": "preferences", "ppo": "prompts"}
    corpus = {split: str(folder / f"corpus.{split}.jsonl") for split in ("train", "val")}
    start = folder / "actor"  # from scratch, a GPU would draw other weights than a CPU
    if not start.is_dir():
        save_networks(TINY if report.tiny else SMALL, folder / "tokenizer", folder)
    of_stage: dict[str, dict[str, Any]] = {
        "pretrain": {
            "model.init_args.config": "null",
            "model.init_args.pretrained": str(start),
            "data.init_args.tokenizer": tokenizer,
            "data.init_args.sequence_length": 64 if report.tiny else 256,
            "data.init_args.sources": json.dumps({"words": {**corpus, "weight": 1.0}}),
        },
        "sft": {"model.init_args.pretrained": str(folder / "pretrain/export")},
        "reward": {"model.init_args.pretrained": sft},
        "ppo": {
            "model.init_args.actor": actor or sft,
            "model.init_args.reward": reward or str(folder / "reward/export"),
            "model.init_args.max_new_tokens": 8 if report.tiny else 16,
            "model.init_args.minibatches": 2,
            "data.init_args.global_batch_size": 8 if report.tiny else 64,
        },
    }
    options = of_stage[stage]
    if stage != "pretrain":
        parent = actor or {"sft": str(folder / "pretrain/export")}.get(stage, sft)
        options["data.init_args.tokenizer"] = parent
        options |= {
            f"data.init_args.{s}": str(folder / f"{kinds[stage]}.{s}.jsonl") for s in ("train", "val")
        }
    if stage != "ppo":
        options["model.init_args.warmup_steps"] = 0
    options |= {
        "trainer.accelerator": accelerator,
        "trainer.precision": precision,
        "trainer.max_steps": 4 if report.tiny and actor is None else steps,
        "trainer.log_every_n_steps": 1,
        "trainer.limit_val_batches": 1,
        "trainer.val_check_interval": 1.0,
        "trainer.enable_progress_bar": "false",
        "checkpoint_minutes": 1000,
    }
    line = ["fit", "--config", str(CONFIGS / f"{stage}.yaml"), "--run", str(folder / run)]
    return [*line, *(f"--{key}={value}" for key, value in options.items())]
