"""Table of all keys, from which screens, footers and the help are generated.

The `tooltip` of a binding is its line in the help. Arrow keys have vim equivalents; the prefix keys
of tmux and shells are not used.
"""

import re

from textual.binding import Binding, BindingType

Keys = list[BindingType]


_ZOOM = Binding.Group("Zoom", compact=True)
_PAN = Binding.Group("Pan", compact=True)
_VALUES = Binding.Group("Value", compact=True)
_STEPS = Binding.Group("Step", compact=True)
_PANES = Binding.Group("Pane", compact=True)


def key(
    keys: str,
    action: str,
    label: str,
    description: str,
    show: bool = True,
    group: Binding.Group | None = None,
) -> Binding:
    """Return a binding of comma-separated keys, with its label in the footer and its help."""
    return Binding(keys, action, label, tooltip=description, show=show, group=group)


PANES = (
    *("overview", "curves", "samples", "evaluation"),
    *("prompts", "machine", "log", "settings"),
)
"""Panes of a run, in the order of their keys."""

APP: Keys = [
    key("question_mark", "help", "Help", "Show the keys of this screen"),
    key("q,ctrl+c", "quit", "Close", "Close the dashboard; runs continue"),
    key("ctrl+p", "command_palette", "Commands", "Open the command palette", show=False),
    key("1", "show_mode('runs')", "Runs", "Show all runs", show=False),
    key(
        "2",
        "show_mode('identities')",
        "Identities",
        "Show the identities in the library",
        show=False,
    ),
    key("3", "show_mode('prompts')", "Prompts", "Show the prompt banks", show=False),
    key("4", "show_mode('renders')", "Renders", "Show all batches of clips", show=False),
    key("V", "save_screen", "Screenshot", "Save a screenshot as SVG", show=False),
    key("T", "change_theme", "Theme", "Choose the colour theme", show=False),
]
RUN_ACTIONS: Keys = [
    key("p", "pause", "Pause", "Pause or resume the run"),
    key("r", "resume", "Resume", "Resume a paused, stopped or killed run", show=False),
    key("S", "stop", "Stop", "Save a checkpoint and stop the engine"),
    key("c", "checkpoint", "Checkpoint", "Save a checkpoint now", show=False),
    key("s", "sample", "Sample", "Render the sample clips now"),
]
RUNS: Keys = [
    key("enter", "open", "Open", "Open the selected run"),
    key("n", "new", "New run", "Start a new run"),
    *RUN_ACTIONS,
    key("slash", "filter", "Filter", "Filter the runs by words, such as state:failed"),
    key("space", "mark", "Select", "Select the run, or deselect it"),
    key("A", "mark_all", "Select all", "Select all listed runs, or none", show=False),
    key("escape", "clear", "Clear", "Clear the filter, or the selection", show=False),
    key("greater_than_sign", "sort(1)", "Sort", "Sort by the next column", show=False),
    key("less_than_sign", "sort(-1)", "Sort", "Sort by the previous column", show=False),
    key("i", "reverse", "Reverse", "Reverse the order", show=False),
    key("C", "compare", "Compare", "Compare the selected runs", show=False),
    key("N", "note", "Note", "Edit the note and the tags of the run", show=False),
    key("W", "sweep", "Sweep", "Show the tables of the run's sweeps", show=False),
    key("v", "columns", "Columns", "Choose the columns", show=False),
    key("delete,D", "remove", "Delete", "Delete the selected runs", show=False),
    key("j,down", "down", "Down", "Select the next entry", show=False),
    key("k,up", "up", "Up", "Select the previous entry", show=False),
    key("g,home", "first", "First", "Select the first entry", show=False),
    key("G,end", "last", "Last", "Select the last entry", show=False),
]
RUN: Keys = [
    key("escape", "back", "Back", "Back to all runs"),
    *RUN_ACTIONS,
    key("left_square_bracket", "pane(-1)", "Previous", "Previous pane", group=_PANES),
    key(
        "right_square_bracket",
        "pane(1)",
        "Next",
        "Next pane; tab moves the focus within a pane",
        group=_PANES,
    ),
    *(
        key(str(number), f"show_pane('{pane}')", pane.capitalize(), f"Show the {pane}", show=False)
        for number, pane in enumerate(PANES, 1)
    ),
    key("J", "other_run(1)", "Next run", "Show the next run", show=False),
    key("K", "other_run(-1)", "Previous run", "Show the previous run", show=False),
    key(
        "o",
        "overlay",
        "Overlay",
        "Overlay another run; press again for the next one",
        show=False,
    ),
    key("E", "export", "Export", "Save the curves as CSV and PNG", show=False),
]
PLOT: Keys = [
    key("j,down", "app.focus_next", "Next curve", "Focus the next curve", show=False),
    key("k,up", "app.focus_previous", "Previous curve", "Focus the previous curve", show=False),
    key("plus,equals_sign", "zoom(1)", "Zoom", "Zoom in", show=False, group=_ZOOM),
    key("minus", "zoom(-1)", "Zoom out", "Zoom out", show=False, group=_ZOOM),
    key("h,left", "pan(-1)", "Left", "Pan to the left", show=False, group=_PAN),
    key("l,right", "pan(1)", "Right", "Pan to the right", show=False, group=_PAN),
    key("0", "fit", "Fit", "Show the whole curve and follow new values", show=False),
    key("t", "axis", "Step/time", "Switch the x axis between steps and time"),
    key("y", "log", "Log", "Switch between logarithmic and linear scale", show=False),
    key("m", "smooth", "Smooth", "Increase the smoothing; after the maximum, none"),
    key("w", "raw", "Raw", "Show or hide the raw curve", show=False),
    key(
        "a",
        "autoscale",
        "Scale",
        "Scale to the bounds of a reward or to the curve",
        show=False,
    ),
    key(
        "comma",
        "cursor(-1)",
        "Previous value",
        "Move the cursor to the previous value",
        show=False,
        group=_VALUES,
    ),
    key(
        "full_stop",
        "cursor(1)",
        "Next value",
        "Move the cursor to the next value",
        show=False,
        group=_VALUES,
    ),
    key("z", "enlarge", "Enlarge", "Enlarge this curve, or show all curves", show=False),
]
_CLIPS_OF_STEPS: Keys = [
    key("h,left", "step(-1)", "Earlier", "Show the samples of the previous step", group=_STEPS),
    key("l,right", "step(1)", "Later", "Show the samples of the next step", group=_STEPS),
    key("j,down", "prompt(1)", "Next prompt", "Show the next prompt", show=False),
    key("k,up", "prompt(-1)", "Previous prompt", "Show the previous prompt", show=False),
    key("space", "play", "Play", "Play or pause"),
    key("comma", "frame(-1)", "Previous frame", "Show the previous frame", show=False),
    key("full_stop", "frame(1)", "Next frame", "Show the next frame", show=False),
]
SAMPLES: Keys = [
    *_CLIPS_OF_STEPS,
    key("z", "enlarge", "Enlarge", "Enlarge the clip, or show it with its reference", show=False),
    key("v", "grid", "Grid", "Show all prompts and steps that fit, or one sample"),
    key("b", "compare", "Compare", "Compare other steps with this one, or with the first"),
    key("O", "open_file", "Open", "Open the clip in the system's player", show=False),
    key("Y", "copy_path", "Copy path", "Copy the path of the clip", show=False),
]
LOG: Keys = [
    key("slash", "search", "Search", "Search in the log"),
    key("n", "next_match(1)", "Next", "Go to the next match", show=False),
    key("N", "next_match(-1)", "Previous", "Go to the previous match", show=False),
    key("e", "engine", "Source", "Switch between events and the output of the engine"),
    key("v", "steps", "All", "Show or hide the events of each step"),
    key("w", "wrap", "Wrap", "Wrap long lines, or show one line each"),
    key("g,home", "top", "Top", "Go to the beginning", show=False),
    key("G,end", "bottom", "End", "Go to the end and follow it", show=False),
    key("j,down", "scroll_down", "Down", "Scroll down", show=False),
    key("k,up", "scroll_up", "Up", "Scroll up", show=False),
]
SETTINGS: Keys = [
    key("slash", "search", "Search", "Search in the settings"),
    key("backspace", "clear", "All", "Show all settings", show=False),
    key("j,down", "scroll_down", "Down", "Scroll down", show=False),
    key("k,up", "scroll_up", "Up", "Scroll up", show=False),
    key("g,home", "scroll_home", "Top", "Scroll to the top", show=False),
    key("G,end", "scroll_end", "End", "Scroll to the end", show=False),
]
IDENTITIES: Keys = [
    key("a", "add", "Add", "Add an identity from photos"),
    key("n", "train", "Train", "Start a new run for this identity"),
    key("enter", "open", "Runs", "Focus the runs; there, open the selected run", show=False),
    key("R", "rename", "Rename", "Rename this identity"),
    key("delete", "remove", "Delete", "Delete this identity and all its files", show=False),
    key("j,down", "down", "Down", "Select the next entry", show=False),
    key("k,up", "up", "Up", "Select the previous entry", show=False),
    key("g,home", "first", "First", "Select the first entry", show=False),
    key("G,end", "last", "Last", "Select the last entry", show=False),
    key("h,left", "photo(-1)", "Previous photo", "Show the previous photo", show=False),
    key("l,right", "photo(1)", "Next photo", "Show the next photo"),
]
PROMPTS: Keys = [
    key("enter", "edit", "Edit", "Edit this prompt, in a bank of your own"),
    key("a", "add", "Add", "Add a prompt to this bank"),
    key(
        "delete",
        "remove",
        "Remove",
        "Remove the selected prompt, or delete the selected bank",
        show=False,
    ),
    key("n", "new", "New bank", "Create a bank of your own, optionally from this bank"),
    key("slash", "filter", "Filter", "Filter the prompts by words"),
    key("escape", "clear", "All", "Clear the filter", show=False),
    key("tab", "other_list", "Banks/prompts", "Switch between banks and prompts", show=False),
    key("j,down", "down", "Down", "Select the next entry", show=False),
    key("k,up", "up", "Up", "Select the previous entry", show=False),
    key("g,home", "first", "First", "Select the first entry", show=False),
    key("G,end", "last", "Last", "Select the last entry", show=False),
]
BATCH_ACTIONS: Keys = [
    key("r", "repeat", "Repeat", "Render the failed and missing clips of the batch"),
    key("S", "stop", "Stop", "Stop after the current clips; Repeat continues"),
]
RENDERS: Keys = [
    key("enter", "open", "Open", "Open the selected batch"),
    key("n", "new", "New clips", "Render new clips"),
    *BATCH_ACTIONS,
    key("j,down", "down", "Down", "Select the next entry", show=False),
    key("k,up", "up", "Up", "Select the previous entry", show=False),
    key("g,home", "first", "First", "Select the first entry", show=False),
    key("G,end", "last", "Last", "Select the last entry", show=False),
]
BATCH: Keys = [
    key("escape", "back", "Back", "Show the list again, clear the filter, or go back"),
    *BATCH_ACTIONS,
    key("slash", "filter", "Filter", "Filter the clips by words"),
    key("f", "failures", "Failures", "List the failed clips only, or all clips"),
    key("l", "likeness", "Likeness", "List the clips with the lowest likeness first"),
    key("o", "order", "Order", "List the clips in the next order", show=False),
    key("space", "play", "Play", "Play or pause the clip", show=False),
    key("comma", "frame(-1)", "Previous frame", "Show the previous frame", show=False),
    key("full_stop", "frame(1)", "Next frame", "Show the next frame", show=False),
    key("z", "enlarge", "Enlarge", "Enlarge the clip, or show the list", show=False),
    key("O", "open_file", "Open", "Open the clip in the system's player", show=False),
    key("Y", "copy_path", "Copy path", "Copy the path of the clip", show=False),
    key("n", "new", "New clips", "Render new clips", show=False),
    key("J", "other_batch(1)", "Next batch", "Show the next batch", show=False),
    key("K", "other_batch(-1)", "Previous batch", "Show the previous batch", show=False),
]
CLIPS: Keys = [
    key("enter", "open", "Details", "Show the details of the selected clip", show=False),
    key("j,down", "move(1)", "Down", "Select the next entry", show=False),
    key("k,up", "move(-1)", "Up", "Select the previous entry", show=False),
    key("ctrl+d,pagedown", "move_page(1)", "Page down", "Select an entry further down", show=False),
    key("ctrl+u,pageup", "move_page(-1)", "Page up", "Select an entry further up", show=False),
    key("g,home", "first", "First", "Select the first entry", show=False),
    key("G,end", "last", "Last", "Select the last entry", show=False),
]
DETAILS: Keys = [key("escape,q,enter", "dismiss", "Close", "Close the details")]
RATING: Keys = [
    key("1", "answer('left')", "Left", "Choose the left clip"),
    key("2", "answer('tie')", "Equal", "Choose neither clip"),
    key("3", "answer('right')", "Right", "Choose the right clip"),
    key("backspace", "undo", "Back", "Answer the question before again"),
    key("space", "pause", "Pause", "Pause both clips, or play them"),
    key("q,ctrl+c", "quit", "Stop", "Stop; the same command continues"),
]
HELP: Keys = [
    key("escape,q,question_mark", "dismiss", "Close", "Close the help"),
    key("j,down", "line(1)", "Down", "Scroll down", show=False),
    key("k,up", "line(-1)", "Up", "Scroll up", show=False),
    key("g,home", "top", "Top", "Scroll to the top", show=False),
    key("G,end", "bottom", "Bottom", "Scroll to the bottom", show=False),
]
COMPARE: Keys = [
    key("escape", "back", "Back", "Back to all runs"),
    key("tab", "app.focus_next", "Curves/tables", "Next of list, plot and tables", show=True),
    key("v", "samples", "Samples", "Show the samples of the runs side by side, or their curves"),
]
RUN_SAMPLES: Keys = [
    *_CLIPS_OF_STEPS,
    key("J", "other_runs(1)", "Next run", "Show the next run, if not all fit", show=False),
    key("K", "other_runs(-1)", "Previous run", "Show the previous run", show=False),
]
SWEEP: Keys = [
    key("escape,q", "dismiss", "Back", "Back to all runs"),
    key("l,right", "other(1)", "Next sweep", "Show the next sweep of the run", show=False),
    key("h,left", "other(-1)", "Previous sweep", "Show the previous one", show=False),
    key("j,down", "line(1)", "Down", "Scroll down", show=False),
    key("k,up", "line(-1)", "Up", "Scroll up", show=False),
]
COLUMNS: Keys = [
    key("escape,q,v", "dismiss", "Close", "Close the list of columns"),
    key("j", "down", "Down", "Select the next column", show=False),
    key("k", "up", "Up", "Select the previous column", show=False),
]
FORM: Keys = [
    key("escape", "cancel", "Cancel", "Close the form"),
    key("ctrl+r", "submit", "Submit", "Submit the form"),
]

GROUPS = {
    "Global": APP,
    "Runs": RUNS,
    "Run": RUN,
    "Compare": COMPARE,
    "Samples of several runs": RUN_SAMPLES,
    "Sweep": SWEEP,
    "Curves": PLOT,
    "Samples": SAMPLES,
    "Log": LOG,
    "Settings": SETTINGS,
    "Identities": IDENTITIES,
    "Prompts": PROMPTS,
    "Renders": RENDERS,
    "Batch": BATCH,
    "Clips": CLIPS,
    "Forms": FORM,
}

WORDS = {
    "help": "keys shortcuts bindings",
    "quit": "quit exit leave",
    "save_screen": "screenshot picture svg",
    "change_theme": "theme colours colors dark light",
    "show_mode('runs')": "list go to",
    "show_mode('identities')": "people persons go to",
    "show_mode('prompts')": "go to",
    "show_mode('renders')": "batches clips go to",
    "show_pane": "pane view go to",
    "pane": "tab view",
    "pause": "hold continue",
    "resume": "continue restart",
    "stop": "stop end kill abort finish",
    "checkpoint": "save",
    "sample": "render preview",
    "new": "train start create",
    "train": "new run start create",
    "filter": "search find",
    "search": "find filter grep",
    "overlay": "compare diff difference",
    "export": "export csv png download save",
    "zoom(1)": "zoom bigger magnify",
    "zoom(-1)": "zoom smaller",
    "enlarge": "zoom maximize maximise full screen",
    "fit": "reset zoom all follow live",
    "axis": "steps time x",
    "log": "logarithmic scale y",
    "smooth": "smoothing average",
    "remove": "delete remove erase",
    "copy_path": "copy clipboard path",
    "play": "play pause stop",
    "back": "close escape up",
    "engine": "output stderr traceback",
    "wrap": "wrap lines",
}
"""Other words, by action, that find a key in the command palette."""


def words_for(action: str) -> str:
    """Return the other words of an action with or without arguments."""
    return WORDS.get(action) or WORDS.get(action.partition("(")[0], "")


_MOVEMENTS = re.compile(
    r"(app\.focus_|scroll_|cursor_|show_)\w+|(up|down|first|last|top|bottom|other_list)\b|line\("
)
HINTED = {
    binding.tooltip
    for group in GROUPS.values()
    for binding in group
    if isinstance(binding, Binding) and not _MOVEMENTS.match(binding.action)
}
"""Descriptions of keys in the footer: all but those that move the selection or show a screen."""

_NAMES = {
    "question_mark": "?",
    "slash": "/",
    "comma": ",",
    "full_stop": ".",
    "less_than_sign": "<",
    "greater_than_sign": ">",
    "plus": "+",
    "equals_sign": "=",
    "minus": "-",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "left": "←",
    "right": "→",
    "up": "↑",
    "down": "↓",
    "escape": "esc",
}


def display_names(names: str) -> str:
    """Return comma-separated key names for display: `plus,equals_sign` as `+ =`."""
    return " ".join(_NAMES.get(name, name) for name in names.split(","))
