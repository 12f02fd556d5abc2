"""From a file to all that a stage's run needs, which is written at once or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from datamodules import ChatTemplate, InstructionTemplate
from datamodules.layouts.chats import written_column
from datamodules.layouts.reader import OURS, Kind, RowReader
from datamodules.layouts.recognise import Recognised, recognise
from datamodules.receipt import Receipt, render
from datamodules.rendering.templates import Template
from experiments.atomic import put_in_place, write_text
from experiments.cli.user_errors import UserError
from experiments.commands.tokenizer import CHAT_TEMPLATE
from experiments.commands.tokenizer import train as train_tokenizer
from experiments.init.config import SMALL, Setup, as_yaml, config
from experiments.init.large import LARGE
from experiments.init.lengths import Lengths, count
from experiments.init.reading import likely_encoding_of, splits_of
from experiments.init.receipts import receipts_of
from experiments.init.rows import Rows, by_questions, cut_text, held_out, look, uses_tools, write_parts
from experiments.init.stage import (
    Models,
    check_models,
    config_of,
    stage_for,
    tokenizer_of,
    with_chat_template,
)

VOCABULARY = ((100_000, 512), (1_000_000, 2048), (100_000_000, 4096))
"""bytes of text below which a new tokenizer has so many tokens; more text: MOST_TOKENS"""
MOST_TOKENS = 16_384
ESTIMATE = (
    "An estimate from {} rows, spread over some {:,}: `trivium data receipt --config` with this file reads "
    "all."
)


@dataclass
class Beginning:
    """A file and the models beside it, on their way to a run.

    Args:
        folder: to write to.
        data: files, globs, folders, hub names.
        val: likewise, to validate on; none = some rows are held out.
        models: to start from.
        columns: our name ← theirs.
        encoding: of text files; None = UTF-8, or what they seem to have.
    """

    folder: Path
    data: list[str]
    val: list[str]
    models: Models
    columns: dict[str, str] = field(default_factory=dict)
    encoding: str | None = None

    def write(self, asked: str | None, overwrite: bool) -> Path:
        """Writes the YAML and what it names, prints what the data are, and gives the YAML's path.

        Args:
            asked: the stage, where the data allow several.
            overwrite: replace what is there.

        Raises:
            UserError: the files cannot be read or are of no known layout, a model is missing, something is
                there already, or nothing can be written.
        """
        if not self.val and (splits := splits_of(self.data)):
            self.data, self.val = splits
        self.encoding = self.encoding or likely_encoding_of(self.data)
        seen = self._seen()
        if asked == "pretrain" and seen.kind == "instructions" and written_column(seen.rows[0]) == "text":
            self.columns = {"text": "text", **self.columns}  # conversations are documents where that is asked
            seen = self._seen()
        stage = stage_for(seen.kind, seen.layout, asked)
        check_models(stage, self.models)
        file = self.folder / f"{stage}.yaml"
        made = [file, *(self.folder / "data" / f"{stage}.{part}.jsonl" for part in ("train", "val"))]
        made.append(self._tokenizer_folder(stage))
        if errors := [*self._there_already(made, overwrite), *self._not_writable()]:
            raise UserError(errors[0])
        with staged(self.folder) as part:
            kind: Kind = "prompts" if stage == "ppo" else seen.kind
            comment, receipts = self._stage(stage, kind, seen, part)
            if self.encoding:
                print(f"encoding: {self.encoding}")
            Console().print(render(receipts))
            for line in comment[1:-1]:
                print(line)
            self._put_in_place(part, made)
        print(f"wrote {', '.join(str(path) for path in made if path.exists())}")
        return file

    def _seen(self) -> Recognised:
        source = self.data[0] if len(self.data) == 1 else self.data
        return recognise(source, "--data", self.encoding, self.columns)

    def _tokenizer_folder(self, stage: str) -> Path:
        return self.folder / ("tokenizer" if stage == "pretrain" else f"{stage}-tokenizer")

    def _there_already(self, made: list[Path], overwrite: bool) -> list[str]:
        there = [path for path in made if path.exists()]
        if there and not overwrite:
            return [f"{there[0]} is there already: give another folder, or --overwrite"]
        read = [*self.data, *self.val, *filter(None, self.models)]
        return [
            f"{path} would be overwritten, but it is read: give another folder"
            for path in there
            if any(Path(each).exists() and path.samefile(each) for each in read)
        ]

    def _not_writable(self) -> list[str]:
        from experiments.callbacks.results import folder_errors

        for above in (self.folder, *self.folder.parents):
            if above.exists() and not above.is_dir():
                return [f"{above} is a file: give a folder to write to"]
        return [line.removeprefix("run: ").replace("--run", "DIR") for line in folder_errors(self.folder)]

    def _stage(self, stage: str, kind: Kind, seen: Recognised, part: Path) -> tuple[list[str], list[Receipt]]:
        """Writes everything to the folder `part`; the comment on top of the YAML, and the data's receipts."""
        columns = {
            our: their for our, their in self.columns.items() if kind == seen.kind or our in OURS[kind]
        }
        reader = RowReader(kind, columns, self.encoding)
        if errors := reader.config_errors("--columns"):
            raise UserError(errors[0].replace("--columns.columns", "--columns"))
        rows = look(self.data, reader, kind)
        setup = self._files(stage, reader, seen, rows, part)
        setup.lengths = self._counted(setup, reader, rows, part)
        try:
            receipts = receipts_of(setup, part, rows)
        except UserError as error:
            raise UserError(str(error).replace(str(part), str(self.folder))) from error
        setup = setup.moved(part, self.folder)
        file = self.folder / f"{stage}.yaml"
        comment = [
            f"{stage} on {', '.join(self.data)}, read as {seen.layout}.",
            *(f"{n:,} rows cannot be read; the first: {rows.first[why]}" for why, n in rows.left_out.items()),
            setup.lengths.told,
            *([ESTIMATE.format(f"{len(rows.sample):,}", setup.rows)] if rows.bytes > LARGE else []),
            self._split_told(setup, rows),
            f"  trivium fit --config {file}",
        ]
        write_text(part / f"{stage}.yaml", as_yaml(comment, config(setup)))
        return comment, receipts

    def _files(self, stage: str, reader: RowReader, seen: Recognised, rows: Rows, part: Path) -> Setup:
        """What to train and validate on, written where rows are held out."""
        setup = Setup(
            stage=stage,
            kind=reader.kind,
            models=self.models,
            run=str(self.folder / stage),
            rows=rows.readable,
            chat=seen.is_chat,
            columns=dict(reader.columns),
        )
        train, val = (part / "data" / f"{stage}.{name}.jsonl" for name in ("train", "val"))
        numbers = set() if self.val else held_out(rows)
        train.parent.mkdir()
        one_text = reader.kind == "documents" and rows.readable == 1
        if numbers:
            write_parts(self.data, self.encoding, rows, numbers, train, val)
        if numbers or (one_text and not self.val and cut_text(rows.sample[0], train, val)):
            setup.train, setup.val = str(train), str(val)
            setup.rows, setup.held_out = setup.rows - len(numbers), len(numbers)
            return setup
        train.parent.rmdir()
        setup.train = self.data[0] if len(self.data) == 1 else self.data
        setup.val = self.val[0] if len(self.val) == 1 else self.val
        setup.encoding, setup.skip_bad_rows = self.encoding, bool(rows.left_out)
        return setup

    def _split_told(self, setup: Setup, rows: Rows) -> str:
        """What is trained on, and what validated on."""
        if self.val:
            return f"Validated on {', '.join(self.val)}."
        if setup.val is None:
            return "No rows are held out to validate on: name some with --val."
        copied = f"copied to {self.folder / 'data'}; the files themselves stay as they are."
        if not setup.held_out:
            return f"The text's end is held out to validate on: both parts are {copied}"
        some = "some " if rows.bytes > LARGE else ""
        each = "question" if by_questions(rows) and setup.stage != "pretrain" else "row"
        return (
            f"{setup.held_out:,} of {some}{setup.rows + setup.held_out:,} rows are held out to validate on, "
            f"no {each} is in both parts: they are {copied}"
        )

    def _tokenizer(self, setup: Setup, part: Path) -> Any:
        """The tokenizer, which is trained where there is no model, and what its model says of itself."""
        folder = part / self._tokenizer_folder(setup.stage).name
        option = "--actor" if setup.stage == "ppo" and self.models.actor else "--model"
        model = self.models.first(setup.stage)
        if model is None:
            files = setup.train if isinstance(setup.train, list) else [setup.train]
            size = sum(Path(file).stat().st_size for file in files if Path(file).is_file())
            tokens = next((tokens for most, tokens in VOCABULARY if size < most), MOST_TOKENS)
            field = self.columns.get("text", "text")
            train_tokenizer(files, tokens, str(folder), field=field, encoding=setup.encoding)
            setup.tokenizer, setup.width = str(folder), int(str(SMALL["hidden_size"]))
            return tokenizer_of(setup.tokenizer, "tokenizer")
        network, tokenizer = config_of(model, option), tokenizer_of(model, option)
        setup.width = getattr(network, "hidden_size", setup.width)
        setup.positions = getattr(network, "max_position_embeddings", None)
        setup.tokenizer = model
        if setup.kind in ("documents", "tokens"):
            return tokenizer
        if setup.chat and not tokenizer.chat_template:
            self._give_template(setup, tokenizer, folder, "has no chat template")
        setup.chat = bool(tokenizer.chat_template)
        return tokenizer

    def _give_template(self, setup: Setup, tokenizer: Any, folder: Path, why: str) -> None:
        """Writes the model's tokenizer with Trivium's own chat template."""
        with_chat_template(tokenizer, folder)
        print(f"{setup.tokenizer} {why}: {self.folder / folder.name} has Trivium's own (### Instruction:)")
        setup.tokenizer = str(folder)

    def _counted(self, setup: Setup, reader: RowReader, rows: Rows, part: Path) -> Lengths:
        """The rows' lengths, through another chat template where the model's cannot write their tools."""
        tokenizer = self._tokenizer(setup, part)
        template: Template = ChatTemplate() if setup.chat else InstructionTemplate()
        lengths = count(setup.stage, reader, tokenizer, template, rows.sample)
        if lengths.left_out and setup.chat and uses_tools(rows.sample, reader):
            folder = part / self._tokenizer_folder(setup.stage).name
            again = deepcopy(tokenizer)
            again.chat_template = CHAT_TEMPLATE
            other = count(setup.stage, reader, again, template, rows.sample)
            if len(other.tokens) > len(lengths.tokens):
                self._give_template(setup, again, folder, "has a chat template that cannot write the tools")
                lengths = other
        if not len(lengths.tokens):
            raise UserError(f"--data: no row can be trained on; the first: {lengths.left_out}")
        return lengths

    def _put_in_place(self, part: Path, made: list[Path]) -> None:
        for path in made[::-1]:  # the YAML last: once it is there, so is all that it names
            if path.exists() and not (part / path.relative_to(self.folder)).exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif (part / path.relative_to(self.folder)).exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                put_in_place(part / path.relative_to(self.folder), path)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder inside another one for files that are not in their places yet; nothing is left of it, nor of
    the other where that is new and stays empty."""
    new = not folder.exists()
    part = folder / f".init.{os.getpid()}.part"
    try:
        part.mkdir(parents=True)
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if new:
            with suppress(OSError):  # it holds what was written
                folder.rmdir()
