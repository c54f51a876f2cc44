"""The application: which screens there are, and what is the same on all of them."""

from textual.app import App

from pvtool.dashboard import keys


class Dashboard(App[None]):
    """All runs, identities and prompts of one data folder."""

    TITLE = "pv"
    BINDINGS = keys.APP
