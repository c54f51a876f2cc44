"""Every key of the dashboard, in one table, which feeds the screens, their footers and the help: none can be stale.

A binding's `tooltip` is its line of help. Arrow keys have their vim twins; nothing lies on the prefixes of tmux or a
shell.
"""

from textual.binding import Binding, BindingType

Keys = list[BindingType]


_STEPS = Binding.Group("Step", compact=True)
_PANES = Binding.Group("Pane", compact=True)


def key(
    keys: str,
    action: str,
    words: str,
    about: str,
    show: bool = True,
    group: Binding.Group | None = None,
) -> Binding:
    """`keys` with commas, the action, the word in the footer (one for a group of keys), and a line of help."""
    return Binding(keys, action, words, tooltip=about, show=show, group=group)


APP: Keys = [
    key("question_mark", "help", "Help", "The keys of this screen"),
    key("q,ctrl+c", "quit", "Close", "Close the dashboard; runs go on"),
    key(
        "ctrl+p", "command_palette", "Commands", "Everything that can be done, by name", show=False
    ),
    key("1", "go('runs')", "Runs", "All runs", show=False),
    key("2", "go('identities')", "Identities", "The people in the library", show=False),
    key("3", "go('prompts')", "Prompts", "Prompt banks", show=False),
    key("4", "go('renders')", "Renders", "All batches of clips", show=False),
    key("V", "save_screen", "Picture", "Save this screen as an SVG picture", show=False),
    key("T", "change_theme", "Theme", "Choose other colours", show=False),
]
STEERING: Keys = [
    key("p", "pause", "Pause", "Pause the run, or go on with it"),
    key("r", "resume", "Resume", "Go on with a run that was paused, stopped or killed", show=False),
    key("S", "stop", "Stop", "Save a checkpoint and end the engine"),
    key("c", "checkpoint", "Checkpoint", "Save a checkpoint now", show=False),
    key("s", "sample", "Sample", "Draw the sample clips now"),
]
RUNS: Keys = [
    key("enter", "open", "Open", "Open this run"),
    key("n", "new", "New run", "Train somebody"),
    *STEERING,
    key("slash", "filter", "Filter", "Show only runs that have these words"),
    key("j,down", "down", "Down", "Next", show=False),
    key("k,up", "up", "Up", "Previous", show=False),
    key("g,home", "first", "First", "First", show=False),
    key("G,end", "last", "Last", "Last", show=False),
]
RUN: Keys = [
    key("escape", "back", "Back", "Back to all runs"),
    *STEERING,
    key("left_square_bracket", "pane(-1)", "Previous", "Previous pane", group=_PANES),
    key(
        "right_square_bracket",
        "pane(1)",
        "Next",
        "Next pane; tab goes from part to part within one",
        group=_PANES,
    ),
    key("J", "other_run(1)", "Next run", "The run after this one", show=False),
    key("K", "other_run(-1)", "Previous run", "The run before this one", show=False),
    key(
        "o",
        "overlay",
        "Overlay",
        "Lay another run's curves over these; each press the next",
        show=False,
    ),
    key("E", "export", "Export", "Save the curves as CSV and PNG", show=False),
]
PLOT: Keys = [
    key("j,down", "app.focus_next", "Next curve", "The next curve", show=False),
    key("k,up", "app.focus_previous", "Previous curve", "The previous curve", show=False),
    key("plus,equals_sign", "zoom(1)", "Zoom", "Nearer", show=False),
    key("minus", "zoom(-1)", "Zoom out", "Farther", show=False),
    key("h,left", "pan(-1)", "Left", "Earlier", show=False),
    key("l,right", "pan(1)", "Right", "Later", show=False),
    key("0", "fit", "Fit", "All of it, and follow what comes", show=False),
    key("t", "axis", "Step/time", "Steps or time along the axis"),
    key("y", "log", "Log", "Logarithmic or linear", show=False),
    key("m", "smooth", "Smooth", "More smoothing, then none"),
    key("w", "raw", "Raw", "The raw curve behind the smooth one, or not", show=False),
    key(
        "a",
        "autoscale",
        "Scale",
        "Whole range of a reward, or as much as the curve needs",
        show=False,
    ),
    key("comma", "cursor(-1)", "Value before", "Read the value before", show=False),
    key("full_stop", "cursor(1)", "Value after", "Read the value after", show=False),
    key("z", "enlarge", "Enlarge", "This curve alone, or all of them", show=False),
]
CLIPS: Keys = [
    key("h,left", "step(-1)", "Earlier", "The samples of the step before", group=_STEPS),
    key("l,right", "step(1)", "Later", "The samples of the step after", group=_STEPS),
    key("j,down", "prompt(1)", "Next prompt", "The next prompt", show=False),
    key("k,up", "prompt(-1)", "Previous prompt", "The previous prompt", show=False),
    key("space", "play", "Play", "Play, or hold"),
    key("comma", "frame(-1)", "Frame before", "One frame back", show=False),
    key("full_stop", "frame(1)", "Frame after", "One frame on", show=False),
    key("z", "enlarge", "Enlarge", "The clip alone, or with its reference", show=False),
    key("Y", "copy_path", "Copy path", "Copy the clip's path", show=False),
]
LOG: Keys = [
    key("slash", "search", "Search", "Search in the log"),
    key("n", "found(1)", "Next", "The next place where it is found", show=False),
    key("N", "found(-1)", "Previous", "The place before where it is found", show=False),
    key("e", "engine", "Source", "The engine's own log, or its events"),
    key("v", "steps", "All", "Every step, or only what is rare"),
    key("g,home", "top", "Top", "The beginning", show=False),
    key("G,end", "bottom", "End", "The end, and follow it", show=False),
    key("j,down", "scroll_down", "Down", "A line down", show=False),
    key("k,up", "scroll_up", "Up", "A line up", show=False),
]
IDENTITIES: Keys = [
    key("a", "add", "Add", "Add a person from pictures"),
    key("n", "train", "Train", "Train this person"),
    key("enter", "open", "Runs", "From the person to their runs; there, open this run", show=False),
    key("R", "rename", "Rename", "Give this person another name"),
    key(
        "delete", "remove", "Delete", "Delete this person and all that is kept of them", show=False
    ),
    key("j,down", "down", "Down", "Next", show=False),
    key("k,up", "up", "Up", "Previous", show=False),
    key("g,home", "first", "First", "First", show=False),
    key("G,end", "last", "Last", "Last", show=False),
    key("h,left", "photo(-1)", "Photo before", "The photo before", show=False),
    key("l,right", "photo(1)", "Next photo", "The next photo"),
]
PROMPTS: Keys = [
    key("enter", "edit", "Edit", "Change this prompt, in a bank of your own"),
    key("a", "add", "Add", "Add a prompt to this bank"),
    key(
        "delete",
        "remove",
        "Remove",
        "Take this prompt out of its bank; among the banks, delete the bank",
        show=False,
    ),
    key("n", "new", "New bank", "Begin a bank of your own, with or without this one's prompts"),
    key("slash", "filter", "Filter", "Show only prompts that have these words"),
    key("escape", "clear", "All", "Show all prompts again", show=False),
    key(
        "tab", "other_list", "Banks/prompts", "From the banks to the prompts, and back", show=False
    ),
    key("j,down", "down", "Down", "Next", show=False),
    key("k,up", "up", "Up", "Previous", show=False),
    key("g,home", "first", "First", "First", show=False),
    key("G,end", "last", "Last", "Last", show=False),
]
RENDERS: Keys = [
    key("enter", "open", "Open", "Open this batch"),
    key(
        "S",
        "stop",
        "Stop",
        "End the batch after the clips at hand; the same command goes on with it",
    ),
    key("j,down", "down", "Down", "Next", show=False),
    key("k,up", "up", "Up", "Previous", show=False),
    key("g,home", "first", "First", "First", show=False),
    key("G,end", "last", "Last", "Last", show=False),
]
BATCH: Keys = [
    key("escape", "back", "Back", "Back to all batches"),
    key(
        "S",
        "stop",
        "Stop",
        "End the batch after the clips at hand; the same command goes on with it",
    ),
    key("f", "failures", "Failures", "To the clips that failed, and back"),
    key("space", "play", "Play", "Play the newest clips, or hold them"),
    key("Y", "copy_path", "Copy path", "Copy the path of the newest clip", show=False),
    key("J", "other_batch(1)", "Next batch", "The batch after this one", show=False),
    key("K", "other_batch(-1)", "Previous batch", "The batch before this one", show=False),
]
FAILURES: Keys = [
    key("enter", "select", "Reason", "All that is known of this failure"),
    key("j,down", "cursor_down", "Down", "Next", show=False),
    key("k,up", "cursor_up", "Up", "Previous", show=False),
    key("g,home", "first", "First", "The newest", show=False),
    key("G,end", "last", "Last", "The oldest", show=False),
]
REASON: Keys = [key("escape,q,enter", "dismiss", "Close", "Close it")]
HELP: Keys = [
    key("escape,q,question_mark", "dismiss", "Close", "Close the help"),
    key("j,down", "line(1)", "Down", "Scroll down", show=False),
    key("k,up", "line(-1)", "Up", "Scroll up", show=False),
    key("g,home", "top", "Top", "Top", show=False),
    key("G,end", "bottom", "Bottom", "Bottom", show=False),
]
FORM: Keys = [
    key("escape", "cancel", "Cancel", "Leave it"),
    key("ctrl+r", "go", "Do it", "Do it"),
]

GROUPS = {
    "Anywhere": APP,
    "Runs": RUNS,
    "A run": RUN,
    "Curves": PLOT,
    "Samples": CLIPS,
    "Log": LOG,
    "Identities": IDENTITIES,
    "Prompts": PROMPTS,
    "Renders": RENDERS,
    "A batch": BATCH,
    "Failures": FAILURES,
    "Forms": FORM,
}

_NAMES = {
    "question_mark": "?",
    "slash": "/",
    "comma": ",",
    "full_stop": ".",
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


def shown(names: str) -> str:
    """`plus,equals_sign` as `+ =`."""
    return " ".join(_NAMES.get(name, name) for name in names.split(","))
