"""A probe-size copy of any causal language model's config: few layers, small widths, a small vocabulary, and
everything else as it is.

What makes a network special stays: the kinds of layers, windows (but short), sinks, soft caps,
scales, biases, ropes, experts, state layers. The copy is there to be compared, never to be trained.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.utils import logging

VOCABULARY = 97
WINDOW = 4  # tokens, shorter than any document of the probe
POSITIONS = 64
SOFT_CAP = 1.0  # so small that it shows in small logits
WINDOW_FIELDS = """sliding_window attention_window window_size sliding_window_size attention_window_size
    attention_chunk_size keep_window_size local_attention local_attn_chunk_length lsh_attn_chunk_length
    local_attention_window_len index_topk indexer_budget"""
"""how far a token sees, or how many tokens it chooses"""
SMALL_FIELDS = (
    (
        VOCABULARY,
        """vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size shape_vocab_size
        encoder_hash_byte_group_vocab pronunciation_vocab_size ngram_vocab_size_base""",
    ),
    (
        POSITIONS,
        """max_position_embeddings n_positions n_ctx max_seq_len max_target_positions context_length
        original_max_position_embeddings max_sequence_length model_max_length""",
    ),
    (
        64,
        """hidden_size n_embd d_model emb_dim embedding_size word_embed_proj_dim lru_width embedding_dim
        backbone_hidden_size hidden_size_global input_embedding_size adapter_in_dim adapter_out_dim
        adapter_input_size ffn_dim intermediate_size n_inner ffn_hidden_size inner_size dff dim_ff d_ff
        d_inner decoder_ffn_dim encoder_ffn_dim mlp_dim intermediate_size_mlp dense_intermediate_size
        feed_forward_size block_ff_dim mamba_d_ssm qk_head_dim""",
    ),
    (48, "qk_nope_head_dim"),
    (
        32,
        """moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
        moe_shared_expert_intermediate_size expert_ffn_hidden_size shared_experts_intermediate_size
        prefix_dense_intermediate_size dim_model_base max_source_positions""",
    ),
    (
        16,
        """head_dim rotary_dim qk_rope_head_dim v_head_dim linear_key_head_dim swa_head_dim d_head d_kv
        linear_value_head_dim mamba_d_head mamba_head_dim mamba_headdim q_lora_rank kv_lora_rank o_lora_rank
        state_size ssm_state_size mamba_d_state hidden_size_per_layer_input kv_channels index_head_dim
        indexer_head_dim linear_head_dim attention_head_dim attention_head_size dim_head d_rel hc_lowrank
        laurel_rank gated_norm_rank router_hidden_size adapter_rank mamba_dt_rank time_step_rank""",
    ),
    (16, "index_n_heads indexer_n_heads"),  # with fewer, relu makes scores equal that otherwise never are
    (
        8,
        """mamba_n_heads mamba_num_heads linear_num_value_heads chunk_size mamba_chunk_size block_size
        floor_scale log_scaling_n_floor""",
    ),
    (
        4,
        """num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads
        encoder_attention_heads swa_num_attention_heads num_decoder_attention_heads linear_num_heads
        num_encoder_attention_heads linear_num_key_heads num_experts num_local_experts n_routed_experts
        moe_num_experts zero_expert_num query_pre_attn_scalar""",
    ),
    (
        2,
        """num_query_groups n_groups num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts
        attn_layer_period expert_layer_period full_attention_interval no_rope_layer_interval layer_group_size
        global_attn_every_n_layers sliding_window_pattern heads_per_ngram""",
    ),
    (
        1,
        """n_group topk_group num_expert_group n_shared_experts num_shared_experts first_k_dense_replace
        num_dense_layers moe_num_shared_experts attn_layer_offset expert_layer_offset num_mtp_layers
        num_nextn_predict_layers mamba_n_groups mamba_ngroups""",
    ),
)
VOCABULARIES = SMALL_FIELDS[0][1].split()
"""set even where the network's own is smaller, so that one set of documents does for all"""
WINDOWS = dict.fromkeys(WINDOW_FIELDS.split(), WINDOW)
SIZES = {name: size for size, names in SMALL_FIELDS for name in names.split()} | WINDOWS
"""a field → its size, where it is larger"""
LISTS = {"mrope_section": [4, 2, 2], "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 48]}
KV_HEADS = {
    "num_key_value_heads": ("num_attention_heads", "num_heads"),
    "swa_num_key_value_heads": ("swa_num_attention_heads",),
    "num_kv_heads": ("num_attention_heads",),
    "kv_n_heads": ("n_heads",),
}
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers")
LAYER_NUMBERS = ("full_attn_idxs", "moe_layers", "hybrid_layer_ids", "mlp_only_layers", "attn_layer_indices")
"""fields that list layers by their number"""
STATES = (
    ("num_heads", "head_dim", "expand"),
    ("n_mamba_heads", "mamba_headdim", "mamba_expand"),
    ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
    ("mamba_num_heads", "mamba_head_dim", "expand"),
)
"""heads of a state layer, their width, and what their product is to the hidden size"""


NOT_THE_NETWORK = (
    *("_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version"),
    *("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"),
)
"""fields of a config on which it does not depend how a network is computed: what a tokenizer fills in, under
some strategies only when the network is being cut, must not make it probed again"""


def fields_of(config: PretrainedConfig) -> str:
    """What a network's computation depends on, as a text by which results are kept."""
    fields = {name: value for name, value in config.to_dict().items() if name not in NOT_THE_NETWORK}
    return json.dumps(fields, sort_keys=True, default=str)


def config_of(fields: str) -> PretrainedConfig:
    """The config again."""
    options = json.loads(fields)
    return CONFIG_MAPPING[options["model_type"]].from_dict(options)


@contextmanager
def as_a_copy() -> Iterator[None]:
    """While it lasts, transformers warns of nothing: what it has against a copy, such as special tokens
    beyond the copy's few, is not so of the network itself."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def small_configs(config: PretrainedConfig) -> Iterator[Callable[[], PretrainedConfig]]:
    """Copies of a causal language model's config that are built and run in a moment: the smallest first,
    nearer to the original where transformers has something against those before."""
    for layers, sizes in ((1, SIZES), (2, SIZES), (None, WINDOWS)):
        yield partial(_small_config, config, layers, sizes)


def two_layers(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a config with its own sizes but for its windows, and two layers of each kind."""
    return _small_config(config, 2, WINDOWS)


def _small_config(config: PretrainedConfig, layers: int | None, sizes: Mapping[str, int]) -> PretrainedConfig:
    options = {name: _value(config, name, value) for name, value in config.to_dict().items()}
    return CONFIG_MAPPING[config.model_type].from_dict(small(options, layers, sizes))


def _value(config: PretrainedConfig, name: str, value: Any) -> Any:
    # some write two layers for each of theirs; configs within are dicts only in what is written
    return vars(config).get(name, value) if isinstance(value, int | list) else value


def small(options: Mapping[str, Any], layers: int | None, sizes: Mapping[str, int]) -> dict[str, Any]:
    """A config's fields made small, those of the configs in it as well.

    Args:
        options: the fields.
        layers: how many of each kind; None = all.
        sizes: field → its size, where it is larger; all but `SIZES` leave the widths as they are.
    """
    kept = dict(options) if layers is None else few_layers(options, layers)
    few = {name: _small_value(name, value, kept, layers, sizes) for name, value in kept.items()}
    return few | _agreeing(few, options) if sizes is SIZES else few


def _small_value(
    name: str, value: Any, options: Mapping[str, Any], layers: int | None, sizes: Mapping[str, int]
) -> Any:
    if isinstance(value, Mapping):
        return value if name in ("id2label", "label2id") else small(value, layers, sizes)
    if isinstance(value, float) and ("softcap" in name or "soft_cap" in name):
        return min(value, SOFT_CAP)
    if isinstance(value, list) and sizes is SIZES:
        if name in ("long_factor", "short_factor"):  # of a rope: a number for each pair of dimensions
            width = SIZES["head_dim"] * (options.get("partial_rotary_factor") or 1.0)
            return value[: int(width / 2)]
        if name in LISTS:
            return LISTS[name]
        return [_small_value(name, item, options, layers, sizes) for item in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if name in KV_HEADS and sizes is SIZES:
        heads = next((options[other] for other in KV_HEADS[name] if options.get(other)), value)
        return min(value, 4 if value == heads else 2)
    if name in SPECIAL_IDS and sizes is SIZES:
        return SPECIAL_IDS[name]
    if value and name in VOCABULARIES:
        return sizes.get(name, value)
    return min(value, sizes.get(name, value))


def _agreeing(few: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that follow from others."""
    width, agreeing = few.get("hidden_size"), {}
    if width and options.get("attention_hidden_size"):
        ratio = options["attention_hidden_size"] // options["hidden_size"]
        agreeing["attention_hidden_size"] = width * ratio
        if few.get("attention_head_dim"):
            agreeing["attention_head_dim"] = width * ratio // few["num_attention_heads"]
    for heads, head, expand in STATES:
        if width and all(few.get(name) for name in (heads, head, expand)):
            agreeing[head] = int(width * few[expand]) // few[heads]
    if few.get("mamba_d_ssm"):  # FalconH1's own width of the state, instead of `mamba_expand`
        agreeing["mamba_d_head"] = few["mamba_d_ssm"] // few["mamba_n_heads"]
    if few.get("qk_nope_head_dim"):  # of a latent attention: all of a head, or only what turns
        for name in ("head_dim", "swa_head_dim"):
            if few.get(name) and options[name] != options["qk_rope_head_dim"]:
                agreeing[name] = few["qk_nope_head_dim"] + few["qk_rope_head_dim"]
    if few.get("num_layers_per_stack"):  # HRM's: layers that are gone through several times
        stack = min(2, few["num_layers_per_stack"])
        agreeing["num_layers_per_stack"] = stack
        agreeing["num_hidden_layers"] = stack * few["H_cycles"] * (few["L_cycles"] + 1)
    return agreeing


def few_layers(options: Mapping[str, Any], each: int) -> dict[str, Any]:
    """A network's fields with so many layers of each kind, and two at least."""
    name = next((name for name in LAYERS if isinstance(options.get(name), int)), None)
    if name is None or options[name] <= 2:
        return dict(options)
    count = options[name]
    numbers = {k: options[k] for k in LAYER_NUMBERS if options.get(k)}
    lists = {k: v for k, v in options.items() if isinstance(v, list) and len(v) == count and k not in numbers}
    own = {int(number): value for number, value in (options.get("per_layer_config") or {}).items()}
    pattern = options.get("block_types") or [None]  # RecurrentGemma's: kinds in turn
    # layers from which on something else holds
    starts = {"num_kv_shared_layers": count - (options.get("num_kv_shared_layers") or 0)}
    if options.get("n_recurrent_layers"):
        starts["n_recurrent_layers"] = options["n_input_layers"]
        starts["n_output_layers"] = count - options["n_output_layers"]

    def kind(layer: int) -> str:
        listed = [layer in layers for layers in numbers.values()]
        sections = [layer >= start for start in starts.values()]
        in_turn = pattern[layer % len(pattern)]
        return repr(([v[layer] for v in lists.values()], listed, sections, own.get(layer), in_turn))

    kinds: dict[str, list[int]] = {}
    for layer in range(count):
        kinds.setdefault(kind(layer), []).append(layer)
    each = max(each, 2 if len(kinds) == 1 else 1)
    kept = sorted(layer for layers in kinds.values() for layer in layers[:each])
    few = {
        **options,
        **{k: [v[layer] for layer in kept] for k, v in lists.items()},
        **{k: [new for new, layer in enumerate(kept) if layer in v] for k, v in numbers.items()},
        **{
            k: len(kept) for k in (*LAYERS, "encoder_layers", "num_blocks") if isinstance(options.get(k), int)
        },
    }
    if own:
        few["per_layer_config"] = {f"{new:02}": own[layer] for new, layer in enumerate(kept) if layer in own}
    if options.get("num_kv_shared_layers"):
        few["num_kv_shared_layers"] = sum(layer >= starts["num_kv_shared_layers"] for layer in kept)
    if options.get("n_recurrent_layers"):
        few["n_input_layers"] = sum(layer < starts["n_recurrent_layers"] for layer in kept)
        few["n_output_layers"] = sum(layer >= starts["n_output_layers"] for layer in kept)
        few["n_recurrent_layers"] = len(kept) - few["n_input_layers"] - few["n_output_layers"]
    if pattern != [None]:
        few["block_types"] = [pattern[layer % len(pattern)] for layer in kept]
    if options.get("attention_types"):  # GPT-Neo's: kinds in turn, how often
        few["attention_types"] = [[["global", "local"], len(kept) // 2]]
    return few
