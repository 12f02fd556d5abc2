"""The table of `networks.md`: how each causal language model of transformers is computed, or why not.

    python -m experiments.docs.networks_table

It says what the probe finds for the transformers that is installed; half a minute on one core.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from modules.errors import UserError
from modules.probe import probe

PAGE = Path(__file__).with_name("networks.md")
START = "<!-- written by experiments.docs.networks_table -->"
TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 512,
    "indexer_compress_ratio": 2,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 20,
        "rope_parameters": {"sliding_attention": ROPE, "full_attention": ROPE},
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0, "kv_n_heads": 8}},
    "deepseek_v2": {"n_routed_experts": 64, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 2},
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        }
    },
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
"""what the defaults of some types leave out, as published checkpoints have it"""


class Row(NamedTuple):
    """A type of network."""

    model_type: str
    rows: str
    head: str
    decoding: str
    scalar: str
    """the rows of its reward model and critic"""
    refusal: str


def default_config(model_type: str) -> PretrainedConfig:
    """The config of a type, as a decoder where it may be an encoder."""
    known = CONFIG_MAPPING[model_type]
    decoder = {"is_decoder": True} if getattr(known, "is_decoder", None) is False else {}
    options: dict[str, Any] = {**decoder, **OPTIONS.get(model_type, {})}
    return known(**options)


def table_row(model_type: str) -> Row:
    """What the probe finds for a type."""
    config = default_config(model_type)
    try:
        route = probe(config)
    except UserError as error:
        return Row(model_type, "", "", "", "", str(error))
    try:
        return Row(model_type, *route, probe(config, scalar=True).rows, "")
    except UserError:
        return Row(model_type, *route, "–", "")


def tally(rows: Sequence[Row]) -> str:
    """How many types take which rows."""
    counts = Counter(row.rows or "refused" for row in rows)
    scalar = sum(row.scalar in ("flat", "documents") for row in rows)
    return (
        f"transformers {transformers.__version__}: of {len(rows)} types {counts['flat']} are exact in flat "
        f"rows, {counts['documents']} with each document in a row of its own, {counts['refused']} are "
        f"refused; {scalar} can be reward models and critics."
    )


def table(rows: Sequence[Row]) -> str:
    """The tally and the table as Markdown."""
    lines = [tally(rows), "", "| type | rows | head | decoding | reward and critic |", "| --- " * 5 + "|"]
    for row in rows:
        if row.refusal:
            lines.append(
                f"| `{row.model_type}` | refused: {row.refusal.partition(': give another')[0]} | | | |"
            )
        else:
            lines.append(f"| `{row.model_type}` | {' | '.join(row[1:5])} |")
    return "\n".join(lines)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8").partition(START)[0]
    rows = [table_row(model_type) for model_type in TYPES]
    PAGE.write_text(f"{text}{START}\n\n{table(rows)}\n", encoding="utf-8")
    print(tally(rows))


if __name__ == "__main__":
    main()
