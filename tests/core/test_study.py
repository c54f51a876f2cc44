"""Statistics of a study, checked against choix and evalica, and recovery of known preferences."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import choix
import evalica
import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest

from pvtool_core.errors import InputRefused, Missing, UsageError
from pvtool_core.media.encode import write_clip
from pvtool_core.study.agreement import alpha
from pvtool_core.study.answers import Answers, read_all_answers, write_answers
from pvtool_core.study.design import design
from pvtool_core.study.method_clips import MethodClip, MethodClips, SetKey
from pvtool_core.study.questions import QUESTIONS
from pvtool_core.study.rao_kupper import scores
from pvtool_core.study.session import Session, screens
from pvtool_core.study.study_folder import make_study
from pvtool_core.study.study_items import Shown, Study, read_study
from pvtool_core.study.study_key import CHECKS, Kind, StudyKey, key_path
from pvtool_core.study.study_report import study_report
from pvtool_core.study.win_rates import sign_test, win_rate
from tests.support.raters import simulate, true_rate
from tests.support.study import PROMPT, answer, photos, prefers, write_render

STRENGTHS = {"ours": 4.0, "lora": 2.0, "base": 1.0}


def large_study(
    folder: Path, sets: int = 60, methods: tuple[str, ...] = ("ours", "lora", "base")
) -> tuple[Study, StudyKey]:
    """Design a study of small files without encoding them."""
    clips: list[MethodClips] = []
    for name in methods:
        own: dict[SetKey, MethodClip] = {}
        for seed, identity in itertools.product(range(sets // 2), ("ada", "mara")):
            file = folder / f"{name}-{identity}-{seed}.mp4"
            file.write_text(file.name)
            own[SetKey(identity, "waves", seed)] = MethodClip(file, 8)
        clips.append(MethodClips(name, own))
    plan = design(clips, sets, 7)
    items = [
        Shown(item.name, "photo.jpg", item.prompt, tuple(item.clips), item.again)
        for item in plan.items
    ]
    key = StudyKey(study=plan.study, methods=methods, items=plan.items)
    return Study(folder, plan.study, tuple(items)), key


def comparisons(count: int, ties: bool) -> list[tuple[str, str, str]]:
    """Return pairs of methods, and the winner or an empty text."""
    draw = np.random.default_rng(3)
    found: list[tuple[str, str, str]] = []
    for _ in range(count):
        a, b = draw.permutation(list(STRENGTHS))[:2]
        share = STRENGTHS[a] / (STRENGTHS[a] + STRENGTHS[b])
        winner = a if draw.random() < share else b
        found.append((a, b, "" if ties and draw.random() < 0.2 else winner))
    return found


def matrices(found: list[tuple[str, str, str]]) -> tuple[Any, Any]:
    place = {name: number for number, name in enumerate(STRENGTHS)}
    wins, ties = np.zeros((3, 3)), np.zeros((3, 3))
    for a, b, winner in found:
        if winner:
            wins[place[winner], place[b if winner == a else a]] += 1
        else:
            ties[place[a], place[b]] += 1
            ties[place[b], place[a]] += 1
    return wins, ties


def test_scores_without_ties_are_those_of_choix() -> None:
    wins, ties = matrices(comparisons(600, ties=False))
    data = [(i, j) for i in range(3) for j in range(3) for _ in range(int(wins[i, j]))]
    found = scores(wins, ties)
    assert found is not None
    assert found[1] == 1
    expected = choix.mm_pairwise(3, data, tol=1e-12)
    assert found[0] == pytest.approx(expected - expected.mean(), abs=1e-5)


def test_scores_with_ties_maximise_the_likelihood_and_agree_with_evalica() -> None:
    rows = comparisons(3000, ties=True)
    wins, ties = matrices(rows)
    found = scores(wins, ties)
    assert found is not None

    def likelihood(logs: Any, theta: float) -> float:
        strength = np.exp(logs)
        total = ties.sum() / 2 * math.log(theta**2 - 1)
        for i, j in itertools.permutations(range(3), 2):
            share = strength[i] / (strength[i] + theta * strength[j])
            total += (wins[i, j] + ties[i, j]) * math.log(share)
        return total

    best = likelihood(*found)
    for step in (0.02, -0.02):
        assert likelihood(found[0], found[1] + step) < best
        for each in np.eye(3):
            assert likelihood(found[0] + step * each, found[1]) < best
    winners = [
        evalica.Winner.Draw if not won else evalica.Winner.X if won == a else evalica.Winner.Y
        for a, _, won in rows
    ]
    others: Any = evalica.newman([a for a, _, _ in rows], [b for _, b, _ in rows], winners)
    logs = np.log([others.scores[name] for name in STRENGTHS])
    # evalica's model of ties is Davidson's: close, but not the same
    assert found[0] == pytest.approx(logs - logs.mean(), abs=0.2)
    true = np.log(list(STRENGTHS.values()))
    assert found[0] == pytest.approx(true - true.mean(), abs=0.2)


def test_no_scores_without_a_chain_of_wins() -> None:
    wins = np.array([[0.0, 5, 5], [0, 0, 3], [0, 2, 0]])
    assert scores(wins, np.zeros((3, 3))) is None


def test_alpha_is_that_of_evalica() -> None:
    draw = np.random.default_rng(1)
    ratings = draw.choice([0.0, 0.5, 1.0], (6, 40), p=[0.2, 0.3, 0.5])
    ratings[:, ::3] = ratings[:1, ::3]
    ratings[draw.random((6, 40)) < 0.2] = np.nan
    expected = evalica.alpha(pd.DataFrame(ratings), distance="interval").alpha
    assert alpha(ratings) == pytest.approx(expected)
    assert alpha(np.full((3, 4), 0.5)) is None


def test_win_rate_is_the_mean_vote_with_ties_as_a_half() -> None:
    rows = [(a, b, won) for a, b, won in comparisons(400, ties=True) if "base" not in (a, b)]
    votes = np.array([[0.5 if not won else float(won == "ours") for _, _, won in rows]])
    winners = [
        evalica.Winner.Draw if not won else evalica.Winner.X if won == a else evalica.Winner.Y
        for a, _, won in rows
    ]
    found: Any = evalica.average_win_rate([a for a, _, _ in rows], [b for _, b, _ in rows], winners)
    rate = win_rate(votes)
    assert rate is not None
    assert rate.value == pytest.approx(found.scores["ours"])
    assert (rate.low, rate.high) == (None, None)  # one rater


def test_sign_test_is_exact() -> None:
    votes = np.array([[1.0] * 9 + [0.0] + [0.5] * 5])
    assert sign_test(votes) == pytest.approx(2 * 11 / 1024)
    assert sign_test(np.full((2, 3), 0.5)) == 1


def test_intervals_cover_the_truth() -> None:
    # tests/benchmarks/study.py measures this with 500 studies, 2000 draws and other sizes
    draw = np.random.default_rng(5)
    covered = 0
    for number in range(150):
        rate = win_rate(simulate(draw, 15, 50), seed=number, draws=400)
        assert rate is not None
        assert rate.low is not None
        assert rate.high is not None
        covered += rate.low <= true_rate() <= rate.high
    assert 0.91 <= covered / 150 <= 0.99


def test_a_design_is_reproducible_and_balanced(tmp_path: Path) -> None:
    study, key = large_study(tmp_path, 50)
    assert large_study(tmp_path, 50) == (study, key)
    kinds = [item.kind for item in key.items]
    assert kinds.count(Kind.SET) == 50
    assert kinds.count(Kind.IDENTICAL) == kinds.count(Kind.WRONG_PERSON) == 2
    assert 0.05 <= sum(kind in CHECKS for kind in kinds) / len(kinds) <= 0.1
    people = [item.identity for item in key.items if item.kind is Kind.SET]
    assert people.count("ada") == people.count("mara")


def test_order_and_sides_differ_by_rater_and_repeats_are_swapped(tmp_path: Path) -> None:
    study, key = large_study(tmp_path)
    items = key.by_name()
    shown = screens(study.items, "one")
    assert screens(study.items, "one") == shown != screens(study.items, "two")
    assert {screen.item.name for screen in shown} == set(items)
    pairs = [
        frozenset(items[each.item.name].clips[clip] for clip in (each.left, each.right))
        for each in shown
        if items[each.item.name].kind is Kind.SET
    ]
    assert {pairs.count(pair) for pair in set(pairs)} <= set(range(10, 31))
    assert len(set(pairs)) == 3
    place = {each.item.name: number for number, each in enumerate(shown)}
    for screen in shown:
        if again := screen.item.again:
            first = shown[place[again]]
            assert (screen.left, screen.right) == (first.right, first.left)
            assert place[screen.item.name] > place[again]


def test_report_recovers_known_preferences_and_excludes_careless_raters(tmp_path: Path) -> None:
    study, key = large_study(tmp_path)
    answers = [
        answer(study, key, f"r{number}", prefers(STRENGTHS, number), careful=number != 3)
        for number in range(12)
    ]
    found = study_report(key, answers)
    assert [row["rater"] for row in found["raters"] if row["excluded"]] == ["r3"]
    assert all(row["equal_repeats"] == 1 for row in found["raters"])
    for question in QUESTIONS:
        table = found["questions"][question.name]
        strengths = table["scores"]
        assert strengths["ours"] > strengths["lora"] > strengths["base"]
        for pair in table["pairs"]:
            share = STRENGTHS[pair["a"]] / (STRENGTHS[pair["a"]] + STRENGTHS[pair["b"]])
            truth = 0.85 * share + 0.15 / 2
            assert pair["win_rate"] == pytest.approx(truth, abs=0.1)
            assert pair["low"] < pair["win_rate"] < pair["high"]
            assert pair["wins"] + pair["ties"] + pair["losses"] <= 11 * 60
        assert -0.2 < table["alpha"] < 0.3


def test_no_report_without_careful_raters(tmp_path: Path) -> None:
    study, key = large_study(tmp_path, 20)
    careless = answer(study, key, "r", prefers(STRENGTHS, 1), careful=False)
    with pytest.raises(InputRefused, match="1 of 1 raters are excluded"):
        study_report(key, [careless])


def test_a_session_continues_with_the_same_order(tmp_path: Path) -> None:
    study, key = large_study(tmp_path, 20)
    whole = {each.item: each for each in answer(study, key, "me", prefers(STRENGTHS, 1)).answers}
    file = tmp_path / "answers.json"
    for expected in (0, 2, 4):
        session = Session(study, "me", file)
        assert session.position == expected
        for screen in session.screens[expected : expected + 2]:
            session.answer(screen, whole[screen.item.name].choices)
    assert file.stat().st_mode & 0o777 == 0o600
    (read,) = read_all_answers([file], key).values()
    assert {each.item: each for each in read.answers}.items() <= whole.items()
    with pytest.raises(InputRefused, match="has the answers of rater me"):
        Session(study, "you", file)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "other"}, 'has the format "other"'),
        ({"study": "other"}, "belongs to another study"),
        ({"rater": "../../x"}, "has the invalid rater"),
        ({"answers": {}}, "has no list of answers"),
        ({"answers": [3]}, "an answer is not an object"),
        ({"answers": [{"item": "x" * 99}]}, "answers the unknown item"),
        ({"answers": [{"item": ["x"]}]}, "answers the unknown item"),
        ({"left": "x.mp4"}, "names clips that are not of item"),
        ({"right": None}, "does not name two clips"),
        ({"choices": None}, "the choices of item"),
        ({"choices": {"identity_fidelity": ["left"]}}, "has the invalid answer"),
    ],
)
def test_invalid_answers_are_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    study, key = large_study(tmp_path, 20)
    file = tmp_path / "answers.json"
    write_answers(file, answer(study, key, "r", prefers(STRENGTHS, 1)))
    record = json.loads(file.read_text())
    place = record["answers"][0] if {"left", "right", "choices"} & change.keys() else record
    place.update(change)
    file.write_text(json.dumps(record))
    with pytest.raises(InputRefused, match=problem):
        read_all_answers([file], key)


def test_files_that_are_no_answers_are_refused(tmp_path: Path) -> None:
    study, key = large_study(tmp_path, 20)
    once, twice = tmp_path / "once.json", tmp_path / "twice.json"
    for file in (once, twice):
        write_answers(file, answer(study, key, "r", prefers(STRENGTHS, 1)))
    with pytest.raises(InputRefused, match=r"twice.json is by rater r, as is once.json"):
        read_all_answers([once, twice], key)
    both = json.loads(once.read_text())
    both["answers"] *= 2
    once.write_text(json.dumps(both))
    with pytest.raises(InputRefused, match="answers an item twice"):
        read_all_answers([once], key)
    for content, problem in {
        b"\xff": "is not JSON",
        b"[" * 100_000: "is not JSON",
        b"9" * 9_999: "is not JSON",
        b" " * (5 << 20): "is larger than 4096 KiB",
        b"[]": "the file is not an object",
    }.items():
        once.write_bytes(content)
        with pytest.raises(InputRefused, match=problem):
            read_all_answers([once], key)
    with pytest.raises(InputRefused, match="is a folder"):
        read_all_answers([tmp_path], key)
    with pytest.raises(InputRefused, match="No such file"):
        read_all_answers([tmp_path / "none.json"], key)


def test_the_folder_of_a_study_names_no_method(tmp_path: Path) -> None:
    folders = {
        "ours": write_render(tmp_path / "ours", seeds=1),
        "base": write_render(tmp_path / "base", ("ada",), 1, brightness=200, adapter=""),
    }
    out = tmp_path / "study"
    key = make_study(out, folders, 2, photos=photos(tmp_path))
    for path in out.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        content = path.read_bytes() if path.is_file() else b""
        assert not any(word in content for word in (b"ours", b"adapter.safetensors", b"seed-"))
        if path.suffix == ".mp4":
            assert b"trainedAlgorithmicMedia" in content
    assert key_path(out).stat().st_mode & 0o077 == 0
    assert key_path(out).parent == out.parent
    study = read_study(out)
    assert {clip for item in study.items for clip in item.clips} == {
        path.name for path in (out / "clips").iterdir()
    }
    assert len({path.read_bytes() for path in (out / "clips").iterdir()}) == 3
    identical = next(item for item in key.items if item.kind is Kind.IDENTICAL)
    assert len({study.clip(name).read_bytes() for name in identical.clips}) == 1
    stranger = next(item for item in key.items if item.kind is Kind.WRONG_PERSON)
    assert set(stranger.clips.values()) == {"ours"}  # a base model knows no person
    assert "src=" not in (out / "index.html").read_text().split("</style>")[0]


def test_a_study_needs_two_methods_with_common_sets_and_photos(tmp_path: Path) -> None:
    ours = write_render(tmp_path / "ours", ("ada",))
    out = tmp_path / "study"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="two or more methods"):
        make_study(out, {"ours": ours}, 1)
    with pytest.raises(InputRefused, match="2 sets in common, fewer than 3"):
        make_study(out, {"ours": ours, "again": ours}, 3)
    with pytest.raises(Missing, match="reference photo"):
        make_study(out, {"ours": ours, "again": ours}, 2)
    with pytest.raises(Missing, match="clip in the folder"):
        make_study(out, {"ours": ours, "none": tmp_path / "empty"}, 2)
    write_render(tmp_path / "ours/more", ("ada",))
    with pytest.raises(InputRefused, match="has two clips of ada"):
        make_study(out, {"ours": ours, "again": ours}, 2)
    assert not out.exists()
    assert not key_path(out).exists()


def test_answers_of_another_study_do_not_fit(tmp_path: Path) -> None:
    study, key = large_study(tmp_path, 20)
    _, other = large_study(tmp_path, 22)
    given: Answers = answer(study, key, "r", prefers(STRENGTHS, 1))
    write_answers(tmp_path / "a.json", given)
    with pytest.raises(InputRefused, match="belongs to another study"):
        read_all_answers([tmp_path / "a.json"], other)


def test_method_of_another_program_has_a_manifest(tmp_path: Path) -> None:
    ours, theirs = write_render(tmp_path / "ours", seeds=1), tmp_path / "theirs"
    rows = ["file,identity,prompt,seed,method"]
    for number, identity in enumerate(("ada", "mara")):
        clip = theirs / f"{number}"
        theirs.mkdir(exist_ok=True)
        write_clip(clip, np.full((4, 32, 48, 3), 200, np.uint8), 12, {})
        rows.append(f"{number}.mp4,{identity},{PROMPT},0,MagicMe")
    (theirs / "clips.csv").write_text("\n".join(rows))
    key = make_study(
        tmp_path / "out", {"ours": ours, "MagicMe": theirs}, 2, photos=photos(tmp_path)
    )
    assert key.methods == ("ours", "MagicMe")
    sizes = {iio.imread(clip).shape for clip in (tmp_path / "out/clips").glob("*.mp4")}
    assert (4, 32, 48, 3) in sizes
    with pytest.raises(Missing, match="method in the manifest"):
        make_study(tmp_path / "again", {"ours": ours, "other": theirs}, 2, photos=photos(tmp_path))
