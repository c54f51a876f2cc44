"""Prompt banks: shipped banks are usable, and invalid prompts are refused before a write."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtool_core.batches.clips import slug
from pvtool_core.errors import BadName, BadPrompt, Missing, NameTaken
from pvtool_core.store.prompts import (
    KEYWORD,
    Banks,
    check_prompt,
    check_syntax,
    fill,
    read_prompt_file,
    without_keyword,
)
from tests.support.hostile import deadline

__all__ = ["deadline"]

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
prompts = anything.map(
    lambda text: f"{KEYWORD} person " + re.sub(r"[{}\[\]():]|AND|BREAK", "", text)
)


@pytest.fixture
def banks(tmp_path: Path) -> Banks:
    return Banks(own=tmp_path / "prompts")


def test_default_bank_has_50_different_prompts_with_keyword_and_noun() -> None:
    bank = Banks().get("default")
    assert len(set(bank.prompts)) == 50
    assert all("<V> woman" in prompt for prompt in bank.fill("woman"))


def test_evaluation_prompts_are_not_in_training_banks() -> None:
    banks = Banks()
    assert not set(banks.get("default").prompts) & set(banks.get("default-unseen").prompts)


@given(st.lists(prompts, min_size=1))
def test_saved_bank_is_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, given: list[str]
) -> None:
    own = tmp_path_factory.mktemp("home") / "prompts"
    made = Banks(own=own).create("mine", given, "of my own")
    assert Banks(own=own).get("mine") == made
    assert set(made.prompts) == {" ".join(prompt.split()) for prompt in given}


def test_prompts_can_be_added_to_user_banks_only(banks: Banks) -> None:
    banks.create("mine", ["<V> {noun} runs"])
    assert banks.extend("mine", ["<V> sleeps", "<V> {noun} runs"]).prompts == (
        "<V> {noun} runs",
        "<V> sleeps",
    )
    with pytest.raises(NameTaken):
        banks.extend("default", ["<V> sleeps"])


def test_prompt_of_a_user_bank_can_be_changed_and_removed(banks: Banks) -> None:
    banks.create("mine", ["<V> runs", "<V> sleeps", "<V> eats"], "daily")
    assert banks.exchange("mine", "<V> sleeps", ["<V>  dreams", "<V> wakes"]).prompts[1:3] == (
        "<V> dreams",
        "<V> wakes",
    )
    banks.exchange("mine", "<V> runs", [])
    assert banks.get("mine").prompts == ("<V> dreams", "<V> wakes", "<V> eats")
    assert banks.get("mine").description == "daily"


@pytest.mark.parametrize(
    ("bank", "old", "new", "refusal"),
    [
        ("mine", "<V> runs", ["runs"], BadPrompt),
        ("mine", "<V> runs", [], BadPrompt),
        ("mine", "<V> flies", ["<V> falls"], Missing),
        ("tiny", "<V> runs", ["<V> falls"], NameTaken),
    ],
)
def test_refused_change_leaves_the_bank_unchanged(
    banks: Banks, bank: str, old: str, new: list[str], refusal: type[Exception]
) -> None:
    banks.create("mine", ["<V> runs"])
    before = [banks.get(name) for name in banks.names()]
    with pytest.raises(refusal):
        banks.exchange(bank, old, new)
    assert [banks.get(name) for name in banks.names()] == before


def test_user_banks_only_can_be_deleted(banks: Banks) -> None:
    banks.create("mine", ["<V> runs"])
    banks.remove("mine")
    assert "mine" not in banks.names()
    with pytest.raises(NameTaken):
        banks.remove("tiny")


@pytest.mark.parametrize(
    "prompt",
    ["", "  ", "<V>", "a man runs", "<v> man runs", "<V> " + "x" * 1000, "<V> {name} runs"],
)
def test_invalid_prompt_is_refused(banks: Banks, prompt: str) -> None:
    with pytest.raises(BadPrompt):
        banks.create("mine", ["<V> runs", prompt])
    assert "mine" not in banks.names()


@pytest.mark.parametrize(
    ("syntax", "hint"),
    [
        ("<lora:ink:0.7>", "--lora"),
        ("<lyco:ink>", "--lora"),
        ("<hypernet:ink:1>", "--lora"),
        ("embedding:easynegative", "inversion"),
        ("(red coat:1.3)", "Weights"),
        ("((red) coat: 1.3)", "Weights"),
        ("(coat:2)", "Weights"),
        ("(coat)1.3", "Weights"),
        ("(coat)++", "Weights"),
        ("[coat]", "Brackets"),
        ("[red:blue:0.5] coat", "Brackets"),
        ("BREAK in the rain", "Chunks"),
        ("AND a dog", "Composition"),
        ("{red|blue} coat", "Only {noun} is replaced"),
    ],
)
def test_prompt_syntax_of_other_programs_is_refused(syntax: str, hint: str) -> None:
    with pytest.raises(
        BadPrompt, match=re.escape(repr(syntax)[1:].split()[0].rstrip("'"))
    ) as refused:
        check_prompt(f"<V> woman, {syntax}")
    assert hint in refused.value.hint
    with pytest.raises(BadPrompt):
        check_syntax("negative prompt", f"ugly, {syntax}")


@pytest.mark.parametrize(
    "prompt",
    [
        "<V> {noun} (in a red coat), at 10:30 (16:9), and a dog: happy :)",
        "<V> BREAKING news AND_ANDROID, breakdance and Andrew's __init",
        "<V> in C++, 35mm, f/1.8, snake_case -- and how, 3 < 4 > 2",
    ],
)
def test_ordinary_text_is_not_refused_as_syntax(prompt: str) -> None:
    assert check_prompt(prompt) == prompt


def test_a_prompt_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(BadPrompt, match=r"caf\\xe9"):
        check_prompt("<V> caf\udce9")


def test_an_empty_bank_is_refused(banks: Banks, tmp_path: Path) -> None:
    with pytest.raises(BadPrompt, match="No prompt"):
        banks.create("mine", [])
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(BadPrompt, match="No prompt"):
        read_prompt_file(tmp_path / "empty.txt")


@pytest.mark.parametrize(
    "name", ["../mine", "a/b", "", ".hidden", "a..b", "x" * 65, "tab\tbed", "-rf"]
)
def test_bank_name_cannot_escape_its_folder(banks: Banks, name: str) -> None:
    with pytest.raises(BadName):
        banks.create(name, ["<V> runs"])
    with pytest.raises(BadName):
        banks.get(name)


def test_existing_bank_is_not_overwritten(banks: Banks) -> None:
    banks.create("mine", ["<V> runs"])
    for name in ("mine", "default"):
        before = banks.get(name)
        with pytest.raises(NameTaken):
            banks.create(name, ["<V> sleeps"])
        assert banks.get(name) == before


def test_error_for_missing_bank_suggests_the_nearest(banks: Banks) -> None:
    with pytest.raises(Missing, match="Did you mean 'default'"):
        banks.get("defalt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.txt", b"<V> caf\xe9"),
        ("bank.toml", b"prompts = 3"),
        ("bank.toml", b"prompts = ['<V> a', 3]"),
        ("bank.toml", b"prompts = ["),
        ("bank.toml", b"prompts = []"),
        ("bank.toml", b"prompts" + b".a" * 50_000 + b" = 1"),
        ("bank.toml", b"prompts = " + b"[" * 5000),
        ("bank.toml", b"prompts = " + b"9" * 5000),
    ],
)
@pytest.mark.usefixtures("deadline")
def test_file_without_prompts_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadPrompt):
        read_prompt_file(tmp_path / name)


@pytest.mark.usefixtures("deadline")
def test_endless_device_is_refused() -> None:
    with pytest.raises(BadPrompt, match="is larger than"):
        read_prompt_file(Path("/dev/zero"))


def test_a_bank_that_is_not_utf_8_is_refused(banks: Banks) -> None:
    banks.create("mine", ["<V> runs"])
    (banks.own / "mine.toml").write_bytes(b"prompts = ['<V> caf\xe9']")
    with pytest.raises(BadPrompt, match=r"Cannot read mine\.toml as text"):
        banks.get("mine")


def test_text_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\ufeff# mine\n<V> runs \n\n<V> sleeps\n", encoding="utf-8")
    assert read_prompt_file(tmp_path / "p.txt") == ("<V> runs", "<V> sleeps")


def test_keyword_is_removed_from_scored_text() -> None:
    assert without_keyword("a photo of <V> man, <V> smiling") == "a photo of man, smiling"
    assert fill("<V> {noun} and {noun}", "man") == "<V> man and man"


@given(anything)
def test_any_prompt_is_accepted_or_refused_with_a_message(prompt: str) -> None:
    try:
        assert KEYWORD in check_prompt(prompt)
    except BadPrompt as error:
        assert error.message
        assert error.hint


@given(anything)
def test_a_slug_is_a_plain_file_name(prompt: str) -> None:
    name = slug(prompt)
    assert 0 < len(name) <= 40
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
