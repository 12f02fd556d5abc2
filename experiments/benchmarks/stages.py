"""Speed and memory of a stage on fixed work, through the public classes and Lightning's Trainer.

    python -m experiments.benchmarks.stages --stage sft --model tiny --steps 5

Prints a line of JSON: tokens (padding not counted), pairs, prompts or samples a second, as the median over
optimizer steps (PPO: iterations) after one that warms up; the process's peak memory in MB; the last loss; and
of PPO the seconds of sampling, scoring and update. A machine's speed moves by a third from minute to minute:
compare runs that alternate, by the median of the ratios of neighbours.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from datamodules import (
    InstructionData,
    InstructionTemplate,
    MixedCorpusData,
    PreferenceData,
    PromptData,
    Source,
)
from experiments.benchmarks import fixed_work
from modules import CausalLM, PPOModule, RewardModule, SFTModule
from modules.optim import AdamW

BLOCK = 512  # tokens of a document in pretraining
ROWS = {"pretrain": 8, "sft": 32, "reward": 16, "ppo": 32}
"""of an optimizer step (PPO: of an iteration)"""
PACKED_TOKENS = {"pretrain": 8 * BLOCK, "sft": 4 * 1024, "reward": 2 * 2048}
"""of an optimizer step, about as many as those rows have"""
WRITTEN = {"pretrain": 64, "sft": 448, "reward": 160, "ppo": 128}
"""rows to draw from, in an order without end"""
PLAIN = InstructionTemplate(prompt="{content} ")  # the bos token and the words


class Work(NamedTuple):
    """What is measured."""

    stage: str
    config: dict[str, Any]
    """of the network, as `transformers` reads it"""
    steps: int = 5
    """optimizer steps that are timed (PPO: iterations)"""
    rows: int = 0
    """of a step; 0 = the usual number"""
    micro_batch_size: int = 0
    """rows of a forward; 0 = all of a step"""
    packing: int | None = None
    """tokens of a row that holds several documents"""
    precision: Any = "32-true"
    replies: int = 2
    """to a prompt of the reward model"""
    prompt_tokens: int | None = None
    """of each prompt of the reward model; None = of many lengths"""
    separate: bool = False
    """whether every reply of the reward model reads its prompt anew"""
    new_tokens: int = 64
    """of a response in PPO"""

    @property
    def rows_per_step(self) -> int:
        if self.rows:
            return self.rows
        return PACKED_TOKENS[self.stage] // self.packing if self.packing else ROWS[self.stage]

    @property
    def sizes(self) -> dict[str, Any]:
        """What every data module is told."""
        return {
            "global_batch_size": self.rows_per_step,
            "micro_batch_size": self.micro_batch_size or self.rows_per_step,
        }


class Clock(L.Callback):
    """Seconds of each step, the making of its batch included, and real tokens trained on."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.ends.append(time.perf_counter())
            self.tokens.append(int(pl_module.tokens_seen))

    def steps(self) -> list[tuple[float, int]]:
        """(seconds, tokens) of each step after the first."""
        ends, tokens = zip(self.ends, self.ends[1:]), zip(self.tokens, self.tokens[1:])  # noqa: B905
        return [(b - a, n - m) for (a, b), (m, n) in zip(ends, tokens, strict=True)]


class SeparateReplies(RewardModule):
    """The reward stage as it would be if no reply could use what another has computed of their prompt."""

    def forward(self, batch: Any) -> Any:
        assert self.network is not None
        per_token = self.network(batch["input_ids"], batch["position_ids"], batch["document_ids"])
        return per_token[batch["reply_ends"].unbind(1)]


class TimedPPO(PPOModule):
    """PPO that keeps how long each iteration's sampling and update took."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.seconds: list[dict[str, float]] = []

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[-1][part] += time.perf_counter() - start

    def training_step(self, *args: Any) -> None:
        self.seconds.append(defaultdict(float))
        with self.timed("iteration"):
            super().training_step(*args)

    def respond(self, *args: Any, **kwargs: Any) -> Any:
        with self.timed("sampling"):
            return super().respond(*args, **kwargs)

    def update(self, *args: Any, **kwargs: Any) -> None:
        with self.timed("update"):
            super().update(*args, **kwargs)

    def split(self) -> dict[str, float]:
        """Median seconds of an iteration's parts, the first one left out."""
        parts = self.seconds[1:]
        sampling, update = ([part[name] for part in parts] for name in ("sampling", "update"))
        whole = zip(parts, sampling, update, strict=True)
        scoring = [part["iteration"] - s - u for part, s, u in whole]
        medians = {"sampling": sampling, "scoring": scoring, "update": update}
        return {f"{name}_s": round(statistics.median(values), 4) for name, values in medians.items()}


def pretraining(work: Work, tokenizer: str, folder: Path) -> tuple[Any, Any]:
    """From scratch, on documents that fill a row, or several of which do where rows are longer."""
    rows = fixed_work.documents(work.config["vocab_size"], WRITTEN["pretrain"], BLOCK)
    sources = {"words": Source(fixed_work.write_rows(folder / "rows.jsonl", rows))}
    data = MixedCorpusData(sources, tokenizer, sequence_length=work.packing or BLOCK, **work.sizes)
    return CausalLM(config=work.config, warmup_steps=0), data


def sft(work: Work, tokenizer: str, folder: Path) -> tuple[Any, Any]:
    """Loss on the replies."""
    rows = fixed_work.instructions(work.config["vocab_size"], WRITTEN["sft"])
    file = fixed_work.write_rows(folder / "rows.jsonl", rows)
    data = InstructionData(file, tokenizer, template=PLAIN, packing=work.packing, **work.sizes)
    network = fixed_work.write_network(folder / "network", work.config)
    return SFTModule(network, lambda p: AdamW(p, lr=1e-4), warmup_steps=0), data


def reward(work: Work, tokenizer: str, folder: Path) -> tuple[Any, Any]:
    """Ranked replies."""
    shape = WRITTEN["reward"], work.replies, work.prompt_tokens
    rows = fixed_work.comparisons(work.config["vocab_size"], *shape)
    file = fixed_work.write_rows(folder / "rows.jsonl", rows)
    data = PreferenceData(file, tokenizer, template=PLAIN, packing=work.packing, **work.sizes)
    network = fixed_work.write_network(folder / "network", work.config, scalar=True)
    kind = SeparateReplies if work.separate else RewardModule
    options: dict[str, Any] = {"optimizer": lambda p: AdamW(p, lr=1e-4), "warmup_steps": 0}
    return kind(network, offset_replies=1, **options), data


def ppo(work: Work, tokenizer: str, folder: Path) -> tuple[Any, Any]:
    """Four epochs over an iteration's samples, one optimizer step each."""
    rows = fixed_work.prompts(work.config["vocab_size"], WRITTEN["ppo"])
    file = fixed_work.write_rows(folder / "rows.jsonl", rows)
    data = PromptData(file, tokenizer, template=PLAIN, global_batch_size=work.rows_per_step)
    actor = fixed_work.write_network(folder / "actor", work.config)
    critic = fixed_work.write_network(folder / "reward", work.config, scalar=True)
    options: dict[str, Any] = {
        "minibatches": 1,
        "rollout_batch_size": work.rows_per_step,
        "micro_batch_size": work.sizes["micro_batch_size"],
        "max_new_tokens": work.new_tokens,
    }
    return TimedPPO(actor, critic, actor_lr=1e-5, critic_lr=1e-5, **options), data


STAGES: dict[str, Callable[[Work, str, Path], tuple[Any, Any]]] = {
    "pretrain": pretraining, "sft": sft, "reward": reward, "ppo": ppo,
}  # fmt: skip
LOSS = {"ppo": "ppo/value_loss"}  # else train/loss


def measure(work: Work, clock: Clock) -> dict[str, Any]:
    """Trains for one step more than `work.steps` and says how fast the others were."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRIVIUM_CACHE"] = folder
        L.seed_everything(0, verbose=False)
        tokenizer = fixed_work.write_tokenizer(Path(folder, "tokenizer"), work.config["vocab_size"])
        stage, data = STAGES[work.stage](work, tokenizer, Path(folder))
        automatic = work.stage != "ppo"  # it clips by its own max_grad_norm, and steps four times a batch
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            precision=work.precision,
            max_steps=(work.steps + 1) * (1 if automatic else stage.updates_per_batch),
            gradient_clip_val=1.0 if automatic else None,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(stage, datamodule=data)
    steps = clock.steps()
    seconds = statistics.median(s for s, _ in steps)
    tokens_per_second = statistics.median(n / s for s, n in steps)
    reading = {"pretrain": "tokens/s", "sft": "tokens/s", "ppo": "samples/s"}
    rows = "pairs/s" if work.replies == 2 else "prompts/s"
    metric = reading.get(work.stage, "tokens/s" if work.packing else rows)
    per_row = metric != "tokens/s"
    return {
        "stage": work.stage,
        "metric": metric,
        "value": round(work.rows_per_step / seconds if per_row else tokens_per_second, 3),
        "tokens_s": round(tokens_per_second, 1),
        "step_s": round(seconds, 4),
        "tokens_per_step": round(statistics.mean(n for _, n in steps)),
        "peak_rss_mb": peak_megabytes(),
        "loss": round(float(trainer.callback_metrics[LOSS.get(work.stage, "train/loss")]), 5),
        **({} if automatic else stage.split()),
    }


def peak_megabytes() -> int:
    """The most memory that this process has held at a time."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def parse() -> Work:
    """The command line's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("--model", default="tiny", choices=fixed_work.MODELS)
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps (PPO: iterations) to time")
    parser.add_argument("--rows", type=int, default=0, help="of a step")
    parser.add_argument("--micro-batch", type=int, default=0, help="rows of a forward, else all of a step")
    parser.add_argument("--packing", type=int, help="tokens of a row that holds several documents")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--replies", type=int, default=2, help="reward: to a prompt")
    parser.add_argument("--prompt-tokens", type=int, help="reward: of each prompt, else of many lengths")
    parser.add_argument("--separate", action="store_true", help="reward: every reply reads its prompt anew")
    options = parser.parse_args()
    if options.packing and options.stage == "ppo":
        parser.error("--packing: PPO's rows are samples, each on its own; leave it out")
    return Work(
        options.stage,
        fixed_work.MODELS[options.model],
        options.steps,
        options.rows,
        options.micro_batch,
        options.packing,
        options.precision,
        options.replies,
        options.prompt_tokens,
        options.separate,
    )


def main() -> None:
    """Runs the measurement."""
    work = parse()
    print(json.dumps(measure(work, Clock())))


if __name__ == "__main__":
    main()
