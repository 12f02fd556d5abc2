"""What every network's training results in loads again in plain transformers: language models, reward models
and critics."""

import copy
import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import GenerationConfig, PreTrainedTokenizerFast

from experiments.docs.networks_table import PAGE, TYPES, default_config
from modules.backbone import ScalarModel
from modules.errors import UserError
from modules.hf_export import (
    LANGUAGE_MODEL,
    SEQUENCE_CLASSIFIER,
    critic_export,
    mend_generation,
    write_export,
)
from modules.probe import small_network
from modules.specs import ExportSpec

pytestmark = pytest.mark.usefixtures("quiet_transformers")
CHUNKS = 4
IDS = torch.arange(20, 33)[None]
OFFSET = 0.75
ZEROES_THE_PAD_ROW = ("youtu",)  # transformers does, in weights that it has loaded; the head is tied to them


@pytest.fixture(scope="module")
def tokenizer():
    words = {word: number for number, word in enumerate(("<pad>", "<unk>", "</s>", "film", "good"))}
    model = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def accepted(model_type, scalar):
    """What the table says, which a test holds against the probe."""
    (line,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{model_type}` "))
    rows, *_, scalar_rows = line.split("|")[2:-1]
    return (scalar_rows if scalar else rows).strip() in ("flat", "documents")


def built(model_type, scalar=False):
    torch.manual_seed(3)
    with torch.no_grad():
        return small_network(default_config(model_type), scalar)


def reloaded(spec, model, tokenizer, folder):
    """The directory of an export, by the class of transformers that it names."""
    write_export([spec.with_configs_of(model, [2])], [model.state_dict()], tokenizer, str(folder), {})
    cls = getattr(transformers, spec.auto_class)
    again, info = cls.from_pretrained(folder / spec.folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return again.eval()


def logits(model):
    return model(input_ids=IDS, use_cache=False).logits.float()


@torch.no_grad()
def faults(model_type, tokenizer, folder):
    """Which of a type's exports do not give again what was exported."""
    wrong = []
    if accepted(model_type, scalar=False):
        model = built(model_type)
        again = reloaded(
            ExportSpec("network.model", LANGUAGE_MODEL, "sft", None), model, tokenizer, folder / "lm"
        )
        first = 1 if model_type in ZEROES_THE_PAD_ROW else 0  # the pad token's id is 0
        if not torch.equal(logits(again)[..., first:], logits(model)[..., first:]):
            wrong.append("language model")
    if accepted(model_type, scalar=True):
        model = built(model_type, scalar=True)
        values = model.score(model.base_model(input_ids=IDS, use_cache=False).last_hidden_state)
        reward = ExportSpec("network.model", SEQUENCE_CLASSIFIER, "reward", None)
        again = reloaded(reward, model, tokenizer, folder / "reward")
        if not torch.equal(logits(again)[0], values[0, -1]):
            wrong.append("reward model")
        critic = critic_export("network.critic.model", ScalarModel(copy.deepcopy(model), OFFSET), "sft", {})
        again = reloaded(critic, model, tokenizer, folder / "ppo")
        found = logits(again)
        if critic.auto_class == SEQUENCE_CLASSIFIER:  # of the last token
            said = json.loads((folder / "ppo" / "critic" / "provenance.json").read_text())
            found, values = found[:, None] - said["offset"], values[:, -1:]
        if not torch.allclose(found, values - OFFSET, atol=1e-6, rtol=0):  # the offset is rounded elsewhere
            wrong.append(f"critic as {critic.auto_class}")
    return wrong


def test_a_generation_config_that_could_not_be_saved_is_mended_or_refused():
    mended = GenerationConfig(temperature=0.6, top_p=0.9, length_penalty=2.0)
    with pytest.raises(ValueError, match="temperature"):
        mended.validate(strict=True)
    mend_generation(mended)
    assert (mended.do_sample, mended.temperature, mended.length_penalty) == (True, 0.6, None)
    beams = GenerationConfig(num_beams=4, length_penalty=2.0)
    mend_generation(beams)
    assert (beams.do_sample, beams.length_penalty) == (None, 2.0)
    wrong = GenerationConfig()
    wrong.max_new_tokens = -1
    with pytest.raises(
        UserError, match=r"^generation_config.json of the start cannot be saved again: .*-1"
    ) as caught:
        mend_generation(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_every_accepted_network_results_in_loads_again(chunk, tokenizer, tmp_path):
    wrong = {}
    for model_type in TYPES[chunk::CHUNKS]:
        try:
            if found := faults(model_type, tokenizer, tmp_path / model_type):
                wrong[model_type] = found
        except Exception as error:
            wrong[model_type] = repr(error)[:300]
    assert not wrong
