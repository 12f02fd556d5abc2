"""A network of any architecture is trained, or refused in a line that names what is wrong with it: its own
sizes count, and not only those of the small copy that is tried."""

import json
from pathlib import Path

import pytest

from experiments.cli.program import main
from modules.errors import UserError
from modules.hf_config import new_config
from modules.probe import probe

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SMALL, "model_type": "llama"}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "codegen", "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
        {**SMALL, "model_type": "gpt_neox"},
        {"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        {**SMALL, "model_type": "gemma", "num_key_value_heads": 2, "head_dim": 8},
        {
            **{**SMALL, "model_type": "qwen2_moe", "num_key_value_heads": 2, "num_experts": 4},
            **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
        },
        {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        {**SMALL, "model_type": "bert", "is_decoder": True},
    ],
    ids=lambda config: config["model_type"],
)
def test_another_architecture_trains_and_is_exported(stage_lines, tmp_path, capsys, config):
    line = [
        *stage_lines(tmp_path).stage("pretrain"),
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
    ]
    at = next(i for i, word in enumerate(line) if word.startswith("--model.init_args.config="))
    line[at] = f"--model.init_args.config={json.dumps(config)}"
    assert main(line) == 0
    saved = json.loads((tmp_path / "pretrain/export/config.json").read_text())
    assert saved["model_type"] == config["model_type"]
    assert "Traceback" not in capsys.readouterr().err  # as torch logs one where it counts what it cannot


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            {**LLAMA, "num_key_value_heads": 3},
            "num_attention_heads is 4, no multiple of num_key_value_heads, 3",
        ),
        (
            {**SMALL, "model_type": "stablelm"},
            "num_attention_heads is 4, no multiple of num_key_value_heads, 32",
        ),
        (
            {**LLAMA, "attention_dropout": 1.5},
            "`llama` with these sizes: dropout probability has to be between",
        ),
        ({**LLAMA, "num_hidden_layers": -1}, "num_hidden_layers is -1: give 1 or more"),
        ({"model_type": "gpt2", "n_layer": 0}, "n_layer is 0: give 1 or more"),
        ({**LLAMA, "vocab_size": -10}, "vocab_size is -10: give 1 or more"),
        ({**SMALL, "model_type": "bert"}, "`bert` is no causal language model .* set `is_decoder: true`"),
        ({"model_type": "t5", "d_model": 32}, "`t5` is no causal language model in transformers"),
        ({"model_type": "vit"}, "`vit` is no causal language model in transformers"),
        (
            {"model_type": "gemma3", "hidden_size": 32},
            "has no field `vocab_size`, `hidden_size`: the network of its texts alone is `gemma3_text`",
        ),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_by_what_is_wrong(config, line):
    with pytest.raises(UserError, match=line):
        probe(new_config(config, 50, "model.config"))


def test_a_saved_network_of_wrong_heads_is_refused_before_anything_is_read(tiny_stages, refused, tmp_path):
    file = tmp_path / "config.json"
    saved = json.loads((Path(tiny_stages.export("pretrain")) / "config.json").read_text())
    file.write_text(json.dumps({**saved, "num_key_value_heads": 3}))
    told = refused("sft", f"--model.init_args.pretrained={tmp_path}")
    assert told[0] == (
        "trivium: model.pretrained: num_attention_heads is 4, no multiple of num_key_value_heads, 3: give a "
        "divisor of it"
    )
