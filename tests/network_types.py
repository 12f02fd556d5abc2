"""Every type of causal language model that transformers has, as a config that transformers can build."""

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 512,
    "indexer_compress_ratio": 2,
}
DEFAULTS = {
    # what the defaults leave out, as published checkpoints have it
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 20,
        "rope_parameters": {"sliding_attention": ROPE, "full_attention": ROPE},
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0, "kv_n_heads": 8}},
    "deepseek_v2": {"n_routed_experts": 64, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 2},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 16},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen4_exp": {"text_config": {"model_type": "qwen4_exp_text", **INDEXER}},
    "qwen4_exp_text": INDEXER,
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
}
UNBUILDABLE = {
    "gemma3n": "its picture encoder needs the package timm",
    "gemma4_assistant": "it reads hidden states of another network",
    "gemma4_unified_assistant": "it reads hidden states of another network",
    "musicgen": "transformers builds no MusicgenForCausalLM from its config",
    "musicgen_melody": "transformers builds no MusicgenMelodyForCausalLM from its config",
}
"""what plain transformers itself cannot run as a causal language model at any size"""


def default_config(model_type: str):
    """The config of a type, as a decoder where it may be an encoder."""
    options = DEFAULTS.get(model_type, {})
    known = CONFIG_MAPPING[model_type]
    if getattr(known, "is_decoder", None) is False:
        options = {**options, "is_decoder": True}
    return known(**options)
