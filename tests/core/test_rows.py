"""Rows of what to render: every format is read correctly, and all mistakes are reported."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from pvtool_core.batches.columns import SETTINGS, is_missing, parse_loras, parse_seeds
from pvtool_core.batches.rows import Row, read_row_file, read_rows, row_table
from pvtool_core.errors import BadPrompt, BatchRefused, Missing, UsageError

words = st.text(
    st.characters(exclude_categories=["Cs", "Z", "C"], exclude_characters="{}[]<>()-_,:#\"'"),
    min_size=1,
    max_size=8,
)
names = words.filter(lambda word: word != "none" and not is_missing(word))
prompts = st.lists(words, max_size=5).map(lambda many: " ".join(["<V>", "{noun}", *many]))
settings = st.fixed_dictionaries(
    {},
    optional={
        "width": st.integers(2, 99).map(lambda n: 8 * n),
        "frames": st.integers(1, 99),
        "steps": st.integers(1, 99),
        "guidance": st.floats(1, 99).map(lambda x: round(x, 3)),
        "negative": names,
        "shift": st.integers(0, 99).map(float),
    },
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    return Row(
        prompt=draw(prompts),
        identity=draw(st.just("") | names),
        seed=draw(st.none() | st.integers(0, 10**17)),
        run=draw(st.just("") | names),
        base=draw(st.booleans()),
        loras=draw(st.none() | st.lists(names, max_size=3).map(tuple)),
        settings=tuple(
            sorted((SETTINGS[column], value) for column, value in draw(settings).items())
        ),
    )


many_rows = st.lists(rows(), min_size=1, max_size=8)


def without_source(read: Iterable[Row]) -> list[dict[str, Any]]:
    """Return rows without their source positions."""
    return [row_table(row) for row in read]


def cells(row: Row) -> dict[str, str]:
    """Return a row as texts: a set of LoRAs has commas, no LoRA is `none`."""
    table = row_table(row)
    if "lora" in table:
        table["lora"] = ",".join(table["lora"]) or "none"
    return {column: str(value) for column, value in table.items()}


@given(many_rows)
def test_rows_written_as_json_lines_are_read_back_the_same(given: list[Row]) -> None:
    text = "\n".join(json.dumps(row_table(row)) for row in given)
    assert (
        without_source(read_rows("batch.jsonl", text))
        == without_source(read_rows("-", text))
        == without_source(given)
    )


@given(many_rows, st.sampled_from(",;\t"))
def test_rows_written_as_csv_are_read_back_the_same(given: list[Row], delimiter: str) -> None:
    file = io.StringIO()
    columns = ["seed", "prompt", "identity", "run", "base", "lora", *SETTINGS]
    table = csv.DictWriter(file, columns, delimiter=delimiter)
    table.writeheader()
    table.writerows(cells(row) for row in given)
    assert (
        without_source(read_rows("batch.csv", file.getvalue()))
        == without_source(read_rows("-", file.getvalue()))
        == without_source(given)
    )


@given(many_rows)
def test_rows_written_as_text_with_suffixes_are_read_back_the_same(given: list[Row]) -> None:
    lines = [
        " ".join([texts.pop("prompt"), *(f"--{column} {text}" for column, text in texts.items())])
        for texts in map(cells, given)
    ]
    assert without_source(read_rows("batch.txt", "\n".join(lines))) == without_source(given)


@given(
    st.lists(prompts, min_size=1, max_size=4, unique=True),
    st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
    st.lists(st.tuples(names, st.integers(1, 99)), min_size=1, max_size=4),
)
def test_a_grid_is_a_product_and_a_zip_is_aligned(
    many: list[str], seeds: list[int], pairs: list[tuple[str, int]]
) -> None:
    zipped = {"run": [run for run, _ in pairs], "steps": [steps for _, steps in pairs]}
    read = read_rows(
        "batch.toml",
        tomli_w.dumps({"fps": 8, "grid": {"prompt": many, "seed": seeds}, "zip": [zipped]}),
    )
    assert len(read) == len(many) * len(seeds) * len(pairs)
    wanted = {
        (prompt, seed, run, steps) for prompt in many for seed in seeds for run, steps in pairs
    }
    assert {
        (row.prompt, row.seed, row.run, dict(row.settings)["sampler.num_inference_steps"])
        for row in read
    } == wanted
    assert all(dict(row.settings)["model.fps"] == 8 for row in read)


def test_kohyas_suffixes_are_read() -> None:
    line = "<V> {noun} runs --w 640 --h 360 --f 24 --s 20 --d 1..2 "
    line += "--n blurry, ugly --l 6 --fs 3  # not a comment"
    line = line.removesuffix("  # not a comment")
    first, second = read_rows("p.txt", f"# mine\n\n{line}\n")
    assert (first.prompt, first.seed, second.seed, first.source) == (
        "<V> {noun} runs",
        1,
        2,
        "p.txt, line 3",
    )
    assert dict(first.settings) == {
        "model.width": 640,
        "model.height": 360,
        "model.num_frames": 24,
        "sampler.num_inference_steps": 20,
        "sampler.negative_prompt": "blurry, ugly",
        "sampler.guidance_scale": 6.0,
        "sampler.shift": 3.0,
    }


@pytest.mark.parametrize(
    ("value", "loras"),
    [
        ("a.safetensors:0.8", [("a.safetensors:0.8",)]),
        ("a:0.8, b", [("a:0.8", "b")]),
        (["a:0.8", "b"], [("a:0.8", "b")]),
        ([["a:0.8"], ["a", "b"], [], "none"], [("a:0.8",), ("a", "b"), (), ()]),
        ("none", [()]),
        ([], [()]),
        (["with, comma"], [("with, comma",)]),
    ],
)
def test_lora_cells_are_a_set_or_a_list_of_sets(value: Any, loras: list[Any]) -> None:
    assert [
        row.loras for row in read_rows("b.jsonl", json.dumps({"prompt": "<V>x", "lora": value}))
    ] == loras


def test_line_with_several_identities_and_seeds_is_a_row_for_each() -> None:
    text = json.dumps({"prompt": "<V> runs", "identity": "alice,bob", "seed": [0, "5..6"]})
    read = read_rows("-", text)
    assert [(row.identity, row.seed) for row in read] == [
        (who, seed) for who in ("alice", "bob") for seed in (0, 5, 6)
    ]
    assert {row.source for row in read} == {"standard input, line 1"}


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ('"<V> runs"\n\n"<V> \\ud83d\\ude00 sleeps"\n', ["<V> runs", "<V> 😀 sleeps"]),
        ('{ "prompt": "<V> runs\\nand\\u2028sleeps" }', ["<V> runs and sleeps"]),
        ("seed;prompt\n3;<V> runs; he\n".replace("; he", ""), ["<V> runs"]),
        ('\ufeffprompt,seed\r\n"<V> runs,\r\nsleeps",3\r\n', ["<V> runs, sleeps"]),
        ("{noun} <V> runs / sleeps", ["{noun} <V> runs / sleeps"]),
        ("a prompt, for <V>\n", ["a prompt, for <V>"]),
        ("<V> runs\r<V> sleeps -- and how", ["<V> runs", "<V> sleeps -- and how"]),
    ],
)
def test_format_of_standard_input_is_detected(text: str, prompts: list[str]) -> None:
    assert [row.prompt for row in read_rows("-", text)] == prompts


def test_banks_and_files_of_every_kind_are_read(tmp_path: Path) -> None:
    bank = 'description = "mine"\nprompts = ["<V> runs", "<V>  sleeps"]'
    contents = {
        "a.toml": bank,
        "a.csv": "prompt\n<V> runs\n<V> sleeps",
        "a.txt": "<V> runs\n<V> sleeps",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        assert [row.prompt for row in read_row_file(tmp_path / name)] == ["<V> runs", "<V> sleeps"]
    with pytest.raises(Missing):
        read_row_file(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"<V> caf\xe9")
    for unreadable in (tmp_path / "latin.txt", tmp_path):
        with pytest.raises(BadPrompt, match="Cannot read"):
            read_row_file(unreadable)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.toml", "a.jsonl", "-"])
def test_file_without_rows_is_refused(name: str) -> None:
    with pytest.raises(BadPrompt, match="No prompt"):
        read_rows(name, "" if name != "a.csv" else "prompt\n")


@pytest.mark.parametrize(
    ("name", "text", "status", "told"),
    [
        ("a.txt", "<V> runs\nruns\n", 3, "a.txt, line 2: The prompt 'runs' lacks the keyword <V>."),
        ("a.txt", f"<V> {'x' * 10_000}", 3, "longer than 1000 characters"),
        ("a.txt", "<V> runs --x 3", 2, "line 1: Unknown column 'x'"),
        ("a.txt", "<V> runs --w", 2, "width is '', not a whole number"),
        ("a.txt", "<V> runs --w 30000", 2, "width is 30000, not between 16 and 8192."),
        ("a.txt", "<V> runs --d 3..1", 2, "Invalid seeds '3..1': expected"),
        ("a.csv", "seed\n3", 3, "a.csv, line 1: Missing column 'prompt'."),
        (
            "a.csv",
            "prompt,sede\n<V> runs,3",
            2,
            "Unknown column 'sede'; did you mean 'seed'",
        ),
        ("a.csv", "prompt,seed,seed\n<V> runs,3,4", 2, "Duplicate column 'seed'"),
        ("a.csv", "prompt,seed\n<V> runs, fast,3", 2, "line 2: 3 cells, but 2 columns."),
        ("a.csv", 'prompt,seed\n"<V> runs\nfast",3\n<V> runs', 2, "line 4: 1 cells"),
        (
            "a.csv",
            'prompt,seed\n<V> runs,3\n"<V> runs',
            3,
            "line 3: Invalid CSV: unexpected end of data.",
        ),
        ("a.csv", "prompt,seed\n,3", 3, "line 2: Missing prompt."),
        ("a.jsonl", '{"prompt": "<V> runs"', 3, "line 1: Invalid JSON"),
        ("a.jsonl", "[3]", 3, "line 1: Invalid row: expected an object or a text."),
        (
            "a.json",
            '[{"prompt": "<V> x"}, 3]',
            3,
            "a.json, item 2: Invalid row: expected an object or a text.",
        ),
        ("a.json", '[{"prompt": "<V> x"}', 3, "a.json: Invalid JSON"),
        (
            "a.json",
            '{"prompt": {"0": "<V> x"}, "seed": {"0": 3}}',
            3,
            "Invalid row: it contains columns or a list of prompts",
        ),
        (
            "a.jsonl",
            '{"prompt": "<V> x", "seed": 3, "seed": 4}',
            2,
            "line 1: 'seed' is given twice in one object.",
        ),
        (
            "a.json",
            '[{"prompt": "<V> x", "seed": 3, "seed": 4}]',
            2,
            "a.json: 'seed' is given twice in one object.",
        ),
        (
            "a.jsonl",
            '{"prompt": "<V> x", "lora": ' + "[" * 900 + "]" * 900 + "}",
            3,
            "nested too deeply",
        ),
        ("a.jsonl", '{"prompt": "<V> x", "seed": 3.5}', 2, "Invalid seeds '3.5': expected"),
        (
            "a.jsonl",
            '{"prompt": "<V> x", "seed": 1e17}',
            2,
            "100000000000000000.0 may have been rounded.",
        ),
        ("a.jsonl", '{"prompt": "<V> x", "steps": 20.5}', 2, "steps is 20.5, not a whole number"),
        ("a.jsonl", '{"prompt": "<V> x", "width": Infinity}', 3, "Invalid JSON"),
        ("a.csv", 'prompt,seed\n<V> x,"1,000"', 2, "Ambiguous seeds '1,000': one seed or several."),
        ("a.csv", "prompt,\n<V> x,fast", 2, "line 2: Column 2 has no name, but contains 'fast'."),
        ("a.csv", ",prompt\nann,<V> x", 2, "line 2: Column 1 has no name, but contains 'ann'."),
        ("a.csv", "prompt,seed\n<V> x,3,,4", 2, "line 2: 4 cells, but 2 columns."),
        ("a.csv", "prompt,seed,\n<V> x", 2, "line 2: 1 cells, but 3 columns."),
        ("a.txt", "<V> runs --d 4 --d 5", 2, "line 1: Duplicate seed: --d."),
        ("a.txt", "<V> runs --l 4 --g 5", 2, "line 1: Duplicate guidance: --g."),
        (
            "a.txt",
            "<V> runs --n (ugly:1.3)",
            3,
            "The negative prompt '(ugly:1.3)' contains '(ugly:1.3)'",
        ),
        ("a.jsonl", '{"prompt": "<V> x", "negative": "[ugly]"}', 3, "contains '[ugly]'"),
        ("a.jsonl", '{"seed": 3}', 3, "line 1: Missing prompt."),
        ("a.jsonl", '{"prompt": 3}', 3, "Invalid prompt 3: expected a text."),
        ("a.jsonl", '{"prompt": "<V> x", "width": true}', 2, "width is 'True', not a whole number"),
        (
            "a.jsonl",
            '{"prompt": "<V> x", "base": "maybe"}',
            2,
            "Invalid base 'maybe': expected true or false.",
        ),
        (
            "a.jsonl",
            '{"prompt": "<V> x", "identity": 3}',
            2,
            "Invalid identity: empty, or not a text.",
        ),
        ("a.jsonl", '{"prompt": "<V> x", "lora": {"a": 1}}', 2, "Invalid lora {'a': 1}."),
        ("a.toml", "prompts = 3", 2, "a.toml, prompts: Invalid prompt: expected a list"),
        ("a.toml", "prompts = [", 3, "a.toml: Invalid TOML"),
        (
            "a.toml",
            "prompts = " + "[" * 5000,
            3,
            "a.toml: Invalid TOML: it is nested too deeply",
        ),
        (
            "a.toml",
            "prompts" + ".a" * 50_000 + " = 1",
            3,
            "a.toml: Invalid TOML: a key is nested too deeply",
        ),
        (
            "a.toml",
            "seed = " + "9" * 5000,
            3,
            "a.toml: Invalid TOML: a number has too many digits",
        ),
        (
            "a.toml",
            'grid = 3\nprompts = ["<V> x"]',
            2,
            "[grid]: Invalid value: expected a table of lists.",
        ),
        (
            "a.toml",
            'prompts = ["<V> x"]\n[grid]\nprompt = ["<V> y"]',
            2,
            "Duplicate keys: prompt.",
        ),
        (
            "a.toml",
            '[[zip]]\nprompt = ["<V> x", "<V> y"]\nseed = [1]',
            2,
            "prompt has 2, seed has 1.",
        ),
        (
            "a.toml",
            'prompts = ["<V> x"]\n[grid]\nseed = ["0..9998", "20000..29999"]\nsteps = ['
            + "1," * 99
            + "]",
            2,
            "1000000",
        ),
    ],
)
def test_errors_have_line_numbers(name: str, text: str, status: int, told: str) -> None:
    with pytest.raises(BatchRefused) as refused:
        read_rows(name, text)
    assert told in refused.value.message
    assert refused.value.status == status
    assert refused.value.hint


def test_first_ten_mistakes_are_reported_together() -> None:
    with pytest.raises(BatchRefused) as refused:
        read_rows("a.jsonl", "\n".join('{"prompt": "runs", "wdith": 3}' for _ in range(20)))
    lines = refused.value.message.splitlines()
    assert lines[0] == "40 invalid rows:"
    assert len(lines) == 12
    assert lines[-1] == "… and 30 more."
    assert lines[2] == "a.jsonl, line 1: Unknown column 'wdith'; did you mean 'width'?"


def test_columns_of_failed_jsonl_are_ignored() -> None:
    text = '{"prompt": "<V> runs", "seed": 3, "reason": "no memory", '
    text += '"path": "a/b", "status": "failed"}'
    assert without_source(read_rows("failed.jsonl", text)) == [{"prompt": "<V> runs", "seed": 3}]


@given(st.text(max_size=80), st.sampled_from(["-", "a.txt", "a.csv", "a.jsonl", "a.toml"]))
def test_any_text_is_read_or_refused_with_a_message(text: str, name: str) -> None:
    try:
        assert all("<V>" in row.prompt for row in read_rows(name, text))
    except (BatchRefused, BadPrompt) as error:
        assert error.message
        assert error.hint


@given(st.integers(0, 1000), st.integers(1, 50))
def test_seed_range_includes_both_ends(first: int, count: int) -> None:
    assert parse_seeds(f"{first}..{first + count - 1}") == list(range(first, first + count))


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [3]), ("0..3", [0, 1, 2, 3]), ("5,0..1,5", [5, 0, 1]), (" 7 ", [7]), ("2..2", [2])],
)
def test_seeds_are_read(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "3..1", "0..", "1.5", "0..99999999", "1,,2"])
def test_invalid_seeds_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_seeds(text)


BOTH = [{"prompt": "<V> runs", "seed": 3.0}, {"prompt": "<V> sleeps", "seed": 4.0}]
TABLES = {
    "pandas' index": ("a.csv", ",prompt,seed\n0,<V> runs,3\n1,<V> sleeps,4\n"),
    "pandas' index read and written again": (
        "a.csv", "Unnamed: 0,prompt,seed\n0,<V> runs,3\n1,<V> sleeps,4\n"
    ),
    "floats beside NaN": ("a.csv", "prompt,seed,steps\n<V> runs,3.0,NaN\n<V> sleeps,4.0,\n"),
    "na_rep": ("a.csv", "prompt,seed,negative,identity,run,lora,base\n" + "".join(
        f"{prompt},{seed},None,<NA>,nan,NaN,null\n"
        for prompt, seed in (("<V> runs", "3.0"), ("<V> sleeps", "4.00"))
    )),
    "Excel's empty columns and rows": (
        "a.csv", "prompt;seed;;\n<V> runs;3;;\n<V> sleeps;4;;\n;;;\n \n"
    ),
    "Excel's empty cells beside the table": ("a.csv", "prompt,seed\n<V> runs,3,,\n<V> sleeps,4,\n"),
    "Excel's separator": ("a.csv", "\ufeffsep=;\r\nPrompt;Seed\r\n<V> runs;3\r\n<V> sleeps;4\r\n"),
    "Excel's separator on standard input": (
        "-", "sep=\t\nprompt\tseed\n<V> runs\t3\n<V> sleeps\t4\n"
    ),
    "an index on standard input": ("-", ",prompt,seed,\n0,<V> runs,3,\n1,<V> sleeps,4,\n"),
    "an array": (
        "a.json", '[{"prompt": "<V> runs", "seed": 3}, {"prompt": "<V> sleeps", "seed": 4}]'
    ),
    "an indented array": ("a.json", json.dumps(BOTH, indent=2)),
    "an array on standard input": (
        "-", ' [ {"prompt": "<V> runs", "seed": 3}, {"prompt": "<V> sleeps", "seed": 4} ]'
    ),
    "Python's NaN": (
        "a.jsonl",
        '{"prompt": "<V> runs", "seed": 3.0, "steps": NaN}\n{"prompt": "<V> sleeps", "seed": 4}'
    ),
    "nulls": (
        "a.jsonl",
        '{"prompt": "<V> runs", "seed": 3, "lora": null, "": 0}\n'
        '{"prompt": "<V> sleeps", "seed": "4.0"}'
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_files_of_pandas_excel_and_python_are_read(name: str) -> None:
    found = without_source(read_rows(*TABLES[name]))
    assert found == [{"prompt": "<V> runs", "seed": 3}, {"prompt": "<V> sleeps", "seed": 4}]


def test_whole_numbers_with_decimal_point_are_integers() -> None:
    text = "prompt,seed,width,frames,steps,fps,guidance\n<V> runs,3.0,512.0,16.,20.00,8.0,7.5\n"
    (row,) = read_rows("a.csv", text)
    assert row.seed == 3
    assert dict(row.settings) == {
        "model.width": 512, "model.num_frames": 16,
        "sampler.num_inference_steps": 20, "model.fps": 8,
        "sampler.guidance_scale": 7.5,
    }  # fmt: skip
    (row,) = read_rows(
        "a.jsonl", '{"prompt": "<V> runs", "width": 512.0, "negative": "20.0", "seed": [1.0, 2]}'
    )[:1]
    assert dict(row.settings) == {"model.width": 512, "sampler.negative_prompt": "20.0"}


def test_json_null_is_a_missing_value_and_text_stays_text() -> None:
    text = '{"prompt": "<V> x", "negative": "None", "identity": "", '
    text += '"run": null, "steps": "NaN", "lora": ""}'
    assert without_source(read_rows("a.jsonl", text)) == [
        {"prompt": "<V> x", "lora": [], "negative": "None"}
    ]
    (row,) = read_rows("a.jsonl", '{"prompt": "<V> x", "negative": ""}')
    assert dict(row.settings) == {"sampler.negative_prompt": ""}


@pytest.mark.parametrize("text", ["TRUE", "True", "1", "1.0", "yes", " true "])
def test_all_spellings_of_true_are_read(text: str) -> None:
    assert read_rows("a.csv", f"prompt,base\n<V> runs,{text}\n")[0].base
    assert not read_rows("a.csv", "prompt,base\n<V> runs,0.0\n")[0].base
    assert read_rows("a.jsonl", '{"prompt": "<V> runs", "base": 1.0}')[0].base


def test_line_numbers_count_a_separator_line() -> None:
    with pytest.raises(BatchRefused, match=r"a\.csv, line 4: The prompt 'runs' lacks"):
        read_rows("a.csv", "sep=,\nprompt,seed\n<V> runs,3\nruns,4\n")


def test_comma_is_part_of_an_existing_loras_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ink, wash.safetensors", "a,b,c.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    assert parse_loras("ink, wash.safetensors:0.8,b.safetensors") == [
        ("ink, wash.safetensors:0.8", "b.safetensors")
    ]
    assert parse_loras(f"x,{tmp_path}/a,b,c.safetensors") == [
        ("x", f"{tmp_path}/a,b,c.safetensors")
    ]
    assert parse_loras("a,b.safetensors:1") == [("a", "b.safetensors:1")]


@pytest.mark.parametrize("name", ["~nobody-of-that-name", "~nobody:0.5", "~"])
def test_lora_with_a_tilde_is_a_file_or_in_the_home_folder(name: str) -> None:
    assert parse_loras(name)
