"""Make the tiny preset: draw a procedural world of cartoon people and train all weights on it.

No other package imports this one. `python -m pvtool_core.tinyworld` makes the whole preset again.
"""
