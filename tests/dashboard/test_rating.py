"""Application of `pv study take`, with pairs answered by keys."""

from pathlib import Path

from textual.widgets import Static

from pvtool.dashboard.rating import RatingApp
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.terminal import Pictures, Terminal
from pvtool_core.study.session import Session
from pvtool_core.study.study_items import Shown, Study
from tests.support.sample_data import clip

QUESTIONS = ("Identity Fidelity", "Text Alignment", "Dynamic Degree", "Overall Quality")


def study_in(folder: Path) -> Study:
    """Return a study of two pairs."""
    for name in ("clips", "photos"):
        (folder / name).mkdir()
    for name in ("clips/a.gif", "clips/b.gif", "photos/p.gif"):
        clip(folder / name)
    items = [Shown(name, "p.gif", f"waves [{name}]", ("a.gif", "b.gif")) for name in ("i", "j")]
    return Study(folder, "study", tuple(items))


async def test_pairs_are_answered_by_keys_and_the_clips_stay_in_step(tmp_path: Path) -> None:
    session = Session(study_in(tmp_path), "me", tmp_path / "answers.json")
    app = RatingApp(Terminal(Pictures.BLOCKS, False, "truecolor"), session)
    async with app.run_test(size=(100, 30)) as pilot:
        question, prompt = (app.query_one(f"#{name}", Static) for name in ("question", "prompt"))
        left, right = (app.query_one(f"#{name}", ClipView) for name in ("left", "right"))
        assert left.path == session.study.clip(session.screens[0].left)
        assert right.follower
        assert str(prompt.content).startswith("1 of 2: waves [")
        await pilot.press("1", "backspace", "3")
        for title in QUESTIONS[1:]:
            assert str(question.content).startswith(title)
            await pilot.press("2")
        assert str(prompt.content).startswith("2 of 2")
        await pilot.press("space", "1", "1", "1", "1")
    assert session.position == 2
    again = Session(session.study, "me", session.file)
    assert again.position == 2
    choices = session.file.read_text()
    assert choices.count('"tie"') == 3
    assert choices.count('"right"') == 1 + 2  # a choice, and the fields of two answers
