# The five commands one needs; each sets up what it uses. `uv` itself: python3 -m pip install uv
.PHONY: demo test check benchmark world

demo:       ; uv run pv demo
test:       ; uv run python -m tests
check:      ; uv run ruff check . && uv run ruff format --check . && uv run lint-imports && uv run pyright
benchmark:  ; uv run python -m tests.benchmarks.iteration --preset tiny
world:      ; uv run python -m pvtool_core.tinyworld --work build/tinyworld
