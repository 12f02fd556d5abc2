"""The built-in tasks: seeded items, metrics that can be worked out by hand, and what a task file may say."""

import json
from types import SimpleNamespace

import pytest

from experiments.cli.user_errors import UserError
from experiments.evaluation import metrics
from experiments.evaluation.constraints import CONSTRAINTS, HELD_OUT, follows, loosened
from experiments.evaluation.measure import identity, summary, units
from experiments.evaluation.registry import BUILT_IN, asked
from experiments.evaluation.task import Answer, Likelihood, Question, Reply
from experiments.evaluation.transformers import FewShot, named_transformer
from experiments.statistics import rate


def likelihoods(*logprobs: float) -> tuple[Likelihood, ...]:
    return tuple(Likelihood(logprob, 2, False) for logprob in logprobs)


@pytest.fixture(params=BUILT_IN)
def task(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the quickstart has left no data
    return asked(request.param).task


def test_items_are_seeded_and_none_is_an_example(task):
    rows, again = task.rows(), type(task)().rows()
    assert rows == again
    assert len(rows) >= 100
    assert len({json.dumps(row) for row in rows}) == len(rows)
    questions = [task.prompt(row) for row in rows]
    assert set(questions).isdisjoint(task.prompt(row) for row in task.examples())
    if task.name != "in-context":  # the interpreter's help is in English
        assert {question.language for question in questions} == {"en", "zh"}


def test_a_right_answer_is_right_and_another_is_not(task):
    if task.name in ("in-context", "instructions"):
        return  # without one right answer
    for row in task.rows()[:20]:
        question, right = task.prompt(row), task.answer(row)
        if question.choices:
            logprobs = [-1.0 if choice == right else -99.0 for choice in question.choices]
            good = Answer(likelihoods=likelihoods(*logprobs))
            bad = Answer(likelihoods=likelihoods(*[-100 - logprob for logprob in logprobs]))
        else:
            good, bad = Answer(Reply(f"{right}\n", True)), Answer(Reply("77777 no", True))
        first = task.metrics[0]
        assert task.score(row, good)[first] == 1, row
        assert task.score(row, bad)[first] < 0.2, row
        assert set(task.score(row, good)) == set(task.metrics)


def test_every_way_of_asking_changes_the_question_and_not_the_items(task):
    kinds = units([asked(task.name)], [0, 2], 10)
    identities = [identity(unit) for unit in kinds]
    assert len({each.items for each in identities}) == len(kinds)
    assert len({each.rows for each in identities}) == 1


def test_few_shot_shows_the_first_examples_in_the_questions_language():
    task = asked("translation").task
    row = task.rows()[0]
    question = FewShot(2)(task.prompt(row), row, task)
    shown = question.laid_out().split("\n\n")
    assert len(shown) == 3
    assert shown[-1] == task.prompt(row).laid_out()
    first = next(each for each in task.examples() if task.prompt(each).language == question.language)
    assert shown[0] == f"{task.prompt(first).text}\n{first['answer']}"
    with pytest.raises(UserError, match=r"--shots is 99, but translation has 8 examples in \w\w: give 8"):
        FewShot(99)(task.prompt(row), row, task)


def test_steps_passages_and_restriction_apply_to_any_question(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("The mayor of Ostermoor is Ada Quill.\n")
    row, task = {}, SimpleNamespace(name="any")
    question = Question("Who is the mayor of Ostermoor?")
    for name in ("steps", "retrieval", "restricted"):
        question = named_transformer(name, [str(notes)])(question, row, task)
    text = question.laid_out()
    assert "The mayor of Ostermoor is Ada Quill." in text
    assert "say: unknown" in text
    assert text.endswith("Who is the mayor of Ostermoor?\nLet's think step by step.")
    assert question._replace(language="zh", phrase="").laid_out() != question._replace(phrase="").laid_out()
    with pytest.raises(UserError, match=r"`\+retrieval` has nothing to look in: give --documents"):
        named_transformer("retrieval", [])


def test_an_answer_after_steps_is_what_the_reply_says_last(task_file):
    reply = Reply("2 and 2 are two twos.\nSo the answer is 4.\nThat is 2 + 2.", True)
    assert Answer(reply, thinks=True).text().strip() == "4."
    assert Answer(Reply("First 3.\n\n5\n", True), thinks=True).text() == "5"
    task = asked(task_file(metric="exact")).task
    assert task.score(task.rows()[0], Answer(reply, thinks=True)) == {"right": True}
    assert task.score(task.rows()[0], Answer(reply)) == {"right": False}


def test_chrf_is_that_of_a_case_worked_out_by_hand():
    # "abc" against "abd": unigrams 2 of 3, bigrams 1 of 2, trigrams 0 of 1, so P = R = (2/3 + 1/2 + 0) / 3
    assert metrics.chrf("abc", "abd") == pytest.approx((2 / 3 + 1 / 2) / 3)
    # "ab" against "abcd": P = (1 + 1 + 0 + 0) / 4, R = (2/4 + 1/3) / 4; F with β = 2
    precision, recall = 0.5, (0.5 + 1 / 3) / 4
    assert metrics.chrf("a b", "abcd") == pytest.approx(5 * precision * recall / (4 * precision + recall))
    assert (metrics.chrf("same", "same"), metrics.chrf("", "x"), metrics.chrf("x", "y")) == (1, 0, 0)


def test_answers_are_read_as_people_write_them():
    assert metrics.last_number("12 + 30 = 42, so 1,234.5 apples.") == 1234.5
    assert metrics.last_number("minus -3") == -3
    assert metrics.last_number("none") is None
    assert metrics.contains("It is Paris.", "paris")
    assert not metrics.contains("Parisian", "Paris")
    assert metrics.contains("首都是巴黎。", "巴黎")
    assert metrics.same(" Yes! ", "yes")


FOLLOWED = {
    "length": ("one two three", "a b c d e f g h i j k l", "10"),
    "lower_case": ("all small", "Not small", ""),
    "begin": ("In short, yes", "Yes, in short", "In short"),
    "full_stop": ("Done.", "Done", ""),
    "yes_no": ("No.", "No, never", ""),
    "word": ("The world turns", "It turns", "world"),
    "bullets": ("- a\n- b", "- a\n- b\n- c", "2"),
    "language": ("雨是水。", "Rain is water.", "zh"),
    "json": ('{"a": 1}', "a: 1", ""),
    "repeat": ("What is rain? Water.", "Water.", ""),
    "no_comma": ("a b", "a, b", ""),
    "paragraphs": ("a\n\nb", "a\nb", ""),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_constraint_tells_a_reply_that_follows_from_one_that_does_not(name):
    good, bad, argument = FOLLOWED[name]
    assert follows(name, good, argument, "What is rain?")
    assert not follows(name, bad, argument, "What is rain?")
    assert not follows(name, "  ", argument, "What is rain?")


def test_loose_accuracy_forgives_what_ifeval_forgives():
    reply = "Sure:\n**yes**\nDone"
    assert "yes" in set(loosened(reply))
    assert (
        len(list(loosened(reply))) == 8
    )  # IFEval's: three removals of lines and none, with asterisks and without
    task = asked("instructions").task
    row = {"asked": "Is it?", "constraints": [("yes_no", "")], "language": "en"}
    scores = task.score(row, Answer(Reply(reply, True)))
    assert (scores["strict"], scores["loose"], scores["strict_combined"]) == (False, True, None)


def test_held_out_pairs_are_of_known_constraints_and_each_is_asked():
    assert {name for pair in HELD_OUT for name in pair} <= set(CONSTRAINTS)
    pairs = [tuple(n for n, _ in row["constraints"]) for row in asked("instructions").task.rows()]
    assert {pair for pair in pairs if len(pair) == 2} == set(HELD_OUT)
    assert {pair[0] for pair in pairs if len(pair) == 1} == set(CONSTRAINTS)


def test_the_in_context_score_is_late_minus_early_and_the_gain_is_per_byte():
    task = asked("in-context").task
    row = task.rows()[0]
    early, late, other = (
        Likelihood(-30.0, 10, False),
        Likelihood(-20.0, 10, False),
        Likelihood(-60.0, 10, False),
    )
    scores = task.score(row, Answer(likelihoods=(early, late, other)))
    spans = task.prompt(row).spans
    assert scores["score"] == pytest.approx(2.0 - 3.0)
    assert scores["gain"] == pytest.approx(40 / len(spans[1][1].encode()))
    assert spans[1][1] == spans[2][1]
    assert spans[1][0] in row["text"]
    assert spans[2][0] in row["other"]
    assert abs(len(spans[1][0]) - len(spans[2][0])) < 30  # as much of the one as of the other


def test_items_that_do_not_count_are_left_out_of_a_rate():
    scores = [{"a": True, "b": None}, {"a": False, "b": True}, {"a": True, "b": True}]
    found = summary(["a", "b"], scores)
    assert found == {"a": rate([True, False, True]), "b": rate([True, True])}
    assert summary(["b"], scores[:1]) == {}


def test_a_hallucination_is_an_answer_where_the_passages_have_none():
    task = asked("restriction").task
    answerable, unanswerable = task.rows()[:2]
    assert answerable["answer"] in "".join(answerable["passages"])
    name = unanswerable["text"]
    assert not any(passage.split(" was ")[0] in name for passage in unanswerable["passages"])
    said = task.score(unanswerable, Answer(Reply("Lyon", True)))
    assert (said["hallucination"], said["right"], said["over_refusal"]) == (True, False, None)
    refused = task.score(answerable, Answer(Reply("I do not know.", True)))
    assert (refused["over_refusal"], refused["right"], refused["hallucination"]) == (True, False, None)


GOOD = {
    "rows": [{"q": "2 + 2", "a": "4"}, {"q": "1 + 1", "a": "2"}],
    "template": "What is {q}?",
    "answer": "{a}",
    "metric": "number",
}


@pytest.fixture
def task_file(tmp_path):
    def write(**changes):
        file = tmp_path / "sums.yaml"
        content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
        file.write_text(json.dumps(content))  # which is YAML too
        return str(file)

    return write


def test_a_yaml_file_is_a_task(task_file, tmp_path, rows):
    task = asked(task_file()).task
    assert task.name == "sums"
    row = task.rows()[0]
    assert task.prompt(row).text == "What is 2 + 2?"
    assert task.score(row, Answer(Reply("It is 4.", True))) == {"right": True}
    assert task.score(row, Answer(Reply("It is 5.", True))) == {"right": False}
    rows(tmp_path / "more.jsonl", [{"q": "0 + 0", "a": "0"}])
    assert asked(task_file(rows="more.jsonl")).task.rows() == [{"q": "0 + 0", "a": "0"}]
    chosen = asked(task_file(metric="choice", choices=["4", "2"])).task
    assert chosen.score(chosen.rows()[1], Answer(likelihoods=likelihoods(-3, -1))) == {"right": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"template": None, "metric": None}, "`template`, `metric` missing"),
        ({"rows": []}, "`rows` missing"),
        ({"prompt": "x"}, "there is no key `prompt`"),
        ({"metric": "bleu"}, "there is no `bleu`: give exact"),
        (
            {"template": "What is {question}?"},
            "row 0 has no field `question`, which `template` names (it has `q`",
        ),
        ({"rows": [{"q": "1", "a": "1"}, {"q": "2"}]}, "row 1 has no field `a`, which `answer` names"),
        ({"template": "What is {q?"}, "is no template"),
        ({"rows": "missing.jsonl"}, "missing.jsonl cannot be read"),
        ({"metric": "choice"}, "go together"),
        ({"metric": "choice", "choices": ["1"]}, "row 0: the answer is none of the choices"),
        ({"max_new_tokens": 0}, "give a whole number above 0"),
    ],
)
def test_a_wrong_task_file_is_refused_in_one_line(task_file, changes, words):
    with pytest.raises(UserError) as error:
        asked(task_file(**changes))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("math", "did you mean `maths`?"),
        ("nothing.at.All", "there is no class `nothing.at.All`"),
        ("json.JSONDecoder", "is no whole task"),
        ("missing.yaml", "missing.yaml does not exist"),
        ("maths+dance", "there is no `+dance`"),
        ("in-context+steps", "only measures how likely texts are"),
    ],
)
def test_an_unknown_task_is_refused_in_one_line(name, words):
    with pytest.raises(UserError) as error:
        asked(name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
