# The commands one needs; each sets up what it uses. `uv` itself: python3 -m pip install uv
.PHONY: demo test check docs benchmark world constraints

demo:       ; uv run pv demo
test:       ; uv run python -m tests
check:      ; uv run ruff check . && uv run ruff format --check . && uv run lint-imports && uv run pyright
docs:       ; uv run mkdocs serve
benchmark:  ; uv run python -m tests.benchmarks.iteration --preset tiny
world:      ; uv run python -m pvtool_core.tinyworld --work build/tinyworld

constraints:
	sed -n '/^#/p' constraints.txt > constraints.new
	uv export --quiet --format requirements-txt --no-emit-project --no-default-groups --no-annotate --no-header >> constraints.new
	mv constraints.new constraints.txt
