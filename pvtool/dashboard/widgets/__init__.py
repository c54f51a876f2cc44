"""Widgets, one module per region of a screen: they receive values and send messages.

Widgets import neither the supervisor nor the engine.
"""
