"""An engine with one more metric, objective, family and format."""

import runpy
import sys
from pathlib import Path

ENGINE = (sys.executable, "-P", str(Path(__file__)))


def add_metric() -> None:
    """Add the row of the metric."""
    from pvtool_core.evaluation.metrics import METRICS
    from tests.support.brightness import Brightness

    METRICS.append(Brightness)


def add_objective() -> None:
    """Add the row of the objective; its number `darkest` is not declared."""
    from pvtool_core.settings.objectives import OBJECTIVES, LossInfo, ObjectiveInfo

    OBJECTIVES["grey"] = ObjectiveInfo(
        driver="tests.support.grey:Grey",
        losses={"loss": LossInfo("Distance from grey", "grey", (0.0, 0.25))},
        measures={"brightness": LossInfo("Brightness of the first frame")},
    )


def add_family() -> None:
    """Add the row of the model family."""
    from pvtool_core.settings.families import FAMILIES, Family

    FAMILIES["flipbook"] = Family(
        name="flipbook",
        backbone="tests.support.flipbook:Flipbook",
        pipelines=("FlipbookPipeline",),
        parts=("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
        prompt_limits="pvtool_core.models.prompt_limits:clip_limits",
        options=frozenset({"sampler.negative_prompt"}),
        lora_base="Stable Diffusion 1.x",
        lora_names={
            "unet": "pvtool_core.backbones.lora_names:unet_names",
            "text_encoder": "pvtool_core.backbones.lora_names:clip_names",
        },
    )


def add_format() -> None:
    """Add the row of the output format."""
    from pvtool_core.settings.formats import FORMATS, Format
    from tests.support.apng import is_animated

    FORMATS["apng"] = Format(
        name="apng",
        suffix=".apng",
        media_type="image/apng",
        writer="tests.support.apng:write_apng",
        checker="pvtool_core.media.encode:check_animation",
        decoder="pvtool_core.media.decode:decode_animation",
        facts_reader="pvtool_core.media.metadata:read_packet",
        is_moving=is_animated,
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    add_metric()
    add_objective()
    add_family()
    add_format()
    runpy.run_module("pvtool_core", run_name="__main__", alter_sys=True)
