"""Front end of pv: commands and the dashboard.

It starts engines, reads their files and never loads a model.
"""
