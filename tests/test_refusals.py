"""A mistake in what was asked: one clear line, exit code 2, no trace, and nothing written."""

import json
import re
import shutil
from pathlib import Path

import lightning as L
import pytest
from safetensors.torch import load_file, save_file
from torch.nn.init import zeros_

from datamodules import InstructionData, PromptData
from experiments.cli.program import main
from experiments.cli.user_errors import exit_code_of
from experiments.plan.network_sizes import read_config
from modules import CausalLM, PPOModule, SFTModule
from modules.hf_load import load_causal_lm, load_scalar_model, new_causal_lm, parent_problem

SHIPPED = "`trivium configs` lists what is shipped"


def test_a_trainer_that_lightning_will_not_build_is_one_line(capsys):
    assert exit_code_of(lambda: L.Trainer(accelerator="cpu", devices=0, logger=False)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trivium: ")
    assert "devices" in line


def test_a_missing_file_is_named(refused, tmp_path):
    lines = refused("sft", f"--data.init_args.train={tmp_path}/nowhere.jsonl")
    assert lines == [f"trivium: data.train: {tmp_path}/nowhere.jsonl does not exist"]


def test_a_row_without_output_is_named_by_its_line(refused, rows, tmp_path):
    file = rows(
        tmp_path / "x.jsonl",
        [
            {"instruction": "a", "output": "b", "task": "x", "language": "en"},
            {"instruction": "c", "task": "x", "language": "en"},
        ],
    )
    (line,) = refused("sft", f"--data.init_args.train={file}")
    remedy = "name it with `columns: {output: …}`"
    assert line == (
        f"trivium: data.train: {file}:2: no `output` (it has `instruction`, `task`, `language`): {remedy}"
    )


def test_a_file_without_the_column_is_refused_by_its_first_row_with_those_it_has(refused, rows, tmp_path):
    file = rows(tmp_path / "x.jsonl", [{"prompt": "a", "reply": "b"}])
    (line,) = refused("sft", f"--data.init_args.train={file}")
    remedy = "name it with `columns: {output: …}`"
    assert line == f"trivium: data.train: {file}:1: no `output` (it has `prompt`, `reply`): {remedy}"


def test_a_row_without_a_column_that_rows_are_grouped_by_is_refused(refused, rows, tmp_path):
    """The tiny stages group by task and language."""
    row = {"instruction": "a", "output": "b", "task": "x", "language": "en"}
    file = rows(tmp_path / "x.jsonl", [row, {**row, "language": None}])
    (line,) = refused("sft", f"--data.init_args.train={file}")
    assert line == f"trivium: data.train: {file}:2: no `language`, which data.group_by asks for"


def test_all_labels_masked_is_refused_with_the_reason(refused):
    (line,) = refused("sft", "--data.init_args.max_length=8")
    assert "none of its 96 rows can be trained on" in line
    assert "prompt fills max_length 8" in line


def test_a_tokenizer_without_eos_is_refused(refused, tiny_tokenizer, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny_tokenizer, folder)
    config = folder / "tokenizer_config.json"
    facts = json.loads(config.read_text())
    facts.pop("eos_token")
    config.write_text(json.dumps(facts))
    (line,) = refused("pretrain", f"--data.init_args.tokenizer={folder}")
    assert "has no eos token" in line
    assert "`eos_token`" in line


def test_the_result_of_another_stage_is_refused(refused, tiny_stages):
    (line,) = refused("sft", f"--model.init_args.pretrained={tiny_stages.export('reward')}")
    assert "is the result of stage `reward`, this needs one of stage `pretrain` or `sft`" in line


def test_a_checkpoint_of_another_stage_is_refused(refused, tiny_stages):
    checkpoint = tiny_stages.out / "pretrain" / "checkpoints" / "last.ckpt"
    (line,) = refused("sft", f"--ckpt_path={checkpoint}")
    assert "is a checkpoint of stage `pretrain`, this run is stage `sft`" in line


def test_a_notebook_is_refused_what_the_command_line_is(tiny_stages, tiny_config):
    sft, reward = tiny_stages.export("sft"), tiny_stages.export("reward")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    for model, data, reason in [
        (
            PPOModule(actor=str(sft), reward=str(sft), max_new_tokens=4),
            PromptData(str(tiny_stages.files / "prompts.train.jsonl"), str(sft)),
            "model.reward: .* is the result of stage `sft`",
        ),
        (
            CausalLM(config=tiny_config, pretrained=str(sft), warmup_steps=1),
            InstructionData(str(tiny_stages.files / "instructions.train.jsonl"), str(sft)),
            "either .*config",
        ),
        (
            SFTModule(str(reward), warmup_steps=1),
            InstructionData(str(tiny_stages.files / "instructions.train.jsonl"), str(sft)),
            "is the result of stage `reward`",
        ),
    ]:
        with pytest.raises(ValueError, match=reason):
            L.Trainer(accelerator="cpu", max_steps=16, **quiet).fit(model, datamodule=data)


def test_all_problems_are_told_at_once(refused):
    lines = refused(
        "sft",
        "--data.init_args.micro_batch_size=3",
        "--model.init_args.warmup_steps=-1",
        "--model.init_args.pretrained=nowhere/at/all",
    )
    assert len(lines) == 3
    text = "\n".join(lines)
    assert "data.global_batch_size 32 is not a multiple of micro_batch_size 3 × 1 ranks = 3" in text
    assert "model.warmup_steps is -1" in text
    assert "nowhere/at/all is no directory" in text


def test_data_that_the_stage_does_not_read_is_refused_before_anything_is_read(refused, tmp_path):
    """With all other errors, those of files among them."""
    data = {"class_path": "datamodules.PreferenceData", "init_args": {"train": f"{tmp_path}/nowhere.jsonl"}}
    data["init_args"] |= {"tokenizer": f"{tmp_path}/nowhere", "micro_batch_size": 0}
    lines = refused("pretrain", f"--data={json.dumps(data)}", "--ckpt_path=nowhere.ckpt")
    assert len(lines) == 5
    text = "\n".join(lines)
    assert f"data.train: {tmp_path}/nowhere.jsonl does not exist" in text
    assert f"data.tokenizer: {tmp_path}/nowhere is no directory" in text
    assert "ckpt_path: nowhere.ckpt does not exist" in text
    assert "data.micro_batch_size is 0" in text
    (pairing,) = [line for line in lines if "CausalLM" in line]
    assert all(word in pairing for word in ("PreferenceData", "tokens", "ranked_replies"))


def test_contradicting_accumulation_is_refused(refused):
    (line,) = refused("sft", "--trainer.accumulate_grad_batches=3")
    assert "makes it 4: leave it out" in line


def test_a_malformed_line_is_named_by_file_and_line(refused, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n{"instruction": \n')
    (line,) = refused("sft", f"--data.init_args.train={file}", "--data.init_args.group_by=null")
    assert line.startswith(f"trivium: data.train: {file}:2 is not JSON (")


def test_a_finished_run_is_not_overwritten_unasked(tiny_stages, capsys):
    before = Path(tiny_stages.export("sft"), "model.safetensors").read_bytes()
    assert main(tiny_stages.stage("sft")) == 2
    assert "--overwrite true" in capsys.readouterr().err
    assert Path(tiny_stages.export("sft"), "model.safetensors").read_bytes() == before


def test_ppo_batches_that_do_not_divide_into_minibatches_are_refused(refused):
    (line,) = refused("ppo", "--data.init_args.global_batch_size=6")
    assert "not a multiple of model.minibatches 4" in line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "--model.init_args.warmup_stpes=3",
            "model: there is no option `warmup_stpes`: did you mean `warmup_steps`?",
        ),
        (
            "--trainer.max_stps=3",
            "there is no option --trainer.max_stps: did you mean `trainer.max_steps`?",
        ),
        (
            "--model.init_args.optimizer.init_args.lrr=3",
            "model.optimizer: there is no option `lrr`: did you mean `lr`?",
        ),
        ("--model=modules.SFTModul", "model: there is no modules.SFTModul: did you mean `SFTModule`?"),
        (
            "--model.init_args.optimizer=torch.optim.Adamw",
            "model.optimizer: there is no torch.optim.Adamw: did you mean `AdamW`?",  # `Adam` is as near
        ),
        ("--model=SFTModul", "model: there is no class `SFTModul`: did you mean `SFTModule`?"),
        ("--trainer.max_steps=many", "trainer.max_steps: expected int, got `many`"),
        ("--config=no.yaml", "--config: no.yaml does not exist: give the YAML file of a stage; " + SHIPPED),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line_with_the_nearest_name(refused, override, line):
    assert refused("sft", override) == [f"trivium: {line}"]


def test_an_unknown_key_in_the_yaml_is_named_too(refused, tiny_stages, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("trainer:\n  max_stps: 3\n")
    (line,) = refused("sft", f"--config={file}")
    assert "`trainer.max_stps`: did you mean `trainer.max_steps`?" in line


def test_a_warm_up_that_never_ends_is_refused(refused):
    (line,) = refused("sft", "--trainer.max_steps=5", "--model.init_args.warmup_steps=5")
    assert "model.warmup_steps is 5, but the run has 5 optimizer steps" in line
    # by epochs: 96 rows in steps of 32
    (line,) = refused("sft", "--trainer.max_epochs=1", "--model.init_args.warmup_steps=3")
    assert "model.warmup_steps is 3, but the run has 3 optimizer steps" in line


def test_a_template_without_a_place_for_the_content_is_refused(refused):
    line = "--data.init_args.template=datamodules.InstructionTemplate"
    (line,) = refused("sft", line, "--data.init_args.template.init_args.prompt=Answer:")
    assert line == "trivium: data.template.prompt has no {content}: the instruction would be lost"


@pytest.mark.parametrize("stage", ["sft", "pretrain"])
def test_validating_on_nothing_is_refused(tiny_stages, capsys, stage):
    source = {"train": str(tiny_stages.files / "a.train.jsonl"), "weight": 1, "val": None}
    sources = json.dumps({"a": source, "b": source})
    nothing = {"sft": "--data.init_args.val=null", "pretrain": f"--data.init_args.sources={sources}"}
    assert main([*tiny_stages.stage(stage, "validate"), nothing[stage]]) == 2
    assert "data.val is not set" in capsys.readouterr().err


def test_a_share_of_an_epoch_that_cuts_a_step_is_refused(refused):
    """96 rows in micro-batches of 8 are 12; 0.6 of them 7, and a step is 4."""
    (line,) = refused("sft", "--trainer.limit_train_batches=0.6")
    assert "limit_train_batches is 0.6, 7 micro-batches, no multiple of the 4 of a step" in line


NVME = {"stage": 3, "offload": "optimizer", "nvme_path": "/fast"}


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ("strategies.ddp", "is no complete checkpoint: it is incomplete: `latest`"),
        ("strategies.deepspeed", "is no complete checkpoint: it is incomplete: `latest`"),
        (
            json.dumps({"class_path": "strategies.deepspeed", "init_args": NVME}),
            "holds pickles, which could run code: they are read only from the run's own",
        ),
    ],
)
def test_a_deepspeed_folder_is_refused_where_it_cannot_or_must_not_be_read(
    refused, tmp_path, strategy, reason
):
    folder = tmp_path / "elsewhere" / "last.ckpt"
    folder.mkdir(parents=True)
    (folder / "latest").write_text("checkpoint")
    line = ["--trainer.accelerator=cpu", f"--trainer.strategy={strategy}", f"--ckpt_path={folder}"]
    (message,) = refused("sft", *line)
    assert f"{folder} {reason}" in message


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("fsdp", "strategies.fsdp"),
        ("fsdp_cpu_offload", "strategies.fsdp with init_args {cpu_offload: true}"),
        ("deepspeed", "strategies.deepspeed"),
        ("deepspeed_stage_2", "strategies.deepspeed with init_args {stage: 2}"),
        ("deepspeed_stage_2_offload", "strategies.deepspeed with init_args {stage: 2, offload: optimizer}"),
        (
            "deepspeed_stage_3_offload_nvme",
            "strategies.deepspeed with init_args {stage: 3, offload: parameters, nvme_path: FOLDER}",
        ),
        (
            '{"class_path": "lightning.pytorch.strategies.DeepSpeedStrategy"}',
            "strategies.deepspeed",
        ),
    ],
)
def test_lightnings_names_of_what_runs_on_cuda_alone_are_refused_on_cpu(refused, name, ours):
    given = "DeepSpeedStrategy" if name.startswith("{") else name
    assert refused("sft", "--trainer.accelerator=cpu", f"--trainer.strategy={name}") == [
        f"trivium: trainer.strategy: Lightning's {given} runs on CUDA only: use {ours}"
    ]


def test_a_strategy_that_nobody_has_is_refused(refused):
    known = "strategies.ddp, strategies.deepspeed, strategies.fsdp, strategies.tensor_parallel"
    for name in ("strategies.dpp", "dpp"):
        assert refused("sft", f"--trainer.strategy={name}") == [
            f"trivium: trainer.strategy: there is no {name}; there is {known}"
        ]


# --- networks


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [1.5, 0.9]}},
            "Invalid beta parameter at index 0: 1.5",
        ),
        ({"class_path": "torch.optim.SGD", "init_args": {"lr": -1.0}}, "Invalid learning rate: -1.0"),
        (
            {"class_path": "torch.optim.Muon", "init_args": {"lr": 1e-3}},
            "Muon only supports 2D parameters whereas we found a parameter with size: torch.Size([1])",
        ),
    ],
)
def test_what_an_optimizer_has_against_its_arguments_is_told(refused, optimizer, message):
    lines = refused("sft", f"--model.init_args.optimizer={json.dumps(optimizer)}")
    assert lines == [f"trivium: model.optimizer: {message}"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("AdamW", {"betas": [1.5, 0.9]}, "Invalid beta parameter at index 0: 1.5"),
        ("SGD", {"momentum": -1.0}, "Invalid momentum value: -1.0"),
        (
            "Muon",
            {},
            "Muon only supports 2D parameters whereas we found a parameter with size: torch.Size([1])",
        ),
        ("AdamW", {"lr": 1e-3}, "`lr` comes from actor_lr and critic_lr: leave it out"),
    ],
)
def test_what_an_optimizer_of_ppo_has_against_its_arguments_is_told(refused, name, options, message):
    """Its learning rates are the stage's: one that would be thrown away is refused."""
    optimizer = {"class_path": f"torch.optim.{name}", "init_args": options}
    lines = refused("ppo", f"--model.init_args.optimizer={json.dumps(optimizer)}")
    assert lines == [f"trivium: model.optimizer: {message}"]


@pytest.mark.parametrize("field", ["actor_lr", "critic_lr"])
def test_a_learning_rate_of_ppo_is_refused_by_its_field(refused, field):
    lines = refused("ppo", f"--model.init_args.{field}=-1")
    assert lines == [f"trivium: model.{field} is -1: give a number above 0"]


T5 = {"model_type": "t5"}
NO_CAUSAL_LM = "`t5` is no causal language model in transformers: give one that is, for example `llama`"
BALANCED = {"model_type": "mixtral", "output_router_logits": True}
BALANCE = "`mixtral` has output_router_logits true and router_aux_loss_coef 0.001, a balance loss of its "
WIDTH = "The hidden size (130) is not a multiple of the number of attention heads (4)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 130}, WIDTH),
        ({"num_hidden_layers": "four"}, "Field 'num_hidden_layers' expected int, got str (value: 'four')"),
        (BALANCED, BALANCE),
        (
            {"model_type": "lama"},
            "`model_type: lama` is not one transformers knows: give for example ",
        ),
    ],
)
def test_a_wrong_value_in_a_config_is_named_by_run_and_plan(tiny_config, changes, message):
    config = {**tiny_config, **changes}
    start = re.escape(f"model.config: {message}")
    with pytest.raises(ValueError, match=f"^{start}[^\n]*$"):
        new_causal_lm(config, 50, {})
    with pytest.raises(ValueError, match=f"^{start}[^\n]*$"):
        read_config(config, 50, "model.config")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (T5, NO_CAUSAL_LM),
        ({"model_type": "llama", "hidden_act": "sillu"}, "KeyError: 'sillu'"),
        (
            {"model_type": "gpt2", "n_embd": 30, "n_head": 4},
            "`embed_dim` must be divisible by num_heads (got `embed_dim`: 30 and `num_heads`: 4)",
        ),
    ],
)
def test_a_network_that_transformers_cannot_build_is_one_line(config, message):
    with pytest.raises(ValueError, match=f"^model.config: {re.escape(message)}$"):
        new_causal_lm(config, 50, {})


@pytest.mark.parametrize("command", ["fit", "plan"])
def test_a_width_that_heads_do_not_divide_is_refused(tiny_stages, tmp_path, capsys, command):
    line = tiny_stages.stage("pretrain")[1:]
    line[line.index("--run") + 1] = str(tmp_path / "run")
    if command == "plan":
        del line[line.index("--run") :][:2]
    assert main([command, *line, "--model.init_args.config.hidden_size=130"]) == 2
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("trivium: ")] == [
        f"trivium: model.config: {WIDTH}"
    ]


@pytest.fixture
def saved(tiny_stages, tmp_path):
    """A copy of SFT's result whose config.json can be changed."""
    folder = tmp_path / "saved"
    shutil.copytree(tiny_stages.export("sft"), folder)

    def change(**fields) -> Path:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
        return folder

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 130}, WIDTH),
        (
            {"model_type": "lama"},
            "The checkpoint you are trying to load has model type `lama` but ",
        ),
        (T5, NO_CAUSAL_LM),
        (BALANCED, BALANCE),
    ],
)
def test_a_directory_whose_config_is_wrong_is_refused_by_run_and_plan(saved, changes, message):
    folder = saved(**changes)
    start = f"model.pretrained: {folder}/config.json: {message}"
    problem = parent_problem("pretrained", str(folder), ("sft",))
    assert problem is not None
    assert problem.startswith(start)
    assert "\n" not in problem
    with pytest.raises(ValueError, match=f"^{re.escape(start)}"):
        read_config(str(folder), None, "model.pretrained")


def test_a_directory_whose_files_were_cut_off_is_refused(saved):
    folder = saved()
    (folder / "provenance.json").write_text('{"stage": "sf')
    problem = parent_problem("pretrained", str(folder), ("sft",))
    assert problem == (
        f"model.pretrained: {folder}/provenance.json was cut off or is something else: write the export "
        "again, or delete that file to take the directory as it is"
    )
    (folder / "provenance.json").unlink()
    (folder / "config.json").write_text('{"model_type": "lla')
    problem = parent_problem("pretrained", str(folder), ("sft",))
    assert problem == (
        f"model.pretrained: {folder}/config.json is no JSON: it was cut off or is something else"
    )


@pytest.mark.parametrize("none", ["max_steps=0", "limit_train_batches=0", "limit_train_batches=0.0"])
def test_a_run_that_would_train_nothing_is_refused(refused, none):
    (line,) = refused("sft", f"--trainer.{none}")
    assert "is 0, so nothing would be trained" in line


def test_weights_that_lack_a_tensor_or_have_too_many_are_refused(tiny_stages, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(tiny_stages.export("reward"), folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, facts = load_file(weights), json.loads(config.read_text())
    lost = ("model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.up_proj.weight")
    save_file({name: tensor for name, tensor in whole.items() if name not in lost}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=re.escape(f"`{lost[0]}` and 1 more: missing from the weights")):
        load_scalar_model(str(folder), zeros_)
    headless = {name: tensor for name, tensor in whole.items() if name != "score.weight"}
    save_file(headless, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="no reward head .no `score.weight`"):
        load_scalar_model(str(folder))
    assert load_scalar_model(str(folder), zeros_).score.out_features == 1
    save_file(whole, weights, {"format": "pt"})
    config.write_text(json.dumps({**facts, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"`model\.layers\.1\..* more: not in a model by config\.json"):
        load_scalar_model(str(folder))


def test_weights_of_other_shapes_than_the_config_are_refused_by_name(saved, tiny_config):
    folder = saved(hidden_size=64)
    for load in (load_causal_lm, load_scalar_model):
        with pytest.raises(ValueError, match=re.escape(f"{folder}: `")) as refusal:
            load(str(folder))
        assert "by config.json: give weights and config that belong together" in str(refusal.value)
    width = tiny_config["intermediate_size"]
    folder = saved(hidden_size=tiny_config["hidden_size"], intermediate_size=width + 2)
    wrong = f"`model.layers.0.mlp.down_proj.weight` is (32, {width}) in the weights, but (32, {width + 2}) by"
    with pytest.raises(ValueError, match=re.escape(wrong)):
        load_causal_lm(str(folder))
