"""The `trivium tokenizer` command: trains a byte-level BPE and saves it as a Hugging Face tokenizer.

Run `trivium tokenizer --vocab-size 4096 --output DIR FILE…`, or call `train`. Every text round-trips exactly:
`decode(encode(text)) == text`. No special token is added by encoding; who packs or renders adds them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"  # ids 0, 1, 2: pad is never eos, so a mask of `ids != pad` keeps eos

# What is cut before any merge: contractions, words with the space before them, runs of Chinese characters,
# single digits (so that numbers are read digit by digit), punctuation, line ends, other space.
PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)(?!\p{L})| ?[\p{L}\p{M}&&[^\p{Han}]]+|\p{Han}+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# A reply is between `{% generation %}` marks, which transformers turns into a mask of the tokens to train on.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- if tools -%}{{ '### Tools:\n' }}{%- for tool in tools -%}{{ tool | tojson + '\n' }}{%- endfor -%}"
    "{{ '\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] + '\n\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ '### Response:\n' }}"
    "{%- generation -%}{{ message['content'] or '' }}"
    "{%- for call in message['tool_calls'] or [] -%}{%- set called = call['function'] -%}"
    "{%- set given = called['arguments'] -%}"
    "{{ '<tool_call>{\"name\": ' + called['name'] | tojson + ', \"arguments\": ' }}"
    "{{ (given if given is string else given | tojson) + '}</tool_call>' }}{%- endfor -%}"
    "{{ eos_token }}{%- endgeneration -%}"
    "{%- elif message['role'] == 'tool' -%}{{ '### Result:\n' + message['content'] + '\n\n' }}"
    "{%- else -%}{{ raise_exception('roles are system, user, assistant and tool, not ' + message['role']) }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '### Response:\n' }}{%- endif -%}"
)


def train(
    files: list[str],
    vocab_size: int,
    output: str,
    max_bytes: int = 20_000_000,
    field: str = "text",
    encoding: str | None = None,
    overwrite: bool = False,
) -> "PreTrainedTokenizerFast":
    """Trains the tokenizer and saves it; the same files give the same tokenizer.

    Args:
        files: what the data modules read (JSON, CSV, Parquet, …, also packed; folders, globs), of whose rows
            `field` is read; or text files, of which each paragraph is a text.
        vocab_size: number of tokens, the 3 special ones and all 256 bytes included.
        output: the folder to save to, for `AutoTokenizer.from_pretrained`.
        max_bytes: UTF-8 bytes to read in all; every file gives its first `max_bytes / len(files)` at most,
            so that a large one does not crowd the others out.
        field: the column of the text in rows, dotted where it is nested.
        encoding: of text files; None = UTF-8.
        overwrite: another tokenizer that is in the folder is replaced; else it is refused.

    Raises:
        UserError: for a missing file, a row without `field`, no text at all, too small a vocabulary, or
            another tokenizer that is there.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from modules.hf_tokenizer import save_tokenizer

    if vocab_size < 256 + 3:
        raise UserError(f"--vocab-size is {vocab_size}, but 256 bytes and 3 special tokens need at least 259")
    if not files:
        raise UserError("no file to train the tokenizer on: name one or more text or .jsonl files")
    texts = [text for file in files for text in _texts(file, field, max_bytes // len(files), encoding)]
    if not any(texts):
        raise UserError(f"no text in {', '.join(files)}: the tokenizer needs at least one non-empty text")
    bpe = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    if not overwrite:
        _check_place(output, tokenizer)
    save_tokenizer(tokenizer, output)
    return tokenizer


def _check_place(output: str, tokenizer: "PreTrainedTokenizerFast") -> None:
    """Refuses a folder with another tokenizer."""
    there = Path(output, "tokenizer.json")
    if there.is_file() and there.read_bytes() != tokenizer.backend_tokenizer.to_str(True).encode():
        raise UserError(
            f"--output: {output} holds another tokenizer, which models may have been trained with: give "
            "another folder, or add --overwrite (`overwrite=True` in Python)"
        )


def _texts(file: str, field: str, max_bytes: int, encoding: str | None) -> Iterator[str]:
    """The texts of a source, read as the data modules read it, up to `max_bytes` of them in UTF-8; the first
    one whatever its length."""
    from datamodules.layouts.columns import value_at
    from datamodules.reading.files import DOCUMENTS, ending
    from datamodules.reading.sources import read_rows
    from datamodules.rendering.segments import BadRow

    used = 0
    for where, row, problem in read_rows(file, "FILE", encoding):
        if row is None:
            raise UserError(f"{where} {problem}")
        is_document = ending(where.rpartition(", row ")[0]) in DOCUMENTS
        try:
            text = row["text"] if is_document else value_at(row, field)
        except BadRow as error:
            raise UserError(f"{where}: {error}") from error
        if not isinstance(text, str):
            raise UserError(f"{where}: no text under '{field}'; say with --field which key holds it")
        for part in _paragraphs(text.splitlines(keepends=True)) if is_document else [text]:
            if used and used + len(part.encode()) > max_bytes:
                return
            used += len(part.encode())
            yield part


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Lines up to and including the empty ones after them, so that line ends are learned too."""
    paragraph = ""
    for line in lines:
        if paragraph.endswith("\n\n") and line.strip():
            yield paragraph
            paragraph = ""
        paragraph += line
    yield paragraph


def main(argv: list[str]) -> int:
    """`trivium tokenizer`: the command line of `train`."""
    parser = ArgumentParser(
        prog="trivium tokenizer",
        description="Train a byte-level BPE tokenizer and save it for AutoTokenizer.from_pretrained.",
        epilog="Example: trivium tokenizer --vocab-size 4096 --output runs/tokenizer english.jsonl notes.txt",
    )
    size = "tokens in all (default: %(default)s); 32000 and up for a large model"
    limit = "bytes to train on (default: %(default)s), shared equally among the files"
    option = parser.add_argument
    option(
        "files",
        nargs="+",
        metavar="FILE",
        help="rows as the data modules read them (JSON, CSV, Parquet, …), or plain UTF-8 text",
    )
    option("--output", required=True, metavar="DIR", help="folder to save the tokenizer to")
    option("--vocab-size", type=int, default=4096, metavar="N", help=size)
    option("--max-bytes", type=int, default=20_000_000, metavar="N", help=limit)
    option(
        "--field", default="text", metavar="KEY", help="column of the text in rows, dotted where it is nested"
    )
    option("--encoding", help="of text files, such as gb18030 (UTF-8)")
    option("--overwrite", action="store_true", help="replace another tokenizer that is there")
    options = parser.parse_args(argv)
    tokenizer = train(**vars(options))
    print(f"{options.output}: {len(tokenizer):,} tokens; pad {PAD} = 0, bos {BOS} = 1, eos {EOS} = 2")
    return 0
