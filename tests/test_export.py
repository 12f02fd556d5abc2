"""The hand-over: plain `transformers`, in a process that cannot import this project, gives the same
numbers."""

import json
import subprocess
import sys

import pytest
import torch

from modules.atomic import replaced_folder
from modules.backbone import LanguageModel, ScalarModel
from modules.hf_load import load_causal_lm, load_scalar_model, parent_problem, read_provenance

IDS = [[1, 20, 30, 40, 50, 60, 2], [1, 25, 35, 45, 2]]
PLAIN = """
import json, sys
try:
    import modules
    sys.exit("this process can import the project")
except ImportError:
    pass
import torch, transformers
torch.set_num_threads(1)
torch.set_grad_enabled(False)
out = {}
for name, kind, path in json.loads(sys.argv[1]):
    model, info = getattr(transformers, kind).from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    rows = json.loads(sys.argv[2])
    width = max(map(len, rows))
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    out[name] = model.eval()(input_ids=ids, attention_mask=mask).logits.tolist()
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def plain(tiny_stages, tmp_path_factory):
    """What plain transformers says of each stage's export on two rows padded on the right."""
    wanted = [
        ("pretrain", "AutoModelForCausalLM", tiny_stages.export("pretrain")),
        ("sft", "AutoModelForCausalLM", tiny_stages.export("sft")),
        ("actor", "AutoModelForCausalLM", tiny_stages.export("ppo")),
        ("reward", "AutoModelForSequenceClassification", tiny_stages.export("reward")),
        ("critic", "AutoModelForTokenClassification", tiny_stages.export("ppo") + "/critic"),
    ]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    # -I: neither this folder nor the environment's paths; an editable install is taken off the path
    code = "import os, sys; sys.path = [p for p in sys.path if not os.path.exists(p + '/modules/stage.py')]\n"
    line = [sys.executable, "-I", "-c", code + PLAIN, json.dumps(wanted), json.dumps(IDS)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=elsewhere, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: torch.tensor(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def ours(row):
    ids = torch.tensor([row])
    return ids, torch.arange(len(row))[None], torch.zeros_like(ids)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), [("pretrain", "pretrain"), ("sft", "sft"), ("actor", "ppo")])
@torch.no_grad()
def test_language_models_give_the_same_log_probs(plain, tiny_stages, name, folder):
    model = LanguageModel(load_causal_lm(tiny_stages.export(folder))).eval()
    for index, row in enumerate(IDS):
        ids, positions, documents = ours(row)
        found = -model(ids, ids, positions, documents)[0, 1:]
        expected = plain[name][index, : len(row) - 1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # fp32, with and without padding


@pytest.mark.slow
@torch.no_grad()
def test_the_reward_model_gives_the_same_scores_at_the_last_token(plain, tiny_stages):
    model = ScalarModel(load_scalar_model(tiny_stages.export("reward"))).eval()
    for index, row in enumerate(IDS):
        torch.testing.assert_close(model(*ours(row))[0, -1], plain["reward"][index, 0], atol=1e-5, rtol=0)
    assert abs(read_provenance(tiny_stages.export("reward"))["offset"]) > 0


@pytest.mark.slow
@torch.no_grad()
def test_the_critic_gives_the_values_that_ppo_used(plain, tiny_stages):
    """From the Lightning checkpoint: the weights as trained, and the offset that PPO subtracts."""
    path = tiny_stages.out / "ppo" / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    offset = state["network.critic.offset"]
    assert offset == pytest.approx(read_provenance(tiny_stages.export("reward"))["offset"])
    model = ScalarModel(load_scalar_model(tiny_stages.export("reward")), float(offset)).eval()
    model.load_state_dict({k.removeprefix("network.critic."): v for k, v in state.items() if ".critic." in k})
    for index, row in enumerate(IDS):
        expected = plain["critic"][index, : len(row), 0]
        torch.testing.assert_close(model(*ours(row))[0], expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_ppo_changed_actor_and_critic_and_left_the_frozen_models_alone(tiny_stages):
    path = tiny_stages.out / "ppo" / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]

    def parts(prefix):
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    sft = load_causal_lm(tiny_stages.export("sft")).state_dict()
    reward = load_scalar_model(tiny_stages.export("reward")).state_dict()
    reference, frozen = parts("network.reference.model."), parts("network.reward.model.")
    assert all(torch.equal(value, sft[name]) for name, value in reference.items())
    assert all(torch.equal(value, reward[name]) for name, value in frozen.items())
    assert any(not torch.equal(value, sft[name]) for name, value in parts("network.actor.model.").items())
    assert any(not torch.equal(value, reward[name]) for name, value in parts("network.critic.model.").items())


def test_provenance_names_stage_and_parent(tiny_stages):
    facts = read_provenance(tiny_stages.export("reward"))
    assert facts["stage"] == "reward"
    assert facts["parent"] == tiny_stages.export("sft")
    assert parent_problem("pretrained", tiny_stages.export("reward"), ("reward",)) is None


def test_a_failing_export_leaves_the_old_one(tmp_path):
    def write(text, error=None):
        with replaced_folder(str(tmp_path / "export")) as folder:
            (folder / "x").write_text(text)
            if error:
                raise error

    write("old")
    with pytest.raises(OSError, match="disk full"):
        write("half", OSError("disk full"))
    assert (tmp_path / "export" / "x").read_text() == "old"
