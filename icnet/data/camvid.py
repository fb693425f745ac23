"""CamVid in the layout of the SegNet tutorial: ``root/<split>/*.png`` beside ``root/<split>annot/*.png``."""

from typing_extensions import override

from icnet.data.base import DataSet, SamplePaths, pair_up
from icnet.data.labels import CAMVID_CLASSES, IGNORE_INDEX, train_id_table
from icnet.data.listing import tell_left_out
from icnet.data.patterns import Pattern
from icnet.errors import UserError

SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}
VOID = len(CAMVID_CLASSES)  # 11

IMAGES = Pattern("images", "{split}/{stem}")
MASKS = Pattern("labels", "{split}annot/{stem}")


class CamVid(DataSet):
    """CamVid; its samples are named after their files."""

    holds = "train/, trainannot/, val/ and valannot/"
    label_folders = ("*annot",)
    splits = tuple(SPLITS)
    classes = CAMVID_CLASSES
    label_table = train_id_table([(class_id, class_id) for class_id in range(VOID)] + [(VOID, IGNORE_INDEX)])

    @override
    def list_samples(self, split: str) -> list[SamplePaths]:
        folder = self.folder()
        self.check_split(split)
        samples = []
        for part in SPLITS[split]:
            found = IMAGES.find(folder, part)
            if not found.stems:
                raise UserError(f"data.root={self.root} holds no {part}/*.png; give the folder that holds {self.holds}")
            tell_left_out(found.folder, found.others, "images")
            masks = MASKS.find(folder, part).by_stem("label")
            hint = f"{part}/ and {part}annot/ need the same file names"
            samples += pair_up(found.by_stem("image"), masks, hint=hint)
        return samples
