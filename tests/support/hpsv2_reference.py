"""hpsv2 as a reference for our scores, with workarounds for its package.

It lacks its tokenizer's vocabulary, imports `turtle` (which needs tkinter) without using it,
downloads 4 GB of weights before it loads the checkpoint over them, and `hpsv2.score` has no
argument for a checkpoint. `img_score.score` has one, and is called by `hpsv2.score`.
"""

import gzip
import json
import sys
import types
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
from PIL import Image

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


@cache
def reference() -> Any:
    """Return the module `hpsv2.img_score`."""
    own = Path(open_clip.__file__).with_name(VOCABULARY)
    opened = gzip.open

    def open_vocabulary(file: Any, *args: Any, **options: Any) -> Any:
        return opened(own if Path(file).name == VOCABULARY else file, *args, **options)

    turtle: Any = types.ModuleType("turtle")
    turtle.forward = None
    sys.modules.setdefault("turtle", turtle)
    with patch.object(gzip, "open", open_vocabulary):
        import hpsv2.img_score as scoring
    return scoring


def register(name: str, config: dict[str, Any], folder: Path) -> None:
    """Register an architecture as `name` in hpsv2 and open_clip."""
    (folder / f"{name}.json").write_text(json.dumps(config))
    reference()
    from hpsv2.src.open_clip import add_model_config

    for add in (add_model_config, open_clip.add_model_config):
        add(folder)


def new_reference_model(name: str) -> tuple[Any, Any]:
    """Return hpsv2's model with random weights, and its preprocessing.

    Both are created like in `initialize_model`.
    """
    return reference().create_model_and_transforms(
        name, None, precision="amp", device="cpu", light_augmentation=True, output_dict=True
    )[::2]


def reference_scores(
    model: Any, prepare: Any, pictures: Sequence[Image.Image], prompt: str, file: Path
) -> list[float]:
    """Return the result of `hpsv2.score` for the checkpoint."""
    scoring = reference()
    with patch.dict(scoring.model_dict, {"model": model, "preprocess_val": prepare}):
        return [float(score) for score in scoring.score(list(pictures), prompt, cp=str(file))]
