"""Chat templates that imitate those of well-known models, and tokenizers of several kinds."""

NAMES = (
    "<pad> <s> </s> <unk> <|im_start|> <|im_end|> <start_of_turn> <end_of_turn> <|begin|> <|eot|> <|head|> "
    "<|/head|> <|User|> <|Assistant|> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] "
    "[TOOL_RESULTS] [/TOOL_RESULTS] <|end|>"
)
TOKENS = NAMES.split()
OPEN = "{% if add_generation_prompt %}{{ START }}{% endif %}"
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content"
    " + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|>\n\n'"
    " + m.content | trim + '<|eot|>' }}"
    "{% endfor %}" + OPEN.replace("START", "'<|head|>assistant<|/head|>\n\n'")
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>'"
    " + ('model' if m.role == 'assistant' else m.role) "
    "+ '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    + OPEN.replace("START", "'<start_of_turn>model\n'")
)
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}"
    "{% set answer = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') "
    "if '</think>' in m.content "
    "else '' %}{% if loop.index0 > ns.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}"
    "{% endif %}{{ answer }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    + OPEN.replace("START", "'<|im_start|>assistant\n'")
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|Assistant|>' + m.content.split('</think>')[-1]"
    " + eos_token }}{% endif %}"
    "{% endfor %}" + OPEN.replace("START", "'<|Assistant|><think>\n'")
)
THINKING = (  # writes the opened thought in the last turn
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|Assistant|>' }}{% if loop.last %}{{ '<think>\n' }}"
    "{{ m.content.split('<think>\n')[-1] }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}"
    "{{ eos_token }}{% endif %}{% endfor %}" + OPEN.replace("START", "'<|Assistant|><think>\n'")
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    + OPEN.replace("START", "'<|im_start|>assistant\n'")
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% if tools and loop.index0 == 0 %}"
    "{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST] '"
    " + m.content + '[/INST]' }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + {'content': m.content} | tojson + '[/TOOL_RESULTS]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{{ c.function | tojson }}"
    "{% if not loop.last %}, {% endif %}{% endfor %}{{ ']' + eos_token }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
DATED = (
    "{{ bos_token }}{{ '<|head|>system<|/head|>\n\nToday: ' }}"
    "{% if strftime_now is defined %}{{ strftime_now(\"%d %b %Y\") }}{% endif %}{{ '<|eot|>' }}"
    "{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<|eot|>' }}"
    "{% endfor %}" + OPEN.replace("START", "'<|head|>assistant<|/head|>\n\n'")
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PLAIN = (  # no special token but the last
    "{% for m in messages %}{{ ('Q: ' if m.role == 'user' else 'A:\n\n') + m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\n\n' }}{% endfor %}" + OPEN.replace("START", "'A:\n\n'")
)
TEXT = (  # none at all between turns
    "{% for m in messages %}{{ 'USER: ' + m.content + ' ' if m.role == 'user' else 'ASSISTANT: '"
    " + m.content + eos_token }}"
    "{% endfor %}" + OPEN.replace("START", "'ASSISTANT:'")
)
TEMPLATES = {
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "qwen3": QWEN3,
    "thinking": THINKING,
    "chatml": CHATML,
    "mistral": MISTRAL,
    "dated": DATED,
}
MORE = {"phi3": PHI3, "plain": PLAIN, "text": TEXT}


def tokenizers():
    """Kind → a tokenizer, all with the tokens of the templates."""
    return {kind: _wrapped(make()) for kind, make in KINDS.items()}


SAMPLE = [
    *["user assistant system model the film is good it was dull yes no Today Write a review of the music"]
    * 4,
    *["It is 12 degrees. Yes, very. Let me look. get_weather(Bern) content name arguments <think> </think>"]
    * 4,
    *map(chr, range(32, 127)),
    *["\n\n", "\n", "  ", "é 你好 很好 电影"],
]


def _trained(tokenizer, kind, **options):
    from tokenizers import trainers

    trainer = getattr(trainers, kind)(vocab_size=500, special_tokens=TOKENS, show_progress=False, **options)
    tokenizer.train_from_iterator(SAMPLE, trainer)
    return tokenizer


def _byte_level(prefix=False):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=prefix
    )  # GPT-2's pattern, with its look-ahead
    bpe.post_processor, bpe.decoder = processors.ByteLevel(trim_offsets=True), decoders.ByteLevel()
    return _trained(bpe, "BpeTrainer", initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def _metaspace(scheme, split=True):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    bpe.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return _trained(bpe, "BpeTrainer")


def _legacy():
    """As Llama 2's first files: a space in front of every stretch of text, and no cut between words."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    return _trained(bpe, "BpeTrainer")


def _unigram():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    unigram.decoder = decoders.Metaspace()
    return _trained(unigram, "UnigramTrainer", unk_token="<unk>")


def _with_bos():
    """A tokenizer that puts a bos in front of every text by itself."""
    from tokenizers import processors

    tokenizer = _byte_level()
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", TOKENS.index("<s>"))]),
        ]
    )
    return tokenizer


KINDS = {
    "byte level": _byte_level,
    "byte level with a space": lambda: _byte_level(True),
    "metaspace always": lambda: _metaspace("always"),
    "metaspace first, no split": lambda: _metaspace("first", False),
    "legacy": _legacy,
    "unigram": _unigram,
    "adds bos": _with_bos,
}


def _wrapped(tokenizer):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=TOKENS[4:],
    )
