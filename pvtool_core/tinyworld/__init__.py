"""What made `presets/tiny`: a procedural world of cartoon people and the training of every weight in that preset.

Nothing at run time imports this package. `python -m pvtool_core.tinyworld` makes the whole preset again.
"""
