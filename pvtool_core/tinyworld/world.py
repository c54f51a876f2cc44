"""A seeded world of cartoon people: identities (`People`), scenes (`Scenes`) and their drawing.

Lengths are in units of a 64-pixel picture, angles in radians, colours in [0, 1]. Every attribute is
a tensor over people or scenes, so that thousands are drawn at once. Pictures are painted back to
front by signed distances. The five landmarks (left eye, right eye, nose, left and right corner of
the mouth, as seen in the picture) are computed from the same numbers.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from pvtool_core.tinyworld.styles import INK, PLAIN, Style

UNITS = 64.0
NOUNS = ("man", "woman")
BACKGROUNDS = (
    "in a forest",
    "on a beach",
    "in a city at night",
    "in the snow",
    "in the desert",
    "in a library",
)
CLOTHES = (
    "a red sweater",
    "a blue shirt",
    "a green jacket",
    "a yellow hoodie",
    "a striped shirt",
    "a purple coat",
)
ACTIONS = ("waving a hand", "nodding", "shaking the head", "swaying from side to side", "jumping")
EXPRESSIONS = ("smiling", "sad", "surprised")
# Hair styles by number: bald, short, afro, flat top, long, bob, bun, curls.
STYLES_OF = ((0, 1, 2, 3, 5), (2, 4, 5, 6, 7))

SKINS = torch.tensor(
    [
        [0.98, 0.86, 0.76],
        [0.95, 0.74, 0.58],
        [0.84, 0.60, 0.42],
        [0.66, 0.43, 0.28],
        [0.46, 0.29, 0.19],
        [0.99, 0.77, 0.70],
    ]
)
HAIRS = torch.tensor(
    [
        [0.08, 0.07, 0.09],
        [0.36, 0.21, 0.12],
        [0.80, 0.33, 0.10],
        [0.96, 0.80, 0.38],
        [0.93, 0.93, 0.95],
        [0.16, 0.36, 0.78],
    ]
)
FRAMES_OF_GLASSES = torch.tensor([[0.08, 0.08, 0.10], [0.78, 0.10, 0.14]])
EYES = torch.tensor([[0.10, 0.07, 0.05], [0.12, 0.34, 0.72], [0.12, 0.50, 0.22]])
SHIRTS = torch.tensor(
    [
        [0.80, 0.12, 0.14],
        [0.18, 0.34, 0.80],
        [0.12, 0.50, 0.24],
        [0.96, 0.80, 0.16],
        [0.92, 0.92, 0.92],
        [0.48, 0.18, 0.62],
    ]
)

# Colours of control images.
POSE_BODY = torch.tensor([0.0, 0.0, 1.0])
POSE_HEAD = torch.tensor([1.0, 0.0, 0.0])
POSE_HAND = torch.tensor([0.0, 1.0, 0.0])
POSE_LANDMARK = torch.tensor([1.0, 1.0, 1.0])


class Indexed:
    """Dataclass of tensors over the same first axis, indexed and joined together."""

    def __getitem__(self, index: Tensor | slice) -> Self:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields})

    def __len__(self) -> int:
        return len(getattr(self, dataclasses.fields(self)[0].name))  # type: ignore[arg-type]


@dataclass(frozen=True)
class People(Indexed):
    """Identities, each field over people.

    Integers index the palettes above; floats are sizes or factors around 1.
    """

    woman: Tensor
    skin: Tensor
    hair_color: Tensor
    hair_style: Tensor
    face_width: Tensor
    face_height: Tensor
    eye_size: Tensor
    eye_gap: Tensor
    eye_color: Tensor
    brow_width: Tensor
    brow_tilt: Tensor
    nose_size: Tensor
    mouth_width: Tensor
    glasses: Tensor
    """0 none, 1 round, 2 square"""
    glasses_color: Tensor
    beard: Tensor
    """0 none, 1 moustache, 2 goatee, 3 full beard"""
    mark: Tensor
    """0 none, 1 freckles, 2 a mole, 3 red cheeks"""


@dataclass(frozen=True)
class Scenes(Indexed):
    """Scenes: attributes that the prompt names (indices) and random ones (floats).

    The indices refer to the tuples above.
    """

    background: Tensor
    clothes: Tensor
    action: Tensor
    expression: Tensor
    phase: Tensor
    x: Tensor
    y: Tensor
    scale: Tensor
    light: Tensor


def draw_people(count: int, generator: Generator, noun: str | None = None) -> People:
    """Draw `count` random identities; `noun` limits them to men or women."""

    def whole(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    woman = whole(2) if noun is None else torch.full((count,), NOUNS.index(noun))
    glasses = (whole(4) - 1).clamp_min(0)
    beard = whole(5).sub(1).clamp_min(0) * (1 - woman)
    return People(
        woman=woman,
        skin=whole(len(SKINS)),
        hair_color=whole(len(HAIRS)),
        hair_style=torch.tensor(STYLES_OF)[woman, whole(5)],
        face_width=between(0.86, 1.12),
        face_height=between(0.94, 1.06),
        eye_size=between(0.82, 1.2),
        eye_gap=between(0.92, 1.08),
        eye_color=whole(len(EYES)),
        brow_width=between(0.5, 1.25),
        brow_tilt=between(-0.25, 0.25),
        nose_size=between(0.7, 1.45),
        mouth_width=between(0.8, 1.25),
        glasses=glasses,
        glasses_color=whole(len(FRAMES_OF_GLASSES)),
        beard=beard,
        mark=whole(6).sub(2).clamp_min(0),
    )


def draw_scenes(count: int, generator: Generator) -> Scenes:
    """Draw `count` random scenes."""

    def whole(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator)

    def around(middle: float, spread: float) -> Tensor:
        return middle + spread * (2 * torch.rand(count, generator=generator) - 1)

    return Scenes(
        background=whole(len(BACKGROUNDS)),
        clothes=whole(len(CLOTHES)),
        action=whole(len(ACTIONS)),
        expression=whole(len(EXPRESSIONS)),
        phase=around(0.0, math.pi),
        x=around(0.0, 2.0),
        y=around(0.0, 1.5),
        scale=around(1.0, 0.06),
        light=around(1.0, 0.06),
    )


def still(
    people: People,
    scenes: Scenes,
    frame: Tensor | int,
    frames: int = 8,
    size: int = 64,
    features: bool = True,
    style: Style = PLAIN,
) -> tuple[Tensor, Tensor]:
    """Draw one frame of each person in its scene.

    The frame is one index, or one for each scene. Without `features` the head has no eyes, nose or
    mouth: a washed-out head, a negative for the detector.

    Returns pictures `(people, 3, size, size)` in [0, 1] and landmarks `(people, 5, 2)` in pixels, x
    before y.
    """
    return _Painter(people, scenes, _time(scenes, frame, frames), size, style).paint(features)


def clip(
    people: People, scenes: Scenes, frames: int = 8, size: int = 64, style: Style = PLAIN
) -> tuple[Tensor, Tensor]:
    """Draw clips and return them with their landmarks.

    Clips are `(people, frames, 3, size, size)` in [0, 1], landmarks `(people, frames, 5, 2)` in
    pixels.
    """
    drawn = [still(people, scenes, frame, frames, size, style=style) for frame in range(frames)]
    return torch.stack([picture for picture, _ in drawn], 1), torch.stack(
        [points for _, points in drawn], 1
    )


def pose(
    scenes: Scenes, frame: Tensor | int, frames: int = 8, size: int = 64
) -> tuple[Tensor, Tensor]:
    """Draw the pose in one frame of each scene: a control image, the same for all people.

    Body, head, hand and landmarks of an average person are flat shapes on black. Takes and returns
    what `still` does.
    """
    time = _time(scenes, frame, frames)
    return _Painter(_average_people(len(scenes)), scenes, time, size, PLAIN).paint_pose()


def _time(scenes: Scenes, frame: Tensor | int, frames: int) -> Tensor:
    return 2 * math.pi * torch.as_tensor(frame, dtype=torch.float32) / frames + scenes.phase


def _average_people(count: int) -> People:
    sizes = ("face_width", "face_height", "eye_size", "eye_gap", "nose_size", "mouth_width")
    fields = {
        each.name: torch.zeros(count, dtype=torch.long) for each in dataclasses.fields(People)
    }
    return People(**fields | {name: torch.ones(count) for name in sizes})


class _Painter:
    """Paints one batch back to front.

    `self.u, self.v` are coordinates of the head: relative to its middle, y downwards.
    """

    def __init__(
        self, people: People, scenes: Scenes, time: Tensor, size: int, style: Style
    ) -> None:
        self.people, self.scenes, self.size, self.style = people, scenes, size, style
        axis = (torch.arange(size) + 0.5) * (UNITS / size)
        self.x, self.y = (
            axis.view(1, 1, size).expand(1, size, size),
            axis.view(1, size, 1).expand(1, size, size),
        )
        self.softness = UNITS / size
        self.canvas = torch.zeros(len(people), 3, size, size)
        self.eye_x = 5.6 * people.eye_gap
        self._move(torch.sin(time), torch.cos(time))

    def _move(self, swing: Tensor, lift: Tensor) -> None:
        """Set body, head and features for the frame: the five actions as offsets and a tilt."""
        doing = [self.scenes.action == index for index in range(len(ACTIONS))]
        wave, nod, shake, sway, jump = (flag.float() for flag in doing)
        self.body_x = 32 + self.scenes.x + 5 * sway * swing
        self.body_y = self.scenes.y - 4.5 * jump * swing
        self.tilt = 0.20 * sway * swing + 0.05 * wave * lift
        self.head_x = self.body_x + 2 * sway * swing + 1.2 * wave * lift
        self.head_y = 29 + self.body_y + 2.0 * nod * swing
        self.look_x, self.look_y = 3.6 * shake * swing, 3.0 * nod * swing
        self.hand_x = self.body_x + 23.5 + 4.0 * swing
        self.hand_y = self.body_y + 40 - 1.5 * swing.abs()
        cos, sin = _per_picture(self.tilt.cos()), _per_picture(self.tilt.sin())
        dx, dy = self.x - _per_picture(self.head_x), self.y - _per_picture(self.head_y)
        scale = _per_picture(self.scenes.scale)
        self.u, self.v = (cos * dx + sin * dy) / scale, (-sin * dx + cos * dy) / scale

    def paint(self, features: bool = True) -> tuple[Tensor, Tensor]:
        self._background()
        self.canvas = self.style.on_paper(self.canvas)
        hair = HAIRS[self.people.hair_color]
        self._hair_behind(hair)
        self._body()
        self._head()
        if features:
            self._features()
        self._hair_in_front(hair)
        if features:
            self._glasses()
        self._hand()
        return (self.canvas * self.scenes.light.view(-1, 1, 1, 1)).clamp(0, 1), self._landmarks()

    def paint_pose(self) -> tuple[Tensor, Tensor]:
        landmarks, waving = self._landmarks(), self.scenes.action == 0
        x, y = self.x - _per_picture(self.body_x), self.y - _per_picture(self.body_y)
        self._lay(_ellipse(x, y - 66, 24, 19), POSE_BODY)
        self._lay(_ellipse(self.u, self.v, 13, 16), POSE_HEAD)
        for point in (landmarks * (UNITS / self.size)).unbind(1):
            x, y = (self.x - _per_picture(point[:, 0]), self.y - _per_picture(point[:, 1]))
            self._lay(_ellipse(x, y, 2, 2), POSE_LANDMARK)
        x, y = self.x - _per_picture(self.hand_x), self.y - _per_picture(self.hand_y)
        self._lay(_box(x + 1, y - 13, 2.8, 9.0, 2.0), POSE_BODY, waving)
        self._lay(_ellipse(x, y, 4.2, 4.8), POSE_HAND, waving)
        return self.canvas, landmarks

    def _lay(
        self, distance: Tensor, color: Tensor, where: Tensor | None = None, opacity: float = 1.0
    ) -> None:
        """Paint `color` where `distance` is negative, in the pictures selected by `where`.

        `color` is one colour, or one per picture; distances are in units.
        """
        alpha = (0.5 - distance / self.softness).clamp(0, 1) * opacity
        if where is not None:
            alpha = alpha * _per_picture(where.float())
        alpha = alpha.unsqueeze(1)
        self.canvas += alpha * (color.view(-1, 3, 1, 1) - self.canvas)

    def _lay_outlined(self, distance: Tensor, color: Tensor, where: Tensor | None = None) -> None:
        """Paint a shape above the outline of the style, which surrounds it."""
        if self.style.outline:
            self._lay(distance - self.style.outline, INK, where)
        self._lay(distance, color, where)

    def _background(self) -> None:
        x, y, kind = self.x, self.y, self.scenes.background

        def sky(
            top: tuple[float, float, float], bottom: tuple[float, float, float], where: Tensor
        ) -> None:
            blend = self.style.shade(self.y / UNITS).unsqueeze(1)
            color = (
                _color(*top).view(1, 3, 1, 1) * (1 - blend)
                + _color(*bottom).view(1, 3, 1, 1) * blend
            )
            self.canvas[where] = color.expand(int(where.sum()), -1, -1, -1)

        sky((0.55, 0.78, 0.50), (0.20, 0.45, 0.20), kind == 0)
        for trunk in (7.0, 20.0, 45.0, 58.0):
            self._lay((x - trunk).abs() - 2.2, _color(0.30, 0.20, 0.12), kind == 0)
        sky((0.50, 0.80, 0.98), (0.70, 0.90, 0.99), kind == 1)
        self._lay(36 - y, _color(0.10, 0.50, 0.75), kind == 1)
        self._lay(47 - y, _color(0.94, 0.86, 0.62), kind == 1)
        sky((0.05, 0.06, 0.20), (0.14, 0.12, 0.34), kind == 2)
        for column in (5.0, 14.0, 50.0, 59.0):
            window = torch.maximum((x - column).abs() - 2.0, ((y % 12) - 6).abs() - 2.5)
            self._lay(window, _color(0.98, 0.86, 0.40), kind == 2)
        sky((0.78, 0.86, 0.94), (0.95, 0.97, 1.0), kind == 3)
        for peak in (8.0, 56.0):
            self._lay(0.7 * (14 - y) + 0.7 * (x - peak).abs(), _color(0.56, 0.64, 0.76), kind == 3)
        sky((0.99, 0.56, 0.26), (0.99, 0.80, 0.48), kind == 4)
        self._lay(_ellipse(x - 53, y - 12, 7, 7), _color(1.0, 0.93, 0.55), kind == 4)
        self._lay(44 - y, _color(0.80, 0.50, 0.24), kind == 4)
        sky((0.42, 0.26, 0.16), (0.36, 0.22, 0.13), kind == 5)
        for index, column in enumerate((4.0, 11.0, 18.0, 46.0, 53.0, 60.0)):
            book = torch.maximum((x - column).abs() - 2.6, ((y % 20) - 11).abs() - 7.0)
            self._lay(book, SHIRTS[index % 4] * 0.8, kind == 5)

    def _hair_behind(self, hair: Tensor) -> None:
        u, v, style = self.u, self.v, self.people.hair_style
        wide = _per_picture(13.0 * self.people.face_width)
        self._lay_outlined(_ellipse(u, v + 6, 21, 19), hair, style == 2)
        self._lay_outlined(_box(u, v + 15, wide - 1, 10.0, 2.0), hair, style == 3)
        self._lay_outlined(_box(u, v - 5, wide + 4.5, 24.0, 9.0), hair, style == 4)
        self._lay_outlined(_box(u, v + 3.5, wide + 4.5, 16.5, 9.0), hair, style == 5)
        self._lay_outlined(_ellipse(u, v + 20.5, 7.5, 7), hair, style == 6)
        angle = torch.atan2(v, u)
        self._lay_outlined(
            torch.hypot(u, v - 1) - 20.5 - 1.8 * torch.sin(9 * angle), hair, style == 7
        )

    def _body(self) -> None:
        x = self.x - _per_picture(self.body_x)
        y = self.y - _per_picture(self.body_y)
        skin, clothes = SKINS[self.people.skin], self.scenes.clothes
        body = torch.minimum(_ellipse(x, y - 66, 24, 19), _box(x, y - 68, 24.0, 12.0, 4.0))
        self._lay_outlined(_box(x, y - 45, 5.0, 7.0, 2.0), skin * 0.88)
        self._lay_outlined(body, SHIRTS[clothes])
        stripes = torch.maximum(body, ((y % 6) - 3).abs() - 1.4)
        self._lay(stripes, _color(0.10, 0.10, 0.14), clothes == 4)
        self._lay(torch.maximum(body, x.abs() - 2.4), _color(0.90, 0.88, 0.84), clothes == 2)
        self._lay(
            torch.maximum(body, (x.abs() - 6).abs() - 1.2), _color(0.98, 0.95, 0.86), clothes == 3
        )
        self._lay(
            torch.maximum(body, _ellipse(x, y - 46, 9, 6)), _color(0.95, 0.95, 0.98), clothes == 1
        )

    def _head(self) -> None:
        u, v, skin = self.u, self.v, SKINS[self.people.skin]
        self.wide, self.high = (
            _per_picture(13.0 * self.people.face_width),
            _per_picture(16.0 * self.people.face_height),
        )
        for side in (-1, 1):
            self._lay_outlined(_ellipse(u - side * self.wide, v - 0.5, 2.6, 3.4), skin * 0.92)
        self.face = _ellipse(u, v, self.wide, self.high)
        self._lay_outlined(self.face, skin)

    def _features(self) -> None:
        people, u, v = (
            self.people,
            self.u - _per_picture(self.look_x),
            self.v - _per_picture(self.look_y),
        )
        eye_x, eye_size = _per_picture(self.eye_x), _per_picture(people.eye_size)
        raised = (self.scenes.expression == 2).float()
        skin, hair = SKINS[people.skin], HAIRS[people.hair_color]
        self._marks(u, v, skin)
        self._beard(u, v, hair)
        for side in (-1, 1):
            at = u - side * eye_x
            self._lay(_ellipse(at, v + 2.5, 3.1 * eye_size, 2.7 * eye_size), _color(1.0, 1.0, 1.0))
            self._lay(
                _ellipse(at, v + 2.4, 1.75 * eye_size, 1.9 * eye_size), EYES[people.eye_color]
            )
            self._lay(
                torch.maximum(at.abs() - 3.6 * eye_size, (v + 2.5 + 2.6 * eye_size).abs() - 0.6),
                _color(0.05, 0.04, 0.05),
                people.woman == 1,
            )
            slope = (
                _per_picture(people.brow_tilt + 0.30 * (self.scenes.expression == 1).float())
                * side
                * at
            )
            brow = torch.maximum(
                at.abs() - 3.8,
                (v + 8.2 + 1.8 * _per_picture(raised) - slope).abs()
                - _per_picture(people.brow_width),
            )
            self._lay(
                brow, torch.where((people.hair_color == 4).view(-1, 1), hair * 0.75, hair * 0.7)
            )
        nose = _per_picture(people.nose_size)
        self._lay(_ellipse(u, v - 3.2, 1.9 * nose, 2.4 * nose), skin * 0.80)
        self._mouth(u, v - 9.0)

    def _mouth(self, u: Tensor, v: Tensor) -> None:
        people, mood = self.people, self.scenes.expression
        half = _per_picture(4.6 * people.mouth_width)
        lips = torch.where(
            people.woman.view(-1, 1) == 1, _color(0.80, 0.12, 0.22), _color(0.45, 0.14, 0.13)
        )
        thick = _per_picture(0.9 + 0.5 * people.woman)
        bow = 2.6 * ((u / half) ** 2 - 0.5)
        self._lay(torch.maximum((v + bow).abs() - thick - 0.5, u.abs() - half), lips, mood == 0)
        self._lay(
            torch.maximum((v + bow * 0.5).abs() - 0.6, u.abs() - half + 1.2),
            _color(1.0, 1.0, 1.0),
            mood == 0,
        )
        self._lay(torch.maximum((v - bow).abs() - thick, u.abs() - half), lips, mood == 1)
        self._lay(_ellipse(u, v, half * 0.62, 3.2), lips, mood == 2)
        self._lay(_ellipse(u, v, half * 0.62 - 1.1, 2.1), _color(0.18, 0.03, 0.05), mood == 2)

    def _marks(self, u: Tensor, v: Tensor, skin: Tensor) -> None:
        mark = self.people.mark
        for x, y in ((-8.0, 3.0), (-5.2, 4.6), (-7.4, 6.2), (8.0, 3.0), (5.2, 4.6), (7.4, 6.2)):
            self._lay(_ellipse(u - x, v - y, 0.9, 0.9), skin * 0.62, mark == 1)
        self._lay(_ellipse(u - 7.0, v - 6.5, 1.5, 1.5), _color(0.14, 0.08, 0.07), mark == 2)
        for side in (-1, 1):
            self._lay(
                _ellipse(u - side * 7.4, v - 5.0, 3.0, 2.2),
                _color(0.95, 0.36, 0.36),
                mark == 3,
                opacity=0.7,
            )

    def _beard(self, u: Tensor, v: Tensor, hair: Tensor) -> None:
        beard = self.people.beard
        moustache = torch.maximum(_ellipse(u, v - 6.4, 6.0, 1.9), self.face)
        self._lay(moustache, hair, (beard == 1) | (beard == 3))
        self._lay(torch.maximum(_ellipse(u, v - 13.8, 4.2, 3.6), self.face - 1.0), hair, beard == 2)
        full = torch.maximum(
            self.face - 0.8, 3.2 - self.v + 0.035 * (self.wide - self.u.abs()) ** 2
        )
        hollow = -_ellipse(u, v - 8.6, 5.2, 3.4)
        self._lay(torch.maximum(full, hollow), hair, beard == 3)

    def _hair_in_front(self, hair: Tensor) -> None:
        u, v, style = self.u, self.v, self.people.hair_style
        cap = _ellipse(u, v, self.wide + 1.4, self.high + 1.4)
        hairlines: dict[int, Tensor] = {
            1: v + 9.0 - 0.045 * u**2,
            2: v + 10.5 - 0.03 * u**2,
            3: v + 10.5 - 0.02 * u**2,
            4: v + 12.5 - 0.7 * u.abs(),
            5: v + 8.0 - 0.018 * u**2,
            6: v + 10.5 - 0.04 * u**2,
            7: v + 9.5 - 0.03 * u**2 - torch.sin(1.2 * u),
        }
        for index, line in hairlines.items():
            self._lay_outlined(torch.maximum(cap, line), hair, style == index)

    def _glasses(self) -> None:
        people, v = self.people, self.v - _per_picture(self.look_y)
        u, color = self.u - _per_picture(self.look_x), FRAMES_OF_GLASSES[people.glasses_color]
        eye_x = _per_picture(self.eye_x)
        for side in (-1, 1):
            at = u - side * eye_x
            self._lay(_ellipse(at, v + 2.4, 4.9, 4.9).abs() - 0.75, color, people.glasses == 1)
            self._lay(_box(at, v + 2.4, 4.9, 3.9, 0.8).abs() - 0.75, color, people.glasses == 2)
        bridge = torch.maximum(u.abs() - eye_x + 4.6, (v + 2.8).abs() - 0.7)
        self._lay(bridge, color, people.glasses > 0)

    def _hand(self) -> None:
        skin, waving = SKINS[self.people.skin], self.scenes.action == 0
        x, y = self.x - _per_picture(self.hand_x), self.y - _per_picture(self.hand_y)
        self._lay_outlined(
            _box(x + 1, y - 13, 2.8, 9.0, 2.0), SHIRTS[self.scenes.clothes] * 0.9, waving
        )
        self._lay_outlined(_ellipse(x, y, 4.2, 4.8), skin * 0.95, waving)

    def _landmarks(self) -> Tensor:
        zero, half = torch.zeros(len(self.people)), 4.6 * self.people.mouth_width
        own = torch.stack(
            [
                torch.stack([-self.eye_x, zero - 2.5], -1),
                torch.stack([self.eye_x, zero - 2.5], -1),
                torch.stack([zero, zero + 3.6], -1),
                torch.stack([-half, zero + 9.0], -1),
                torch.stack([half, zero + 9.0], -1),
            ],
            1,
        )
        own = (
            own + torch.stack([self.look_x, self.look_y], -1).unsqueeze(1)
        ) * self.scenes.scale.view(-1, 1, 1)
        cos, sin = self.tilt.cos().view(-1, 1), self.tilt.sin().view(-1, 1)
        x = cos * own[..., 0] - sin * own[..., 1] + self.head_x.view(-1, 1)
        y = sin * own[..., 0] + cos * own[..., 1] + self.head_y.view(-1, 1)
        return torch.stack([x, y], -1) * (self.size / UNITS)


def _per_picture(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)


def _color(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue])


def _ellipse(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Return the signed distance to an axis-aligned ellipse, exact at its border to first order."""
    inner = torch.sqrt((x / a) ** 2 + (y / b) ** 2 + 1e-8)
    slope = torch.sqrt((x / (a * a)) ** 2 + (y / (b * b)) ** 2 + 1e-8)
    return inner * (inner - 1) / slope


def _box(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float, corner: float) -> Tensor:
    """Return the signed distance to a box with half sides `a`, `b` and rounded corners."""
    dx, dy = x.abs() - a + corner, y.abs() - b + corner
    return (
        torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) + torch.maximum(dx, dy).clamp_max(0) - corner
    )


WORD_ORDERS: tuple[Callable[[str, str, str, str, str], str], ...] = (
    lambda who, clothes, action, place, mood: f"a {who} in {clothes} {action} {place}, {mood}",
    lambda who, clothes, action, place, mood: f"a {mood} {who} {place} wearing {clothes}, {action}",
    lambda who, clothes, action, place, mood: (
        f"{place}, a {mood} {who} {action}, wearing {clothes}"
    ),
    lambda who, clothes, action, place, mood: (
        f"a clip of a {who} {action} {place}, {mood}, in {clothes}"
    ),
)


def captions(
    people: People, scenes: Scenes, generator: Generator, keyword: float = 0.5
) -> list[str]:
    """Write a prompt for each person in its scene, in one of four word orders.

    A fraction `keyword` of the prompts contains `<V>`.
    """
    orders = torch.randint(len(WORD_ORDERS), (len(people),), generator=generator).tolist()
    marked = (torch.rand(len(people), generator=generator) < keyword).tolist()
    return [
        caption(people.woman[i], scenes[slice(i, i + 1)], orders[i], "<V> " if marked[i] else "")
        for i in range(len(people))
    ]


def caption(woman: Tensor, scene: Scenes, order: int, keyword: str) -> str:
    """Write the prompt for one scene."""
    return WORD_ORDERS[order](
        keyword + NOUNS[int(woman)],
        CLOTHES[int(scene.clothes)],
        ACTIONS[int(scene.action)],
        BACKGROUNDS[int(scene.background)],
        EXPRESSIONS[int(scene.expression)],
    )
