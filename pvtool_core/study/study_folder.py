"""Write the folder of a study: the page, and clips and reference photos under hashed names.

    OUT/index.html           the page; opened from the disk, it needs no server and no network
    OUT/study.json           the same items for `pv study take`; names no method
    OUT/clips/HASH.mp4       clips, encoded again, so that neither format nor metadata name a method
    OUT/photos/HASH.jpg      reference photos, without metadata
    OUT.key.json             the method of each clip; not for raters

Photos and clips are biometric data: all of it is readable by its owner only.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pvtool_core.errors import Missing, NameTaken, PvError, printable
from pvtool_core.files import working_folder
from pvtool_core.media.decode import footage_of, frames_of
from pvtool_core.media.encode import write_clip
from pvtool_core.media.photos import PHOTO_FORMATS, read_picture
from pvtool_core.permissions import make_private, tighten
from pvtool_core.store.identities import Library
from pvtool_core.store.prompts import without_keyword
from pvtool_core.study.design import Design, design
from pvtool_core.study.method_clips import MethodClip, read_method
from pvtool_core.study.study_items import CLIPS, FORMAT, PAGE, PHOTOS, STUDY
from pvtool_core.study.study_key import Item, StudyKey, key_path, write_key
from pvtool_core.study.study_page import page
from pvtool_core.untrusted import exists

_PHOTO_SIDE = 768
_PHOTO_QUALITY = 90

OnClip = Callable[[int, int], None]
"""Called with the number of written clips and of all clips."""


def make_study(
    out: Path,
    folders: Mapping[str, Path],
    count: int,
    seed: int = 0,
    photos: Mapping[str, Path] | None = None,
    on_clip: OnClip = lambda done, total: None,
) -> StudyKey:
    """Write the folder of a study to `out` and its key beside it, and return the key.

    `folders` has the folder of clips of each method, `photos` the reference photo of identities
    that are not in the library. Raises NameTaken if one of both exists, Missing for a photo that is
    in neither place, and what `design` and `read_method` raise.
    """
    for path in (out, key_path(out)):
        if exists(path):
            raise NameTaken("a file or folder", printable(path), "Choose another output folder.")
    identities = {*Library().names(), *(photos or {})}
    methods = [read_method(name, folder, identities) for name, folder in folders.items()]
    plan = design(methods, count, seed)
    make_private(out.parent)
    with working_folder(out) as parent:
        parent.chmod(0o700)
        folder = parent / out.name
        names = _write_photos(folder / PHOTOS, plan, photos or {})
        _write_clips(folder / CLIPS, plan.originals, on_clip)
        shown = _record(plan, names)
        (folder / STUDY).write_text(json.dumps(shown))
        (folder / PAGE).write_text(page(shown), encoding="utf-8")
        tighten(folder)
        key = StudyKey(study=plan.study, methods=tuple(folders), items=plan.items)
        write_key(key_path(out), key)
        folder.rename(out)
    return key


def _record(plan: Design, photos: Mapping[str, str]) -> dict[str, Any]:
    items = [_item(item, photos[item.identity]) for item in plan.items]
    return {"format": FORMAT, "study": plan.study, "items": items}


def _item(item: Item, photo: str) -> dict[str, Any]:
    again = {"again": item.again} if item.again else {}
    prompt = " ".join(without_keyword(item.prompt).split())
    return {"name": item.name, "photo": photo, "prompt": prompt, "clips": [*item.clips], **again}


def _write_photos(folder: Path, plan: Design, given: Mapping[str, Path]) -> dict[str, str]:
    """Write a reference photo of each identity; return its file name by identity."""
    folder.mkdir(parents=True)
    names: dict[str, str] = {}
    for identity in sorted({item.identity for item in plan.items}):
        content = io.BytesIO()
        photo = read_picture(
            _photo_of(identity, given), formats=PHOTO_FORMATS, side=_PHOTO_SIDE, warn=_ignore
        )
        photo.save(content, "JPEG", quality=_PHOTO_QUALITY)
        names[identity] = f"{hashlib.sha256(content.getvalue()).hexdigest()[:16]}.jpg"
        (folder / names[identity]).write_bytes(content.getvalue())
    return names


def _ignore(_: str) -> None:
    pass


def _photo_of(identity: str, given: Mapping[str, Path]) -> Path:
    if identity in given:
        return given[identity]
    try:
        return Library().get(identity).references[0]
    except PvError as error:
        raise Missing(
            "reference photo of an identity",
            identity,
            f"Add the identity, or use --photo {identity}=FILE.",
        ) from error


def _write_clips(folder: Path, originals: Mapping[str, MethodClip], on_clip: OnClip) -> None:
    """Encode every clip in the same format, with the same metadata, in the order of their names.

    Odd sides lose a row or column of pixels: H.264 has even ones.
    """
    folder.mkdir()
    for number, name in enumerate(sorted(originals)):
        on_clip(number, len(originals))
        clip = originals[name]
        if clip.fps:
            frames, fps = frames_of(clip.file), clip.fps
        else:
            footage = footage_of(clip.file)
            frames, fps = footage.frames, max(round(footage.fps), 1)
        height, width = (side // 2 * 2 for side in frames.shape[1:3])
        even = frames[:, :height, :width]
        write_clip(folder / name.removesuffix(".mp4"), even, fps, {})
    on_clip(len(originals), len(originals))
