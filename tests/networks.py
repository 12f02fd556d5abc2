"""Networks whose sizes are published, as the configs that `transformers` makes them from."""

from experiments.plan.network_sizes import read_config, sizes


def llama(hidden, inner, layers, heads, vocabulary=32000, kv_heads=None, **more):
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "vocab_size": vocabulary,
        **more,
    }


def gpt2(width, layers, heads):
    return {"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads, "vocab_size": 50257}


SEVEN = llama(4096, 11008, 32, 32)
NETWORKS = [
    ("LLaMA-7B", SEVEN, 6_738_415_616),
    ("LLaMA-13B", llama(5120, 13824, 40, 40), 13_015_864_320),
    ("LLaMA-33B", llama(6656, 17920, 60, 52), 32_528_943_616),
    ("LLaMA-65B", llama(8192, 22016, 80, 64), 65_285_660_672),
    ("Llama-2-70B", llama(8192, 28672, 80, 64, kv_heads=8), 68_976_648_192),
    ("Llama-3-8B", llama(4096, 14336, 32, 32, 128256, 8), 8_030_261_248),
    ("Llama-3-70B", llama(8192, 28672, 80, 64, 128256, 8), 70_553_706_496),
    ("Llama-3.2-1B", llama(2048, 8192, 16, 32, 128256, 8, tie_word_embeddings=True), 1_235_814_400),
    ("Mistral-7B", {**llama(4096, 14336, 32, 32, kv_heads=8), "model_type": "mistral"}, 7_241_732_096),
    ("TinyLlama", llama(2048, 5632, 22, 32, kv_heads=4), 1_100_048_384),
    ("GPT-2", gpt2(768, 12, 12), 124_439_808),
    ("GPT-2 medium", gpt2(1024, 24, 16), 354_823_168),
    ("GPT-2 large", gpt2(1280, 36, 20), 774_030_080),
    ("GPT-2 XL", gpt2(1600, 48, 25), 1_557_611_200),
]
TINY = 500 * 32 + 2 * (4 * 32**2 + 3 * 32 * 64 + 2 * 32) + 32  # embedding (tied), blocks, last norm


def sizes_of(config):
    return sizes(read_config(config, None, "model.config"))
