"""The experiments of `trivium abilities` ask what they say: items are right, what is held out stays so, and
a verdict follows from its bars."""

import itertools
import re

import numpy as np
import pytest
import yaml

from experiments.abilities import chain_of_thought, in_context, instructions
from experiments.abilities.ability import CONFIGS, Answers, Arm, Bar, Finding, Headline, Question
from experiments.abilities.arm import arm_config, merged
from experiments.abilities.asking import items_sha256, load, save
from experiments.abilities.catalogue import NAMES, jobs_of, made
from experiments.abilities.emergence import WIDTHS, parameters
from experiments.abilities.lexicon import LANGUAGES
from experiments.abilities.restriction import made_up, refused, risk_by_coverage
from experiments.abilities.verdict import adjusted, verdict
from experiments.statistics import Estimate, Paired

ITEMS = 60


def texts(ability, question):
    """The prompt, its first word without the rest, and the expected answer of every item."""
    pairs = zip(question.prompts, question.expected, strict=True)
    return [(ability.text(prompt), ability.text(expected)) for prompt, expected in pairs]


def named(ability, arm, condition):
    return next(q for q in ability.questions(arm) if q.condition == condition)


def test_sums_are_right_and_none_is_trained_on():
    ability = made("emergence", "en", items=ITEMS)
    test = texts(ability, named(ability, "d = 8", "addition"))
    for prompt, expected in test:
        first, second = (int(part.replace(" ", "")[::-1]) for part in prompt[:-2].split(" + "))
        assert int(expected.replace(" ", "")[::-1]) == first + second
    (block,) = ability.rows("d = 8", 0)
    trained = {row.tobytes() for row in block.ids[:, :12]}
    assert not trained & {row.tobytes() for row in named(ability, "d = 8", "addition").prompts}
    assert block.answers.tolist() == [False] * 12 + [True] * 6


@pytest.mark.parametrize("width", WIDTHS)
def test_a_width_has_the_parameters_that_the_page_says(width):
    from transformers import AutoConfig, AutoModelForCausalLM

    ability = made("emergence", "en")
    arm = next(arm for arm in ability.arms() if arm.name == f"d = {width}")
    config = arm_config(ability, arm, 0, CONFIGS)["model"]["init_args"]["config"]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config, vocab_size=14))
    assert model.num_parameters() == parameters(width)


def run_program(lines, asked):
    """Runs a program as it is written: every line is a letter and a value or an operation."""
    by_letter = dict(zip(lines[::2], lines[1::2], strict=True))
    value = None
    for letter in "ABCDEFGH":
        step = by_letter[letter]
        if step[0] in "+-*":
            operand = int(step[1:])
            value = {"+": value + operand, "-": value - operand, "*": value * operand}[step[0]] % 11
        else:
            value = int(step)
        if letter == asked:
            return value
    raise AssertionError(asked)


@pytest.mark.parametrize("length", chain_of_thought.LENGTHS)
def test_programs_have_the_results_that_running_them_gives(length):
    ability = made("chain-of-thought", "en", items=ITEMS)
    for how in ("direct", "steps"):
        for prompt, expected in texts(ability, named(ability, "both", f"{how} {length}")):
            lines, _, asked = prompt[:-2].rpartition(" ? ")
            assert int(expected.split()[-1]) == run_program(lines.split(), asked)
    for prompt, expected in texts(ability, named(ability, "both", f"steps {length}")):
        steps = expected.split()[:-2]
        lines = prompt.split()[: 2 * length]
        for letter, step, result in zip(steps[::3], steps[1::3], steps[2::3], strict=True):
            assert int(result) == run_program(lines, letter)
            assert lines[lines.index(letter) + 1] == step


def test_dots_are_as_many_tokens_as_the_steps():
    ability = made("chain-of-thought", "en", items=ITEMS)
    for length in chain_of_thought.LENGTHS:
        steps = named(ability, "both", f"steps {length}")
        dots = named(ability, "dots", f"dots {length}")
        whole = [q.prompts.shape[1] + q.expected.shape[1] for q in (steps, dots)]
        assert whole[0] == whole[1]
        assert (dots.prompts[:, : 2 * length] == steps.prompts[:, : 2 * length]).all()


def test_what_is_expected_after_a_wrong_step_follows_from_it_and_is_not_the_truth():
    ability = made("chain-of-thought", "en", items=ITEMS)
    for length in chain_of_thought.LENGTHS:
        for prompt, expected in texts(ability, named(ability, "both", f"corrupted {length}")):
            lines, _, rest = prompt.partition(" ? ")
            asked, _, *steps = rest.split()
            wrong, letter = int(steps[-1]), steps[-3]
            assert wrong != run_program(lines.split(), letter)
            later = [
                word if word != lines.split()[lines.split().index(letter) + 1] else word
                for word in lines.split()
            ]
            place = later.index(letter) + 1
            later[place] = str(wrong)  # the line now gives the wrong value, whatever stood there
            answer = int(expected.split()[-1])
            assert answer == run_program(later, asked)
            assert answer != run_program(lines.split(), asked)


def test_the_label_that_is_asked_for_is_among_the_examples():
    ability = made("in-context", "en", items=ITEMS)
    for shots in in_context.SHOTS:
        for prompt, expected in texts(ability, named(ability, in_context.TWO, f"{shots} examples")):
            *examples, asked = prompt.split()
            known = dict(zip(examples[::2], examples[1::2], strict=True))
            assert len(known) == shots
            assert (asked in known) == bool(shots)
            assert known.get(asked, expected) == expected


def test_the_same_things_are_asked_with_every_number_of_examples():
    ability = made("in-context", "en", items=ITEMS)
    questions = ability.questions(in_context.TWO)
    assert all((q.prompts[:, -1] == questions[0].prompts[:, -1]).all() for q in questions)
    assert all((q.expected == questions[0].expected).all() for q in questions)


def test_the_best_predictor_of_a_chain_is_the_one_worked_out_by_hand():
    """a b a b b: before the last symbol, b has been followed by a once, so a has 2/5 and the others 1/5."""
    best, unigram, visits = in_context.best_predictions(np.array([[0, 1, 0, 1, 1]]))
    assert best[0, 0] == pytest.approx([1 / 4] * 4)
    assert best[0, 2] == pytest.approx([1 / 5, 2 / 5, 1 / 5, 1 / 5])
    assert best[0, 3] == pytest.approx([2 / 5, 1 / 5, 1 / 5, 1 / 5])
    assert unigram[0, 3] == pytest.approx([3 / 8, 3 / 8, 1 / 8, 1 / 8])
    assert visits[0].tolist() == [0, 0, 1, 1]


def test_the_best_predictor_predicts_fresh_chains_best():
    """Its loss is below that of counting, and of the same made surer or less sure; 4,000 chains."""
    chains = in_context.chains(np.random.default_rng(7), 4000)
    best, unigram, _ = in_context.best_predictions(chains)
    target = chains[:, 1:, None]

    def loss(prediction):
        return -np.log(np.take_along_axis(prediction, target, 2)).mean()

    sharper = best**1.2 / (best**1.2).sum(2, keepdims=True)
    softer = best**0.8 / (best**0.8).sum(2, keepdims=True)
    assert loss(best) < min(loss(sharper), loss(softer), loss(unigram))


def test_texts_are_rewritten_as_the_rule_says_and_held_out_rules_never_trained():
    ability = made("instructions", "en", items=ITEMS)
    pattern = re.compile(r"(..)>(..)\|(.{8})=")
    held_out = set()
    for prompt, expected in texts(ability, named(ability, "30 rules", instructions.NEW)):
        old, new, text = pattern.fullmatch(prompt.replace(" ", "")).groups()
        assert old in text
        assert expected.replace(" ", "") == text.replace(old, new, 1)
        held_out.add((old, new))
    for count in (30, 3000):
        (block,) = ability.rows(f"{count} rules", 0)
        rules = {tuple(rule) for rule in np.unique(block.ids[:, [0, 1, 3, 4]], axis=0).tolist()}
        assert len(rules) == count
        letters = {
            ("".join("abcdefgh"[i] for i in r[:2]), "".join("abcdefgh"[i] for i in r[2:])) for r in rules
        }
        assert not letters & held_out


@pytest.fixture(scope="module")
def world():
    return made("retrieval", "en", items=ITEMS), made("restriction", "en", items=ITEMS)


@pytest.fixture(scope="module")
def trained_texts(world):
    ability, _ = world
    blocks = list(ability.rows("reader", 0))
    return [ability.text(row) for block in blocks for row in block.ids[:300]], blocks


def name_of(prompt):
    return " ".join(prompt.split()[-4:-2])


def test_nobody_unseen_occurs_in_training(world, trained_texts):
    ability, _ = world
    _, blocks = trained_texts
    unseen = {name_of(p) for p, _ in texts(ability, named(ability, "reader", "unseen, none, free"))}
    pairs = {tuple(ability.text(w).split()) for w in np.argwhere(np.ones((1, 1)))} and set()
    for block in blocks:
        firsts, lasts = block.ids[:, :-1], block.ids[:, 1:]
        names = (firsts < 64) & (lasts >= 64) & (lasts < 128)
        pairs |= set(zip(firsts[names].tolist(), lasts[names].tolist(), strict=True))
    trained = {ability.text(pair) for pair in pairs}
    assert len(trained) > 2500  # of 3,096 who may occur
    assert not trained & unseen


def test_passages_tell_what_the_condition_says(world):
    ability, _ = world
    questions = {q.condition: texts(ability, q) for q in ability.questions("reader")}
    for who in ("known", "unseen"):
        conditions = [
            questions[f"{who}, {context}, free"] for context in ("none", "gold", "wrong", "counterfactual")
        ]
        for none, gold, wrong, other in zip(*conditions, strict=True):
            assert name_of(none[0]) == name_of(gold[0]) == name_of(wrong[0]) == name_of(other[0])
            name, kind = name_of(none[0]), none[0].split()[-2]
            assert name not in wrong[0][: wrong[0].rindex(" . ")]
            for prompt, expected in (gold, other):
                passage = next(part for part in prompt.split(" . ") if part.startswith(name))
                assert f"{kind} {expected}" in passage
            assert none[1] == gold[1] == wrong[1] != other[1]


def test_refusing_is_trained_only_where_it_is_asked_for_and_the_passages_do_not_tell(trained_texts):
    rows, _ = trained_texts
    answered = re.compile(r"(beyond|only|strictly|solely) (text|passage|source) (\S+ \S+) (\S+) = (\S+)")
    refusals = 0
    for row in rows:
        context = row[: answered.search(row).start()]
        for how, _, name, kind, answer in answered.findall(row):
            told = re.search(rf"{name} city .*? \.", context)
            if answer == "unknown":
                refusals += 1
                assert how != "beyond"
                assert not told
            elif told:
                assert f"{kind} {answer}" in told[0]
            else:
                assert how == "beyond"
    assert refusals > 300


def test_two_wordings_of_the_restriction_are_never_trained_and_all_their_words_are(world, trained_texts):
    _, ability = world
    rows, _ = trained_texts
    wordings = {tuple(pair) for row in rows for pair in re.findall(r"(only|strictly|solely) (\w+)", row)}
    held_out = {
        tuple(prompt.split()[-6:-4])
        for prompt, _ in texts(ability, named(ability, "reader", "unseen, wrong, held-out"))
    }
    assert len(held_out) == 2
    assert not held_out & wordings
    for place in (0, 1):
        assert {pair[place] for pair in held_out} <= {pair[place] for pair in wordings}


def test_what_is_made_up_is_neither_right_nor_a_refusal():
    from experiments.abilities.knowledge import UNKNOWN_WORD

    ids = np.array([[7], [8], [UNKNOWN_WORD]])
    answers = Answers("c", np.array([True, False, False]), ids, np.array([[7]] * 3), ids, {})
    assert made_up(answers).tolist() == [False, True, False]
    assert refused(answers).tolist() == [False, False, True]


def test_risk_grows_with_coverage_as_worked_out_by_hand():
    def answers(condition, right, entropy):
        ids = np.zeros((len(right), 1), dtype=int)
        return Answers(condition, np.array(right), ids, ids, ids, {"entropy": np.array(entropy)})

    told = answers("unseen, gold, free", [True, True, True, True, False], [0.1, 0.2, 0.3, 0.4, 0.9])
    untold = answers("unseen, wrong, free", [False] * 5, [0.5, 0.6, 0.7, 0.8, 1.0])
    risk = risk_by_coverage({("reader", 0): {told.condition: told, untold.condition: untold}})
    assert [risk[share] for share in (0.4, 0.5, 0.8, 1.0)] == pytest.approx([0, 1 / 5, 4 / 8, 6 / 10])


@pytest.mark.parametrize("name", NAMES)
def test_an_item_is_the_same_tokens_in_both_languages(name):
    english, chinese = (made(name, language, items=ITEMS) for language in LANGUAGES)
    for ability in (english, chinese):
        vocabulary = ability.vocabulary()
        assert len(set(vocabulary)) == len(vocabulary)
        assert not any(" " in word for word in vocabulary)
    for arm in english.arms():
        questions = [ability.questions(arm.name) for ability in (english, chinese)]
        if name != "retrieval":  # BM25 may find other passages in another script
            assert items_sha256(questions[0]) == items_sha256(questions[1])
        plain = [q for q in questions[0] if "BM25" not in q.condition]
        assert items_sha256(plain) == items_sha256(q for q in questions[1] if "BM25" not in q.condition)


def test_the_sha_of_items_tells_tests_apart():
    prompts, expected = np.array([[1, 2]]), np.array([[3]])
    digests = {
        items_sha256([Question(*question)])
        for question in (
            ("a", prompts, expected), ("b", prompts, expected), ("a", prompts + 1, expected),
            ("a", prompts, expected + 1), ("a", np.array([[1]]), np.array([[2, 3]])),
        )
    }  # fmt: skip
    assert len(digests) == 5


def test_answers_are_read_as_they_were_written(tmp_path):
    ability = made("instructions", "en", items=3)
    (question,) = ability.questions("30 rules")
    wrong = (question.expected + 1) % 8
    columns = {"nll": np.array([0.5, 0.25, 2.0])}
    answers = Answers(
        question.condition, np.array([True, False, True]), wrong, question.expected, question.prompts, columns
    )
    save([answers], ability, tmp_path / "answers.jsonl")
    ((condition, again),) = load(tmp_path / "answers.jsonl", ability).items()
    assert condition == question.condition
    for name in ("right", "answers", "expected", "prompts"):
        assert (getattr(again, name) == getattr(answers, name)).all()
    assert again.columns["nll"].tolist() == [0.5, 0.25, 2.0]


def test_unsure_sizes_get_five_seeds_where_others_get_three(tmp_path):
    ability = made("emergence", "en")
    counts = [
        {
            arm: sum(job.arm == arm for job in jobs_of(ability, seeds, tmp_path))
            for arm in ("d = 4", "d = 8", "d = 48")
        }
        for seeds in (1, 3)
    ]
    assert counts == [{"d = 4": 1, "d = 8": 1, "d = 48": 1}, {"d = 4": 3, "d = 8": 5, "d = 48": 3}]


def test_two_experiments_share_their_models_and_no_others_do(tmp_path):
    folders = {name: {job.folder for job in jobs_of(made(name, "en"), 2, tmp_path)} for name in NAMES}
    shared = {(a, b) for a, b in itertools.combinations(NAMES, 2) if folders[a] & folders[b]}
    assert shared == {("retrieval", "restriction")}


def finding(only_first=90, only_second=10, p=1e-9, **bar):
    given = {"value": 0.97, "low": 0.95, "high": 0.99, "threshold": 0.95, "at_least": True, **bar}
    estimate = Estimate(given["value"], given["low"], given["high"], 1000)
    bars = [Bar("bar", [given["value"]], estimate, given["threshold"], given["at_least"])]
    return Finding(Headline("a", "b", Paired(only_first, only_second, p)), bars, {})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (finding(), "shown"),
        (finding(value=0.94, low=0.92, high=0.96), "inconclusive"),  # missed, but its interval holds the bar
        (finding(value=0.90, low=0.88, high=0.92), "not shown"),
        (finding(p=0.2), "not shown"),
        (finding(only_first=10, only_second=90), "not shown"),  # the other way round
        (finding(value=0.04, low=0.03, high=0.05, threshold=0.05, at_least=False), "shown"),
        (finding(value=0.20, low=0.18, high=0.22, threshold=0.05, at_least=False), "not shown"),
    ],
)
def test_a_verdict_follows_from_the_headline_and_the_bars(found, expected):
    assert verdict(found, found.test.paired.p) == expected


def test_headline_tests_are_corrected_for_their_number():
    found = {name: finding(p=0.004) for name in NAMES}
    assert adjusted(found) == pytest.approx(dict.fromkeys(NAMES, 6 * 0.004))


def test_an_arm_changes_only_what_it_names():
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}}) == {"a": {"b": 5, "c": 2}, "d": 3}
    config = yaml.safe_load((CONFIGS / "in-context.yaml").read_text())
    ability = made("in-context", "en")
    arm = Arm("one", {"model": {"init_args": {"config": {"num_hidden_layers": 1}}}})
    changed = arm_config(ability, arm, 3, CONFIGS)
    assert changed["model"]["init_args"]["config"]["num_hidden_layers"] == 1
    assert (
        changed["model"]["init_args"]["config"]["hidden_size"]
        == config["model"]["init_args"]["config"]["hidden_size"]
    )
    assert changed["trainer"]["max_steps"] == config["steps"]
    assert changed["data"]["init_args"]["seed"] == changed["seed_everything"] == 3
