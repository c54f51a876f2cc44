"""Enroll, train, render and evaluate: `python example.py PHOTO ITERATIONS`."""

import sys

from pvtool_core import StepEvent, enroll, evaluate, render, train

photo, iterations = sys.argv[1], int(sys.argv[2])
identity = enroll("ada", photo, noun="woman", consent="ada agreed on 3 May 2026", adult=True)
run = train(identity, "tiny", overrides={"training": {"iterations": iterations}})
for event in run.events():
    if isinstance(event, StepEvent):
        print(f"step {event.step}: loss {event.scalars['loss']:.3f}")
run.wait()
rendering = render(run, "<V> {noun} waves on a beach", "clips", seeds=range(2), base=True)
print(*rendering.wait(), sep="\n")
for method, found in evaluate(run, prompts=2, seeds=1)["methods"].items():
    print(method, found["means"]["likeness"])
