"""Five hundred configurations and data files that went wrong somewhere: each runs, or is refused in lines
that name the field or the file, with exit code 2 and without a trace. The same ones every time."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from datamodules import InstructionData, MixedCorpusData, PreferenceData, PromptData, Source, TokenData
from datamodules.errors import UserError
from experiments.cli.parser import parse
from experiments.cli.user_errors import exit_code_of
from experiments.commands.fit import RunCLI
from tests.mutations import common, damaged, mutated

CONFIGS, FILES = 150, 350


@pytest.fixture(scope="module")
def whole_configs(tiny_files, tiny_tokenizer, tiny_config, tmp_path_factory):
    """A configuration of each stage that runs, on models with random weights."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    config = LlamaConfig(**tiny_config, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    config.num_labels = 1
    for name, kind in (("policy", LlamaForCausalLM), ("scores", LlamaForSequenceClassification)):
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    policy, scores = str(folder / "policy"), str(folder / "scores")

    def data(kind, name, **more):
        files = {split: str(tiny_files / f"{name}.{split}.jsonl") for split in ("train", "val")}
        return {"class_path": f"datamodules.{kind}", "init_args": {"tokenizer": policy, **files, **more}}

    def whole(stage, arguments, data, **trainer):
        trainer = {"max_steps": 8, "accelerator": "cpu", "gradient_clip_val": 1.0, "logger": False, **trainer}
        model = {"class_path": f"modules.{stage}", "init_args": {"warmup_steps": 1, **arguments}}
        return {"run": str(folder / "run"), "trainer": trainer, "model": model, "data": data}

    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.9, 0.95]}}
    source = {"train": str(tiny_files / "a.train.jsonl"), "weight": 1.0, "max_epochs": 4.0}
    corpus = {"tokenizer": tiny_tokenizer, "sources": {"a": source, "b": dict(source)}, "sequence_length": 32}
    corpus = {"class_path": "datamodules.MixedCorpusData", "init_args": corpus}
    ppo = {
        "actor": policy,
        "reward": scores,
        "max_new_tokens": 8,
        "kl_target": 1.0,
        "epochs": 1,
        "gamma": 1.0,
    }
    ppo |= {"clip_eps": 0.2, "temperature": 1.0, "minibatches": 4}
    return [
        whole("CausalLM", {"config": tiny_config, "optimizer": optimizer}, corpus),
        whole(
            "SFTModule",
            {"pretrained": policy, "optimizer": optimizer},
            data("InstructionData", "instructions"),
        ),
        whole("RewardModule", {"pretrained": policy, "centring": 0.1}, data("PreferenceData", "preferences")),
        whole("PPOModule", ppo, data("PromptData", "prompts", global_batch_size=16), gradient_clip_val=None),
    ]


class CheckOnly(RunCLI):
    """Does all that comes before the first step, and does not take it."""

    def _run_subcommand(self, subcommand):
        if errors := self.errors():
            raise UserError("\n".join(errors))


def told(capsys):
    err = capsys.readouterr().err
    assert "Traceback" not in err, err
    return [line for line in err.splitlines() if line.startswith("trivium: ")]


def run(file):
    return exit_code_of(lambda: parse(["fit", "--config", str(file)], CheckOnly) and 0)


def test_the_configs_that_are_mutated_run(whole_configs, tmp_path, capsys):
    for config in whole_configs:
        file = tmp_path / "whole.yaml"
        file.write_text(yaml.safe_dump(config))
        assert run(file) == 0, told(capsys)


FIELDS = ("trainer", "model", "data", "run", "--", "config", "ckpt_path", "seed_everything", "mutated.yaml")


@pytest.mark.slow
@settings(common, max_examples=CONFIGS)
@given(data=st.data())
def test_a_mutated_config_runs_or_is_refused_by_field_or_file(whole_configs, tmp_path, capsys, data):
    config = mutated(data.draw, data.draw(st.sampled_from(whole_configs)))
    file = tmp_path / "mutated.yaml"
    file.write_bytes(damaged(data.draw, yaml.safe_dump(config, allow_unicode=True).encode(errors="ignore")))
    capsys.readouterr()
    code = run(file)
    lines = told(capsys)
    assert code == (2 if lines else 0), lines
    assert all(any(field in line for field in FIELDS) for line in lines), lines


ROWS = {
    "sft": [{"instruction": "Write.", "output": f"the film is good {i}", "steps": ["a"]} for i in range(4)],
    "chat": [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"good {i}"}]}
        for i in range(4)
    ],
    "ranked": [{"instruction": "W.", "replies": ["a", "b", "c"], "ratings": [1, 2.5, 0]} for _ in range(4)],
    "chosen": [
        {"instruction": "W.", "chosen": "good", "rejected": "bad", "agreement": 0.9} for _ in range(4)
    ],
    "prompt": [{"instruction": "Write.", "reply_prefix": "the film"} for _ in range(4)],
    "text": [{"text": "the film is good and the story is fun " * 4} for _ in range(4)],
    "tokens": [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]} for _ in range(4)],
}


def module(kind, file, tokenizer, on_bad_row):
    options = {"global_batch_size": 2, "micro_batch_size": 2, "on_bad_row": on_bad_row, "max_dropped": 0.5}
    match kind:
        case "text":
            return MixedCorpusData({"a": Source(file)}, tokenizer, sequence_length=8, **options)
        case "ranked" | "chosen":
            return PreferenceData(file, tokenizer, **options)
        case "prompt":
            return PromptData(file, tokenizer, on_bad_row=on_bad_row)
        case "tokens":
            return TokenData(file, tokenizer, **options)
    return InstructionData(file, tokenizer, **options)


def as_parquet(rows):
    sink = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(rows), sink)
    except Exception:  # no table holds such rows
        return b"PAR1"
    return sink.getvalue()


FORMATS = {
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    ".json": lambda rows: json.dumps(rows).encode(),
    ".jsonl.gz": lambda rows: gzip.compress(
        "".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0
    ),
    ".parquet": as_parquet,
    ".txt": lambda rows: "\n".join(map(str, rows)).encode(errors="surrogatepass"),
}


@settings(common, max_examples=FILES)
@given(data=st.data())
def test_a_mutated_data_file_is_read_or_refused_by_file(tiny_tokenizer, tmp_path, data):
    kind = data.draw(st.sampled_from(list(ROWS)))
    rows = mutated(data.draw, ROWS[kind])
    rows += ROWS[kind] * data.draw(st.integers(0, 1))
    ending = data.draw(st.sampled_from([*FORMATS, ".jsonl", ".jsonl"]))
    file = tmp_path / f"mutated{ending}"
    file.write_bytes(damaged(data.draw, FORMATS[ending](rows)))
    made = module(kind, str(file), tiny_tokenizer, data.draw(st.sampled_from(["error", "skip"])))
    assert made.config_errors(1) == []
    try:
        made.splits = made.read()
        batch = next(iter(made.train_dataloader()))
    except UserError as error:
        (line,) = str(error).splitlines()
        assert str(file) in line or line.startswith("data."), line
        return
    assert all(not tensor.is_floating_point() or tensor.isfinite().all() for tensor in tensors(batch))


def tensors(batch):
    return [value for value in batch.values() if isinstance(value, torch.Tensor)]
