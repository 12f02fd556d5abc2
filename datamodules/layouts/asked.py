"""What a row asks and what it answers: the columns that may hold them, and which are meant."""

import re
from typing import Any

from datamodules.layouts.chats import (
    ALSO_CHATS,
    CHATS,
    ROLE_KEYS,
    asked_and_answered,
    best_path,
    chat_columns,
    from_json,
    has_turns,
    is_flat,
    is_transcript,
    is_tree,
    messages_of,
    tools_from,
    transcript,
    turns_of,
    written_column,
)
from datamodules.layouts.choices import FROM_ONE, UNSURE
from datamodules.layouts.gemini import system_text
from datamodules.layouts.layout import Layout
from datamodules.layouts.vocabulary import ALTERNATIVES, CONTEXTS, PASSAGES, QUESTIONS, REPLIES, SYSTEMS
from datamodules.layouts.wrapped import refuse_pictures, unwrap
from datamodules.layouts.written import functions_of
from datamodules.rendering.segments import BadRow, DropRow, content_of, present_in

PRINTED = re.compile(r"\s*(array\()?\[\s*\{\s*['\"](from|value|role|content)['\"]\s*:")
"""how a list of turns begins that is no JSON, nor what Python can read of itself"""
TRANSCRIPT = "HH-RLHF transcript"
NAMES = {
    ("instruction", "output"): "Alpaca",
    ("instruction", "response"): "Dolly",
}


def read_asked(layout: Layout) -> None:
    """Puts what a row asks into `instruction` and `input`, or into `messages`.

    Raises:
        BadRow: two columns ask, or none.
    """
    if is_flat(layout.row) and "instruction" not in layout.named:
        raise BadRow(
            "one message of an OpenAssistant tree, without those that it replies to: give the file of whole "
            "trees (`…trees.jsonl.gz`), or join them with `trivium data convert FILE --kind instructions "
            "--output DIR`"
        )
    unwrap(layout)
    chats = [column for column in chat_columns(layout.row) if layout.row[column] != []]
    questions = layout.present(*QUESTIONS)
    if not questions and isinstance(layout.row.get("history"), str):
        questions = ["history"]  # SHP's
    named = [column for column in (*chats, *questions) if column in layout.named]
    if named:
        chats, questions = ([c for c in columns if c in named] for columns in (chats, questions))
    if not (chats or questions or layout.has("input")) and (pair := asked_and_answered(layout.row)):
        questions = [pair[0]]  # `human` and `assistant`
        layout.row["output"] = layout.row.pop(pair[1])
        layout.moves[pair[1]] = "output"
    if not (chats or questions or layout.present(*CONTEXTS)) and (text := written_column(layout.row)):
        chats = [text]
    if "instruction" in questions and not named:
        questions = ["instruction"]  # our own name; what is beside it is told as not read
    if chats:
        questions = [q for q in questions if layout.row[q] != ""]
    chat = layout.only(chats, "are conversations", "messages")
    if chat and questions:
        questions = [q for q in questions if not (_is_said(layout, chat, q) or _begins(layout, chat, q))]
        layout.only([chat, *questions], "ask", "messages" if chat == "messages" else chat)
    if chat:
        layout.drop("instruction")
        _read_chat(layout, chat)
    elif questions:
        question = layout.only(questions, "ask", "instruction")
        assert question
        layout.drop(*CHATS, *(column for column in ALSO_CHATS if column in chats))
        _read_question(layout, question)
        _read_history(layout)
    elif alone := [column for column in CONTEXTS if layout.has(column)]:  # beside a reply alone
        alone = [column for column in alone if layout.row[column] != ""] or alone
        layout.take(alone[0], "instruction")
        layout.name = alone[0]
        if alone[1:]:  # LongBench's
            layout.take(alone[1], "input")
    elif "messages" in layout.row and layout.row["messages"] is not None:
        layout.name = "OpenAI messages"  # an empty list: whoever reads it says so
    else:
        raise BadRow(
            f"no `instruction` and no `messages` (it has {present_in(layout.file_row)}): name them with "
            "`columns`, as in `columns: {instruction: …}`"
        )
    if systems := layout.present(*SYSTEMS, *(["prefix"] if chat == "plain_text" else [])):
        layout.take(systems[0], "system", system_text(layout.row[systems[0]]))
        _read_system(layout)
    refuse_pictures(layout)


def _read_system(layout: Layout) -> None:
    """Takes the functions out of Glaive's text of a system, and tells of a text that is not used."""
    system, messages = layout.row["system"], layout.row.get("messages")
    if isinstance(system, str) and (functions := functions_of(system)):
        layout.row["system"], tools = functions
        if tools:
            layout.row["tools"] = tools
            layout.used.add("tools")
    turns = messages if isinstance(messages, list) else []
    given = [turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") == "system"]
    if given and isinstance(system, str) and system.strip() and system != given[0]:
        layout.changes.append("`system` not used beside a system message")


def _begins(layout: Layout, chat: str, question: str) -> bool:
    """Whether an instruction belongs before the first of the questions of a conversation, as COIG's do; it
    is then put there."""
    turns, asked = layout.row[chat], layout.row[question]
    first = turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], dict) else {}
    pair = asked_and_answered(first)
    if question != "instruction" or pair != ("question", "answer") or not isinstance(asked, str):
        return False
    if asked.strip() and isinstance(first[pair[0]], str):
        layout.row[chat] = [{**first, pair[0]: f"{asked}\n{first[pair[0]]}"}, *turns[1:]]
        layout.moves[question] = "messages"
        layout.used.add(question)
    return True


def _is_said(layout: Layout, chat: str, question: str) -> bool:
    """Whether a question is one of the messages of the conversation beside it."""
    asked, turns = layout.row[question], turns_of(layout.row, chat)
    turns = messages_of(turns)[0] if isinstance(turns, list) else []
    said = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    if isinstance(asked, str):
        return asked.strip() in [text.strip() for text in said if isinstance(text, str)]
    return isinstance(asked, list) and messages_of(asked)[0] == turns[: len(asked)]


def _read_chat(layout: Layout, column: str) -> None:
    given = from_json(layout.row[column])
    if isinstance(given, str) and PRINTED.match(given):
        raise BadRow(
            f"`{column}` is a list of turns as numpy prints it, without commas between them, which cannot be "
            "read back: write the table as JSON lines or Parquet"
        )
    turns, other = turns_of(layout.row, column), False
    if isinstance(turns, list):
        turns, other = messages_of(turns)
    layout.take(column, "messages", turns)
    layout.name = "ShareGPT" if other or column != "messages" else "OpenAI messages"
    a_turn = next(iter(given.values()), None) if isinstance(given, dict) else None
    if column == "plain_text" or isinstance(a_turn, dict):
        layout.name = "MOSS"
    elif isinstance(given, str):
        layout.name = "a conversation in one text"
    elif isinstance(given, list) and given:
        first = given[0]
        if isinstance(first, str):
            layout.name = "texts of user and assistant in turn"
        elif isinstance(first, dict) and "parts" in first:
            layout.name = "Gemini contents"
        elif not any(isinstance(turn, dict) and {*turn} & {*ROLE_KEYS} for turn in given):
            layout.name = "turns of questions and answers"
    if other and column == "messages":
        layout.moves["their roles"] = "user, assistant"
    _read_tools(layout)


def _read_tools(layout: Layout) -> None:
    if tools := tools_from(layout.row):
        layout.take("functions" if layout.has("functions") else "tools", "tools", tools["tools"])
    layout.used.add("tools")


def _read_question(layout: Layout, column: str) -> None:
    question = from_json(layout.row[column]) if column == "prompt" else layout.row[column]
    layout.name = column
    if isinstance(question, dict) and isinstance(question.get("full_text"), str):
        question = question["full_text"]  # WebGPT's
    if is_tree(question):
        layout.take(column, "messages", best_path(question))
        layout.name = "OpenAssistant tree, its best path"
        return
    if is_transcript(question):
        question = transcript(question)
        layout.name = TRANSCRIPT
        if len(question) == 1:
            layout.take(column, "instruction", question[0]["content"])
            return
    if isinstance(question, list) and (column == "prompt" or layout.name == TRANSCRIPT):
        layout.take(column, "messages", messages_of(question)[0])
        layout.name = layout.name if layout.name == TRANSCRIPT else "messages"
        _read_tools(layout)
        return
    layout.take(column, "instruction", question)
    contexts = [c for c in layout.present(*CONTEXTS) if layout.row[c] != ""]
    if not contexts and column in ("question", "query"):
        contexts = [c for c in PASSAGES if passage_of(layout.row.get(c))][:1]
    context = layout.only(contexts, "add to it", "input")
    if context:
        layout.take(context, "input", passage_of(layout.row[context]))
    layout.used |= {"input", "context", "reply_prefix"}  # an empty one is no loss


def passage_of(value: Any) -> Any:
    """A text that a question is about, which may come as a list of lines (DREAM's dialogues); of anything
    else None."""
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def _read_history(layout: Layout) -> None:
    """Puts earlier turns, as LLaMA-Factory and ChatGLM have them, before what is asked."""
    turns = turns_of(layout.row, "history")
    if not isinstance(turns, list) or layout.has("messages"):
        return
    layout.used.add("history")
    if not turns:
        return
    if not has_turns(turns) or (earlier := messages_of(turns)[0])[-1]["role"] != "assistant":
        raise BadRow(
            "`history` is no list of earlier questions with their answers, `[[question, answer], …]`"
        )
    layout.row["messages"] = [*earlier, {"role": "user", "content": content_of(layout.row, "\n")}]
    layout.drop("instruction", "input")
    layout.used.add("messages")
    layout.moves["history"] = "messages"
    layout.name += " after earlier turns"


def read_answer(layout: Layout) -> None:
    """Puts what answers `instruction` into `output`; a conversation holds its answers.

    Raises:
        BadRow: two columns answer.
        DropRow: there is no answer among several.
    """
    layout.used |= {"steps"}
    messages = layout.row.get("messages")
    if messages is not None and (not isinstance(messages, list) or _is_answered(messages)):
        return
    question = layout.name
    present = layout.present(*REPLIES) or layout.present("content")
    own = "output" if "output" in present else "solution" if question in ("problem", "question") else ""
    column = layout.only([own] if own in present else present, "answer", "output")
    if column is None and messages is not None:
        return  # whoever reads the messages says that they have no answer
    if column is None and layout.has(UNSURE):
        raise BadRow(
            f"`{UNSURE}` counts the choices from 0 (as on the hub) or from 1 (as in its authors' files): "
            f"say which with `columns: {{answer_idx: {UNSURE}}}` or `columns: {{{FROM_ONE}: {UNSURE}}}`"
        )
    if column is None:
        raise BadRow(
            f"no `output` (it has {present_in(layout.file_row)}): name it with `columns: {{output: …}}`"
        )
    if messages is None and (calls := _calls(layout, column)):
        asked = {"role": "user", "content": content_of(layout.row, "\n")}
        layout.take(column, "messages", [asked, {"role": "assistant", "content": "", "tool_calls": calls}])
        layout.drop("instruction", "input")
        return
    answer = _first(layout, column)
    if (written := _turns_written(answer)) and (messages or column == "completion"):  # TRL's, in a table
        answer = written
        messages = messages or [{"role": "user", "content": content_of(layout.row, "\n")}]
        layout.drop("instruction", "input")
    if messages is not None:
        turns = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
        layout.row["messages"] = [*messages, *messages_of(turns)[0]]
        layout.moves[column] = "messages"
        layout.used.add(column)
        return
    if layout.name != TRANSCRIPT:
        theirs = next((their for their, our in layout.moves.items() if our == "output"), column)
        layout.name = NAMES.get((question, theirs), f"{question} and {theirs}")
    layout.take(column, "output", stripped(answer, layout))


def _turns_written(answer: Any) -> list[Any]:
    """The turns that an answer is as a text of JSON, or as Python prints it; none where it is another."""
    turns: Any = from_json(answer) if isinstance(answer, str) else None
    if not has_turns(turns) or messages_of(turns)[0][0]["role"] != "assistant":
        return []
    return turns


def _calls(layout: Layout, column: str) -> list[dict[str, Any]]:
    """The calls of functions that an answer is, where the row declares tools; empty where it is something
    else."""
    calls = from_json(layout.row[column])
    if not isinstance(calls, list) or not layout.has("tools"):
        return []
    if not all(isinstance(call, dict) and {"name", "arguments"} <= {*call} for call in calls):
        return []
    _read_tools(layout)
    return [{"type": "function", "function": call} for call in calls]


def _is_answered(messages: list[Any]) -> bool:
    return not messages or any(isinstance(m, dict) and m.get("role") == "assistant" for m in messages[-1:])


def stripped(reply: Any, layout: Layout) -> Any:
    """A reply to a transcript, without the space that a transcript puts in front of it."""
    return reply.strip() if layout.name == TRANSCRIPT and isinstance(reply, str) else reply


def _first(layout: Layout, column: str) -> Any:
    """The answer, or the first of several."""
    value = layout.row[column]
    if column != "output" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    named = layout.named.get(column, column)
    if named in ALTERNATIVES or layout.moves.get("definition"):
        # SQuAD's: texts and where they start; TriviaQA's: a text and other ways to say it
        value = value.get("text", value.get("value")) if isinstance(value, dict) else value
        if isinstance(value, list):
            if not value:
                raise DropRow(f"empty `{named}`")
            if len(value) > 1:
                layout.changes.append(f"the first of several `{named}`")
            return value[0]
    return value
