"""Rows of public datasets, columns from their cards, that have a way of their own to ask, answer or mark:
what is learned, what must not be; or one line that names the setting."""

import json

import pytest

from datamodules import InstructionData
from datamodules.layouts.comparison import comparison
from datamodules.layouts.kinds import kind_of
from datamodules.layouts.reader import RowReader
from datamodules.layouts.recognise import recognise
from datamodules.reading.sources import read_rows
from datamodules.rendering.segments import BadRow, DropRow
from experiments.cli.program import main

U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
PAIR = {"instruction": "Hi", "output": "Yo"}
TASK = {"instruction": "D", "input": "Hi", "output": "Yo"}
CHOICES = "Hi\nA. a\nB. b\nC. c\nD. d"
BAIZE = "The conversation between human and AI assistant."
MEDMCQA = {
    "question": "Hi",
    "opa": "a",
    "opb": "b",
    "opc": "c",
    "opd": "d",
    "exp": "W",
    "choice_type": "single",
}
STEPS = {
    "prompt": "Hi",
    "initial_reason_steps": "Step 1:",
    "chosen": " Yo",
    "rejected": " No",
    "full_chosen": "x",
}
# dataset: row, what it says
READ = {
    "Natural Instructions, a row": ({"task": "t", "definition": "D", "input": "Hi", "output": "Yo"}, TASK),
    "Tk-Instruct": ({"Definition": ["D"], "Instance": {"id": "t-1", "input": "Hi", "output": ["Yo"]}}, TASK),
    "Self-Instruct": ({"instruction": "D", "instances": [{"input": "Hi", "output": "Yo"}]}, TASK),
    "Baize": (
        {"topic": "t", "input": f"{BAIZE}\n[|Human|] Hi\n[|AI|] Yo\n[|Human|] "},
        {"messages": [{"role": "system", "content": BAIZE}, U, A]},
    ),
    "OpenBookQA": (
        {"question_stem": "Hi", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
        {"instruction": "Hi\nA. x\nB. y", "output": "B"},
    ),
    "LogiQA": (
        {"context": "P", "query": "Hi", "options": [*"abcd"], "correct_option": 2},
        {"instruction": CHOICES, "input": "P", "output": "C"},
    ),
    "QuAIL": (
        {"context": "P", "question": "Hi", "answers": [*"abcd"], "correct_answer_id": 3},
        {"instruction": CHOICES, "input": "P", "output": "D"},
    ),
    "ReClor": ({"context": "P", "question": "Hi", "answers": [*"abcd"], "label": 0}, {"output": "A"}),
    "DREAM": (
        {"dialogue": ["M: x", "W: y"], "question": "Hi", "choice": ["a", "b"], "answer": "b"},
        {"instruction": "Hi\nA. a\nB. b", "input": "M: x\nW: y", "output": "B"},
    ),
    "AGIEval": (
        {"passage": "P", "question": "Hi", "options": ["(A)a", "(B)b"], "label": "B", "answer": None},
        {"instruction": "Hi\n(A)a\n(B)b", "input": "P", "output": "B"},
    ),
    "AQuA": (
        {"question": "Hi", "options": ["A)2", "B)3"], "rationale": "R", "correct": "A"},
        {"instruction": "Hi\nA)2\nB)3", "output": "A"},
    ),
    "MMLU under other names": (
        {"input": "Hi", "A": "a", "B": "b", "C": "c", "D": "d", "target": "B"},
        {"instruction": CHOICES, "output": "B"},
    ),
    "CMB, several are right": (
        {"question": "Hi", "option": {"A": "a", "B": "b", "C": "c", "D": "d"}, "answer": "ABD"},
        {"instruction": CHOICES, "output": "ABD"},
    ),
    "CMExam": ({"Question": "Hi", "Options": "A a\nB b", "Answer": "B"}, {"instruction": "Hi\nA a\nB b"}),
    "three choices": (
        {"question": "Hi", "A": "a", "B": "b", "C": "c", "answer": "B"},
        {"instruction": "Hi\nA. a\nB. b\nC. c", "output": "B"},
    ),
    "LongBench": ({"input": "Hi", "context": "P", "answers": ["Yo"]}, {**PAIR, "input": "P"}),
    "MNBVC": ({"问": "Hi", "答": "Yo", "来源": "s"}, PAIR),
    "Chinese R1": ({"input": "Hi", "reasoning_content": "t", "content": "Yo", "score": 9}, PAIR),
    "a label that is no mark": ({**PAIR, "label": {"ability": ["x"]}}, PAIR),
}


@pytest.mark.parametrize("name", READ)
def test_public_rows_are_read_as_what_they_say(name):
    row, said = READ[name]
    assert kind_of(row) == "instructions"
    read = RowReader("instructions").read(row).row
    assert {column: read[column] for column in said} == said


NATURAL = {
    "Contributors": ["x"],
    "Definition": ["D"],
    "Positive Examples": [{"input": "no", "output": "no", "explanation": "e"}],
    "Negative Examples": [{"input": "no", "output": "no", "explanation": "e"}],
    "Instances": [
        {"id": "t-1", "input": "Hi", "output": ["Yo"]},
        {"id": "t-2", "input": "q", "output": ["a", "b"]},
    ],
    "Instance License": ["MIT"],
}


@pytest.mark.parametrize("indent", [4, None])
def test_a_task_of_natural_instructions_is_a_file_of_rows(tmp_path, tiny_tokenizer, indent):
    file = tmp_path / "task.json"
    file.write_text(json.dumps(NATURAL, indent=indent), "utf-8")
    assert recognise(str(file), "x").kind == "instructions"
    rows = [RowReader("instructions").read(record.row or {}).row for record in read_rows(str(file), "x")]
    assert [[row[name] for name in TASK] for row in rows] == [["D", "Hi", "Yo"], ["D", "q", "a"]]
    data = InstructionData(str(file), tiny_tokenizer, global_batch_size=2)
    data.setup()
    assert data.receipts[0].changed == {"the first of several `output`": 1}


def test_a_definition_behind_its_instances_is_refused_and_not_left_out(tmp_path):
    file = tmp_path / "task.json"
    file.write_text(json.dumps({"Instances": NATURAL["Instances"], "Definition": "D"}, indent=1), "utf-8")
    problem = [record.problem for record in read_rows(str(file), "x")][-1]
    assert problem == "holds `Definition` after its `Instances`: put it before them"


def test_lists_of_texts_beside_the_rows_of_an_object_are_passed_over(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"meta": {"n": [{}]}, "tags": ["a", "b"], "data": [PAIR]}, indent=1), "utf-8")
    assert [record.row for record in read_rows(str(file), "x")] == [PAIR]


@pytest.mark.parametrize(
    ("columns", "letter"), [({"answer_idx": "cop"}, "C"), ({"answer_number": "cop"}, "B")]
)
def test_medmcqas_answer_counts_as_columns_say(columns, letter):
    read = RowReader("instructions", columns).read({**MEDMCQA, "cop": 2}).row
    assert (read["instruction"], read["output"]) == (CHOICES, letter)


@pytest.mark.parametrize(
    ("column", "bad", "good"),
    [
        ("is_safe", False, True),  # BeaverTails
        ("is_correct", False, True),  # OpenMathInstruct-1
        ("is_correct", "False", "True"),  # the same in a CSV
        ("kto_tag", "false", "true"),
        ("is_safe", 0, 1),  # the same in a table of numbers
        ("correct", False, True),
        ("response_harm_label", "harmful", "unharmful"),  # WildGuard
        ("response_label", "unsafe", "safe"),  # Aegis
    ],
)
def test_a_reply_that_is_marked_as_a_bad_one_is_not_learned(column, bad, good):
    reader = RowReader("instructions")
    with pytest.raises(DropRow, match=f"`{column}` is {str(bad).lower()}: a reply that is not to be learned"):
        reader.read({**PAIR, column: bad})
    assert reader.not_used(reader.read({**PAIR, column: good})) == []


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
KTO = [
    {"prompt": "Hi", "completion": "Yo"},
    {"prompt": [TURNS[0]], "completion": [TURNS[1]]},  # kto-mix-14k
    {"messages": TURNS},  # ms-swift
    {"Prompt": "Hi", "Response": "Yo"},  # a CSV
]
CATEGORIES = [
    ({"instruction": "Is it praise?", "input": "Dull.", "output": "no"}, "label", 0),  # SST-2 as a task
    ({"instruction": "Is it praise?", "input": "Dull.", "output": "no"}, "label", "0.0"),
    ({"instruction": "Is it a threat?", "output": "no"}, "label", False),
    ({"question": "Hi", "answer": "Yo"}, "label", 0),  # WikiQA, where it is a mark
    ({"prompt": "Hi", "completion": "Yo"}, "label", "unsafe"),  # which of the two?
    ({"prompt": "Hi", "completion": "Yo"}, "label", 0),
    ({"messages": TURNS}, "Label", "0"),
    ({"question": "Hi", "answer": "Yo"}, "correct", 0),  # the first of choices that are not there
    ({"prompt": "Hi", "response": "Yo"}, "response_label", 0),  # of classes, whose first may be the safe one
]


@pytest.mark.parametrize("row", KTO)
@pytest.mark.parametrize("kind", [bool, str])
def test_a_label_that_is_true_or_false_beside_a_prompt_and_its_reply_is_ktos(row, kind):
    column = "Label" if "Prompt" in row else "label"
    reader = RowReader("instructions")
    with pytest.raises(DropRow, match=f"`{column}` is false: a reply that is not to be learned"):
        reader.read({**row, column: kind(False)})
    assert reader.not_used(reader.read({**row, column: kind(True)})) == []


@pytest.mark.parametrize("written", [str, json.dumps])
@pytest.mark.parametrize("prompt", ["Hi", [TURNS[0]]])
def test_a_completion_that_a_table_holds_as_a_text_of_messages_is_messages(prompt, written):
    """TRL's rows in a CSV, as pandas or as json writes lists: the text itself was trained on."""
    row = {"prompt": prompt if prompt == "Hi" else written(prompt), "completion": written([TURNS[1]])}
    assert RowReader("instructions").read(row).row["messages"] == TURNS
    text = json.dumps(TURNS)  # that an answer is to be written so
    read = RowReader("instructions").read({"instruction": "Hi", "output": text}).row
    assert read["output"] == text


@pytest.mark.parametrize(
    "text", ["[{'from': 'human', 'value': 'Hi'}\n {'from': 'gpt', 'value': 'Yo'}]", None]
)
def test_turns_as_numpy_prints_them_are_refused_with_what_to_do(text):
    """A column of arrays that pandas has written into a CSV."""
    text = text or "array([{'role': 'user', 'content': 'Hi'}], dtype=object)"
    with pytest.raises(BadRow, match="`conversations` is a list of turns as numpy prints it.*JSON lines or"):
        RowReader("instructions").read({"conversations": text})


@pytest.mark.parametrize(("row", "column", "value"), CATEGORIES)
def test_a_label_that_may_be_a_category_is_asked_about(row, column, value):
    """Half the rows of a task about sentiment would be left out."""
    choice = rf"`columns: {{is_correct: {column}}}`, .*or `columns: {{category: {column}}}`"
    with pytest.raises(BadRow, match=rf"`{column}` is {str(value).lower()}, which may mark .*{choice}"):
        RowReader("instructions").read({**row, column: value})
    category = RowReader("instructions", {"category": column})
    assert category.config_errors("data") == []
    layout = category.read({**row, column: value})
    assert category.not_used(layout) == []
    assert layout.row.get("output", "Yo") in ("no", "Yo")
    with pytest.raises(DropRow, match="is not to be learned"):
        RowReader("instructions", {"is_correct": column}).read({**row, column: value})


def test_a_label_of_a_category_that_loses_no_row_is_told_as_not_read():
    reader = RowReader("instructions")
    for value in (1, 2, "positive", "toxic"):
        assert reader.not_used(reader.read({**PAIR, "label": value})) == ["label"]


def test_convert_compares_the_safe_reply_with_the_other(tmp_path, rows):
    lines = [{"prompt": "Hi", "response": text, "is_safe": text == "Yo"} for text in ("No", "Yo")]
    file = rows(tmp_path / "x.jsonl", lines)
    assert main(["data", "convert", file, "--kind", "preferences", "--output", str(tmp_path / "out")]) == 0
    (row,) = map(json.loads, (tmp_path / "out/rows.jsonl").read_text("utf-8").splitlines())
    assert row == {"instruction": "Hi", "replies": ["No", "Yo"], "ratings": [0.0, 1.0]}


def test_a_step_goes_on_from_the_steps_before_it():
    read = RowReader("preferences").read(STEPS).row
    assert (read["reply_prefix"], comparison(read).replies) == ("Step 1:", [" Yo", " No"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "Hi", "human_answers": ["Yo"], "chatgpt_answers": ["No"]},  # HC3
            r"`human_answers` and `chatgpt_answers` both answer: .*columns: \{output: human_answers\}",
        ),
        ({"question": "Hi", "answer": "x", "correction": "y"}, "`answer` and `correction` both answer"),
        (
            {**MEDMCQA, "cop": 2},
            r"from 0 .*from 1 .*`columns: \{answer_idx: cop\}` or `columns: \{answer_number",
        ),
        (
            {"definition": "D", "instances": NATURAL["Instances"]},
            r"`instances` are several.*columns: \{input:",
        ),
        ({"question": "Hi", "choices": [{"a": 1}, {"b": 2}], "answer": 1}, "`choices` is no list of texts"),
        (
            {"question": "Hi", "context": {"sentences": ["x"]}, "answer": "Yo"},  # HotpotQA
            r"`context` is dict, not text: .*columns: \{input: context.sentences\}",
        ),
        (
            {"question": "Hi", "answers": [{"text": "Yo", "tokens": []}]},  # NarrativeQA
            r"`answers` is dict, not text: .*columns: \{output: answers.0.text\}",
        ),
    ],
)
def test_what_may_be_meant_otherwise_is_one_line_that_names_the_setting(row, message):
    with pytest.raises(BadRow, match=message) as refusal:
        RowReader("instructions").read(row)
    assert "\n" not in str(refusal.value)


def test_hc3s_answers_are_those_that_columns_name():
    layout = RowReader("instructions", {"output": "human_answers"}).read(
        {"question": "Hi", "human_answers": ["Yo", "y"], "chatgpt_answers": ["No"]}
    )
    assert layout.row["output"] == "Yo"
    assert layout.changes == ["the first of several `human_answers`"]
