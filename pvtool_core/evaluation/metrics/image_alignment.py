"""Agreement of the frames with the photos, by an image-text model."""

from pvtool_core.evaluation.clip import Clip
from pvtool_core.evaluation.metric import Metric
from pvtool_core.settings.jobs import Subject


class ClipI(Metric):
    """100 times the mean cosine of each frame's aligned face with that of each photo.

    By `evaluation.text_model`. Frames without a face are left out.
    """

    name, label, better = "clip_i", "CLIP-I, face", "higher"
    limits = (-100, 100)
    models = ("text_model",)
    condition = "a frame with a face"

    def measure(self, clip: Clip, subject: Subject) -> float | None:
        """Return a value in [-100, 100]; None without a face."""
        if not (crops := self.judges.face_crops(clip)):
            return None
        faces = self.judges.reader("text_model").pictures(crops)
        photos = self.judges.photo_pictures(subject, "faces", "text_model")
        return 100 * float((faces @ photos.T).mean())


class ClipIWhole(Metric):
    """100 times the mean cosine of each whole frame with each whole photo.

    By `evaluation.text_model`. The background counts, so it is not a measure of identity.
    """

    name, label = "clip_i_whole", "CLIP-I, whole picture"
    limits = (-100, 100)
    models = ("text_model",)

    def measure(self, clip: Clip, subject: Subject) -> float:
        """Return a value in [-100, 100]."""
        frames = self.judges.pictures(clip, "text_model")
        photos = self.judges.photo_pictures(subject, "references", "text_model")
        return 100 * float((frames @ photos.T).mean())
