"""A tiny tokenizer, tiny files, and the four stages run once on them through the CLI."""

import argparse
import atexit
import gc
import json
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.tiny import TINY

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRIVIUM_ALLOW_EMULATED", "1")  # some tests are about rounding to bf16, on any CPU
os.environ["TRIVIUM_CACHE"] = tempfile.mkdtemp(prefix="trivium-cache-")
atexit.register(shutil.rmtree, os.environ["TRIVIUM_CACHE"], ignore_errors=True)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in a shell's background: children inherit it,
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and a rank that is interrupted would go on

CONFIGS = Path(__file__).resolve().parent.parent / "experiments" / "configs"
WORDS = [
    *("the", "film", "is", "good", "bad", "great", "dull", "a", "and", "story", "acting"),
    *("music", "plot", "very", "not", "slow", "fun", "sad", "电影", "很好", "不错"),
]


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: no worker is left alone with one while the others are done. They are
    given out in this order under `--no-loadscope-reorder`."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported meanwhile stays: the garbage collection need not go through it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """No test hears of the ranks that an earlier one of its process had, as by a trainer's MASTER_PORT."""
    from experiments.distributed.launcher import environment_restored

    with environment_restored():
        return (yield)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def warm_folder(tmp_path_factory):
    """Holds a `python` and a `trivium` that have everything imported already."""
    from tests.warm import serve

    folder = tmp_path_factory.mktemp("warm")
    serve(folder)
    return folder


@pytest.fixture
def warm_python(warm_folder, monkeypatch):
    """Every Python that the test begins, or that one of those begins, has everything imported already."""
    monkeypatch.setattr("sys.executable", str(warm_folder / "python"))


@pytest.fixture(scope="module")
def quiet_transformers():
    """Without transformers' warnings, such as of slow reference kernels, once for each network."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    yield
    logging.set_verbosity(level)


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def rows():
    """The function that writes JSON lines."""
    return write_rows


@pytest.fixture
def corpus(tmp_path, rows):
    """Writes texts as rows of a file in a folder `in`."""
    (tmp_path / "in").mkdir()

    def write(name, *texts):
        return rows(tmp_path / "in" / name, [{"text": text} for text in texts])

    return write


@pytest.fixture(scope="session")
def tiny_config():
    """A Hugging Face config of a network of some ten thousand parameters."""
    return dict(TINY)


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """A folder of JSON lines for every kind of data: rows of uneven length whose ratings follow their
    words."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)

    def text(low, high):
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))

    def rating(reply):
        return float(
            sum(reply.count(w) for w in ("good", "great", "fun")) - reply.count("bad") - reply.count("dull")
        )

    for split, size in (("train", 96), ("val", 12)):
        for source in ("a", "b"):
            write_rows(folder / f"{source}.{split}.jsonl", [{"text": text(5, 60)} for _ in range(size * 2)])
        write_rows(
            folder / f"instructions.{split}.jsonl",
            [
                {"instruction": f"Write {text(1, 4)}", "output": text(2, 15), "task": task, "language": "en"}
                for task in ("x", "y")
                for _ in range(size // 2)
            ],
        )
        groups: list[list[str]] = []
        while len(groups) < size:
            group = [text(3, 9) for _ in range(4)]
            if len({rating(reply) for reply in group}) > 1:  # all tied would be dropped
                groups.append(group)
        write_rows(
            folder / f"preferences.{split}.jsonl",
            [{"instruction": "Write.", "replies": g, "ratings": [rating(r) for r in g]} for g in groups],
        )
        write_rows(
            folder / f"prompts.{split}.jsonl",
            [{"instruction": "Write.", "reply_prefix": text(1, 3)} for _ in range(size)],
        )
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_files):
    """The directory of a small BPE tokenizer."""
    from experiments.commands.tokenizer import train

    files = [str(tiny_files / "a.train.jsonl"), str(tiny_files / "b.train.jsonl")]
    train(files, 330, str(tiny_files / "tokenizer"))
    return str(tiny_files / "tokenizer")


class Commands:
    """Command lines of the four stages on the tiny files; each stage starts from the one before."""

    def __init__(self, files: Path, tokenizer: str, out: Path):
        self.files, self.tokenizer, self.out = files, tokenizer, out

    def stage(self, name: str, command: str = "fit", run: str | None = None) -> list[str]:
        """`trivium COMMAND …` for a stage, to be continued with overrides."""
        line = [command, "--config", str(CONFIGS / f"{name}.yaml"), "--run", str(self.out / (run or name))]
        line += ["--trainer.precision", "32-true"]  # as on any machine, and exact
        options = {
            "pretrain": {
                "model.init_args.config": json.dumps(TINY),
                "data.init_args.tokenizer": self.tokenizer,
                "data.init_args.sequence_length": "32",
                "data.init_args.sources": json.dumps(
                    {
                        source: {
                            "train": str(self.files / f"{source}.train.jsonl"),
                            "val": str(self.files / f"{source}.val.jsonl"),
                            "weight": weight,
                        }
                        for source, weight in (("a", 0.7), ("b", 0.3))
                    }
                ),
            },
            "sft": {
                "model.init_args.pretrained": self.export("pretrain"),
                **self._data("instructions", "pretrain"),
            },
            "reward": {"model.init_args.pretrained": self.export("sft"), **self._data("preferences", "sft")},
            "ppo": {
                "model.init_args.actor": self.export("sft"),
                "model.init_args.reward": self.export("reward"),
                "model.init_args.max_new_tokens": "8",
                "data.init_args.global_batch_size": "32",
                "data.init_args.eval_batch_size": "8",
                **self._data("prompts", "sft"),
            },
        }[name]
        if name != "ppo":
            options["model.init_args.warmup_steps"] = "0"
        return line + [f"--{key}={value}" for key, value in options.items()]

    def export(self, name: str) -> str:
        return str(self.out / name / "export")

    def _data(self, kind: str, parent: str) -> dict[str, str]:
        return {
            "data.init_args.tokenizer": self.export(parent),
            "data.init_args.train": str(self.files / f"{kind}.train.jsonl"),
            "data.init_args.val": str(self.files / f"{kind}.val.jsonl"),
        }


@pytest.fixture(scope="session")
def stage_lines(tiny_files, tiny_tokenizer):
    """Makes command lines of the four stages whose runs lie in a folder of one's own; runs nothing."""
    return lambda out: Commands(tiny_files, tiny_tokenizer, out)


@pytest.fixture(scope="session")
def tiny_stages(tiny_files, tiny_tokenizer, tmp_path_factory):
    """The four stages, run once; gives their command lines and, in `out`, their folders."""
    from experiments.cli.program import main

    commands = Commands(tiny_files, tiny_tokenizer, tmp_path_factory.mktemp("runs"))
    for name, steps in (("pretrain", 60), ("sft", 30), ("reward", 60), ("ppo", 32)):
        more = ["--trainer.max_steps", str(steps), "--trainer.log_every_n_steps", "1"]
        assert main([*commands.stage(name), *more]) == 0
    return commands


@pytest.fixture
def refused(tiny_stages, tmp_path, capsys):
    """Runs a command on the tiny stages with overrides; gives the lines of its refusal."""

    def run(stage: str, *overrides: str) -> list[str]:
        folder = tmp_path / "refused"
        capsys.readouterr()
        from experiments.cli.program import main

        assert main([*tiny_stages.stage(stage), "--run", str(folder), *overrides]) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert not (folder / "export").exists()
        return [line for line in err.splitlines() if line.startswith("trivium: ")]

    return run


@pytest.fixture
def only_parse(monkeypatch):
    """Ends a command as soon as its options are known to be right, by the exception that it gives."""
    parse = argparse.ArgumentParser.parse_known_args

    class Parsed(BaseException):
        """A command line was accepted."""

    def parse_and_stop(parser, args=None, namespace=None):
        found = parse(parser, args, namespace)
        if not found[1]:  # else: options that nobody knows, which the command refuses
            raise Parsed
        return found

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    return Parsed
