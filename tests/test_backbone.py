"""The network with its loss inside: exact, packed without leaks, and never with all logits at once."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from datamodules.collate import packed_blocks, token_rows
from experiments.plan.network_sizes import sizes
from modules.backbone import LanguageModel, disable_dropout, repeated_blocks
from modules.generation import generate

SMALL = {
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "qwen2": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "resid_pdrop": 0.1,
        "attn_pdrop": 0.1,
    },
}


def network(model_type: str = "llama", vocab_size: int = 97) -> LanguageModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=vocab_size, **SMALL[model_type])
    return LanguageModel(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"))


def inputs(batch: dict) -> list[torch.Tensor]:
    return [batch[key] for key in ("input_ids", "labels", "position_ids", "document_ids")]


class Allocations(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return out


def test_the_loss_equals_hugging_faces():
    model = network().eval()
    ids = torch.randint(0, 97, (2, 17))
    labels = ids.clone()
    labels[0, :5] = -100
    batch = token_rows([[row.numpy()] for row in ids], [[row.numpy()] for row in labels], [0, 0], pad_id=0)
    losses = model(*inputs(batch))
    expected = model.model(input_ids=ids, labels=labels).loss
    trained = (labels[:, 1:] != -100).sum()
    torch.testing.assert_close(losses.sum() / trained, expected, atol=1e-5, rtol=0)  # fp32, order of 28 terms
    assert (losses[labels == -100] == 0).all()


def test_no_training_step_ever_allocates_all_logits():
    tokens, vocabulary = 1536, 4096
    model = network(vocab_size=vocabulary)
    ids = torch.randint(0, vocabulary, (12, tokens // 12))
    batch = packed_blocks(ids.numpy(), torch.zeros_like(ids).numpy(), [0] * 12)
    with Allocations() as seen:
        model(*inputs(batch)).sum().backward()
    assert model.model.lm_head.weight.grad.abs().sum() > 0
    assert seen.largest < tokens * vocabulary / 2  # chunks of 512 tokens: a third of it
    with Allocations() as plain:
        model.model(input_ids=ids, labels=ids).loss.backward()
    assert plain.largest >= (tokens - 12) * vocabulary  # the measure sees what it should see


def test_bf16_loss_is_within_a_thousandth_of_fp32_cross_entropy_on_the_same_hidden_states():
    torch.manual_seed(0)
    model = network(vocab_size=2048)
    hidden = torch.randn(1200, 32).bfloat16()
    labels = torch.randint(0, 2048, (1200,))
    losses = model.token_losses(hidden, labels)
    head = model.model.lm_head.weight.bfloat16().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = model.token_losses(hidden, labels)
    expected = F.cross_entropy(hidden.float() @ head.T, labels, reduction="sum")
    assert losses.dtype == autocast.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the products are in bf16 there, whatever comes in
        from_fp32 = model.token_losses(hidden.float(), labels)
    assert torch.equal(from_fp32, autocast)
    assert abs(autocast.sum() / expected - 1) < 1e-3  # the design's promise


@pytest.mark.parametrize("model_type", list(SMALL))
def test_packed_loss_and_gradients_equal_unpacked_ones(model_type):
    model = network(model_type).train()
    disable_dropout(model)
    torch.manual_seed(1)
    lengths = [7, 12, 5, 9, 15]
    documents = [torch.randint(1, 97, (n,)).numpy() for n in lengths]

    def gradients(batches):
        model.zero_grad()
        loss = sum(model(*inputs(batch)).sum() for batch in batches)
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters()]

    alone = []
    for document in documents:
        labels = document.copy()
        labels[0] = -100
        alone.append(token_rows([[document]], [[labels]], [0], pad_id=0))
    rows = torch.zeros(2, 26, dtype=torch.int64)
    owners = torch.full((2, 26), -1)
    for row, members in enumerate(([0, 1, 2], [3, 4])):
        start = 0
        for number, index in enumerate(members):
            rows[row, start : start + lengths[index]] = torch.from_numpy(documents[index])
            owners[row, start : start + lengths[index]] = number
            start += lengths[index]
    packed = packed_blocks(rows.numpy(), owners.numpy(), [0, 0])
    loss, grads = gradients([packed])
    expected_loss, expected_grads = gradients(alone)
    # sums of 43 losses near 4.6: 1e-5 relative is a few fp32 roundings
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    for found, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-5 * float(expected.abs().max().clamp(min=1))
        )


def test_padding_on_the_right_changes_nothing():
    model = network().eval()
    short, long = torch.arange(1, 8).numpy(), torch.arange(1, 30).numpy()
    alone = token_rows([[short]], [[short]], [0], pad_id=0)
    together = token_rows([[short], [long]], [[short], [long]], [0, 0], pad_id=0)
    torch.testing.assert_close(model(*inputs(together))[0, :7], model(*inputs(alone))[0], atol=1e-5, rtol=0)


def test_without_dropout_training_mode_is_deterministic():
    model = network("gpt2").train()
    ids = torch.arange(1, 20)[None]
    batch = token_rows([[ids[0].numpy()]], [[ids[0].numpy()]], [0], pad_id=0)
    assert not torch.equal(model(*inputs(batch)), model(*inputs(batch)))
    disable_dropout(model)
    assert torch.equal(model(*inputs(batch)), model(*inputs(batch)))


@pytest.mark.parametrize("model_type", list(SMALL))
def test_recomputed_blocks_give_the_same_gradients_and_keep_far_less(model_type):
    """With dropout, whose numbers are drawn again; the same operations on the same numbers: to the bit."""
    plain, recomputed = network(model_type).train(), network(model_type).train()
    recomputed.enable_activation_checkpointing()
    ids = torch.randint(0, 97, (4, 64), generator=torch.Generator().manual_seed(0))
    batch = packed_blocks(ids.numpy(), torch.zeros_like(ids).numpy(), [0] * 4)
    kept = []
    for model in (plain, recomputed):
        storages: dict[int, int] = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(*inputs(batch)).sum()
        loss.backward()
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept.append(sum(size for place, size in storages.items() if place not in weights))
    for one, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert kept[1] < 0.6 * kept[0]  # two of two blocks; the head's share and the mask stay


def test_recomputed_blocks_decode_with_their_cache_in_training_mode():
    model = network().train()
    prompt, mask = torch.arange(1, 9)[None], torch.ones(1, 8, dtype=torch.bool)
    limits = {"stop_token_ids": [0], "pad_token_id": 0, "vocabulary": model.model.config.vocab_size}
    expected = generate(model, prompt, mask, 6, **limits)[0]
    model.enable_activation_checkpointing()
    assert torch.equal(generate(model, prompt, mask, 6, **limits)[0], expected)


def test_sampling_reads_the_same_probabilities_as_the_loss_under_autocast():
    """PPO's head is fp32 in both: logits in bf16 near 5 would be off by up to 0.016."""
    model = network().eval()
    model.fp32_head = True
    ids = torch.arange(1, 20)[None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        batch = token_rows([[ids[0].numpy()]], [[ids[0].numpy()]], [0], pad_id=0)
        loss = model(*inputs(batch))[0, -1]
        cache = DynamicCache(config=model.model.config)
        seen, positions = torch.ones(1, 18, dtype=torch.int64), torch.arange(18)[None]
        logits = model.next_logits(ids[:, :-1], seen, positions, cache)
    assert logits.dtype == torch.float32
    # both from the same bf16 hidden states, up to the order of their sums: far below bf16's step of 0.016
    torch.testing.assert_close(-logits.log_softmax(-1)[0, ids[0, -1]], loss, atol=2e-3, rtol=0)


EIGHT = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 5, "moe_intermediate_size": 8, "num_experts_per_tok": 2}
# biogpt has no `_no_split_modules`; longcat_flash's blocks hold lists and count twice; jamba has two kinds
DECODERS = {
    "llama": ("LlamaDecoderLayer", EIGHT),
    "qwen3": ("Qwen3DecoderLayer", {**EIGHT, "head_dim": 8}),
    "qwen3_moe": ("Qwen3MoeDecoderLayer", {**EIGHT, **EXPERTS, "head_dim": 8}),
    "gemma": ("GemmaDecoderLayer", {**EIGHT, "head_dim": 8}),
    "phi3": ("Phi3DecoderLayer", {**EIGHT, "pad_token_id": 0}),
    "olmo2": ("Olmo2DecoderLayer", EIGHT),
    "mixtral": ("MixtralDecoderLayer", {**EIGHT, "num_local_experts": 5}),
    "longcat_flash": (
        "LongcatFlashDecoderLayer",
        {
            **{"hidden_size": 16, "num_attention_heads": 2, "n_routed_experts": 3},
            **{"num_hidden_layers": 6, "num_layers": 3},  # older transformers read the second alone
        },
    ),
    "gpt_neox": ("GPTNeoXLayer", {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}),
    "gpt2": ("GPT2Block", {"n_embd": 16, "n_head": 2}),
    "biogpt": (
        "BioGptDecoderLayer",
        {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2},
    ),
    "jamba": (
        "JambaAttentionDecoderLayer JambaMambaDecoderLayer",
        {
            **EIGHT,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "use_mamba_kernels": False,
        },
    ),
}


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_networks_blocks_are_its_decoder_layers_in_training_and_in_the_plan(model_type):
    classes, options = DECODERS[model_type]
    config = AutoConfig.for_model(model_type, vocab_size=50, **{"num_hidden_layers": 3, **options})
    with torch.device("meta"):
        blocks = LanguageModel(AutoModelForCausalLM.from_config(config)).blocks()
    assert {type(block).__name__ for block in blocks} == set(classes.split())
    assert len(blocks) == 3
    found = sizes(config)
    counts = [sum(p.numel() for p in block.parameters()) for block in blocks]
    assert (found.layers, found.block, found.outside) == (3, max(counts), found.parameters - sum(counts))


def test_a_network_without_repeated_blocks_is_refused_by_name():
    model = network()
    model.model.model.layers = torch.nn.Identity()
    with pytest.raises(ValueError, match="model: `llama` has no list of repeated blocks"):
        model.enable_activation_checkpointing()
    with pytest.raises(ValueError, match="`llama`"):
        repeated_blocks(model.model)
