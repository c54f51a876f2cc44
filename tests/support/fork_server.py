"""Start engines quickly: import their modules once, then fork for each folder named on stdin.

Each engine is a process that runs the engine's main and can be killed; they share only the seconds
of importing torch. The server answers `start FOLDER` with the engine's pid, and `wait PID` with its
exit status after its end.
"""

import os
import sys

from pvtool_core.imports import hide_unused_libraries

hide_unused_libraries()  # as an engine of its own does

import insightface.model_zoo  # noqa: E402
import onnx.reference  # noqa: E402
import onnx2torch  # noqa: E402
import transformers  # noqa: E402

from pvtool_core import __main__ as engine  # noqa: E402
from pvtool_core import trainer  # noqa: E402
from pvtool_core.backbones.animatediff import AnimateDiff  # noqa: E402
from pvtool_core.evaluation.sample_judges import SampleJudges  # noqa: E402
from pvtool_core.rendering import renderer  # noqa: E402

IMPORTED = (
    insightface.model_zoo.get_model,
    onnx.reference.ReferenceEvaluator,
    onnx2torch.convert,
    transformers.CLIPTextModel,
    trainer.train,
    renderer.render,
    AnimateDiff,
    SampleJudges,
)


def child(folder: str) -> None:
    os.setsid()
    log = os.open(f"{folder}/engine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = engine.main([folder])
    sys.stderr.flush()
    os._exit(status)


def start(folder: str) -> int:
    pid = os.fork()
    if pid == 0:
        child(folder)
    return pid


def wait(pid: str) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(int(pid), 0)[1])


def main() -> None:
    for line in sys.stdin:
        what, _, of = line.strip().partition(" ")
        print({"start": start, "wait": wait}[what](of), flush=True)


if __name__ == "__main__":
    main()
