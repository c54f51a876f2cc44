"""The format of ComfyUI's editor: nodes with sockets and widgets, and links between them.

A graph becomes the JSON that the editor saves and opens (version 0.4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Output(NamedTuple):
    """An output socket: number of the node, position, and type of what it carries."""

    node: int
    slot: int
    kind: str


class _Kind(NamedTuple):
    """A type of node: all its input sockets with their types, and its outputs."""

    inputs: dict[str, str]
    outputs: tuple[str, ...] = ()


_KINDS = {
    "ADE_AnimateDiffLoaderGen1": _Kind(
        {
            "model": "MODEL",
            "context_options": "CONTEXT_OPTIONS",
            "motion_lora": "MOTION_LORA",
            "ad_settings": "AD_SETTINGS",
            "ad_keyframes": "AD_KEYFRAMES",
            "sample_settings": "SAMPLE_SETTINGS",
            "scale_multival": "MULTIVAL",
            "effect_multival": "MULTIVAL",
            "per_block": "PER_BLOCK",
        },
        ("MODEL",),
    ),
    "CheckpointLoaderSimple": _Kind({}, ("MODEL", "CLIP", "VAE")),
    "CLIPLoader": _Kind({}, ("CLIP",)),
    "CLIPTextEncode": _Kind({"clip": "CLIP"}, ("CONDITIONING",)),
    "CreateHookKeyframe": _Kind({"prev_hook_kf": "HOOK_KEYFRAMES"}, ("HOOK_KEYFRAMES",)),
    "CreateHookLoraModelOnly": _Kind({"prev_hooks": "HOOKS"}, ("HOOKS",)),
    "CreateVideo": _Kind({"images": "IMAGE", "audio": "AUDIO"}, ("VIDEO",)),
    "DualCLIPLoader": _Kind({}, ("CLIP",)),
    "EmptyHunyuanLatentVideo": _Kind({}, ("LATENT",)),
    "EmptyLatentImage": _Kind({}, ("LATENT",)),
    "FluxGuidance": _Kind({"conditioning": "CONDITIONING"}, ("CONDITIONING",)),
    "KSampler": _Kind(
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
        },
        ("LATENT",),
    ),
    "LoraLoader": _Kind({"model": "MODEL", "clip": "CLIP"}, ("MODEL", "CLIP")),
    "ModelSamplingSD3": _Kind({"model": "MODEL"}, ("MODEL",)),
    "Note": _Kind({}),
    "PairConditioningSetProperties": _Kind(
        {
            "positive_NEW": "CONDITIONING",
            "negative_NEW": "CONDITIONING",
            "mask": "MASK",
            "hooks": "HOOKS",
            "timesteps": "TIMESTEPS_RANGE",
        },
        ("CONDITIONING", "CONDITIONING"),
    ),
    "SaveVideo": _Kind({"video": "VIDEO"}),
    "SetHookKeyframes": _Kind({"hooks": "HOOKS", "hook_kf": "HOOK_KEYFRAMES"}, ("HOOKS",)),
    "UNETLoader": _Kind({}, ("MODEL",)),
    "VAEDecode": _Kind({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "VAELoader": _Kind({}, ("VAE",)),
}
_WIDTH, _GAP, _ROW, _TEXT = 320, 60, 28, 140
"""Pixels: width of a node, gap between nodes, height of a socket or widget, and of a text field."""


@dataclass
class Graph:
    """Nodes in the order of their execution, and the links between them."""

    nodes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    links: list[tuple[int, int, int, int, int, str]] = field(
        default_factory=list[tuple[int, int, int, int, int, str]]
    )

    def add(
        self, kind: str, models: Sequence[Mapping[str, str]] = (), /, **values: Any
    ) -> tuple[Output, ...]:
        """Add a node and return its outputs.

        `values` are outputs for its sockets, and the values of its widgets in ComfyUI's order.
        """
        number = len(self.nodes) + 1
        sockets, outputs = _KINDS[kind]
        widgets = [value for value in values.values() if not isinstance(value, Output)]
        inputs = [
            {"name": name, "type": carried, "link": self._link(values.get(name), number, slot)}
            for slot, (name, carried) in enumerate(sockets.items())
        ]
        self.nodes.append(
            {
                "id": number,
                "type": kind,
                "pos": [0, 0],
                "size": [_WIDTH, _height(len(sockets) + len(outputs), values)],
                "flags": {},
                "order": number - 1,
                "mode": 0,
                "inputs": inputs,
                "outputs": [
                    {"name": name, "type": name, "links": [], "slot_index": slot}
                    for slot, name in enumerate(outputs)
                ],
                "properties": {"Node name for S&R": kind}
                | ({"models": list(models)} if models else {}),
                "widgets_values": widgets,
            }
        )
        return tuple(Output(number, slot, name) for slot, name in enumerate(outputs))

    def _link(self, source: Output | None, target: int, slot: int) -> int | None:
        if source is None:
            return None
        number = len(self.links) + 1
        self.links.append((number, source.node, source.slot, target, slot, source.kind))
        self.nodes[source.node - 1]["outputs"][source.slot]["links"].append(number)
        return number

    def workflow(self) -> dict[str, Any]:
        """Return the graph as ComfyUI's editor saves it, each node right of those it uses."""
        self._arrange()
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": [list(link) for link in self.links],
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    def _arrange(self) -> None:
        columns: dict[int, int] = {}
        filled: dict[int, int] = {}
        for node in self.nodes:
            before = [columns[link[1]] for link in self.links if link[3] == node["id"]]
            column = columns[node["id"]] = 1 + max(before, default=-1)
            top = filled.get(column, 0)
            node["pos"] = [column * (_WIDTH + _GAP), top]
            filled[column] = top + node["size"][1] + _GAP


def _height(sockets: int, values: Mapping[str, Any]) -> int:
    widgets = sum(not isinstance(value, Output) for value in values.values())
    return _ROW * (1 + sockets + widgets) + (_TEXT if "text" in values else 0)
