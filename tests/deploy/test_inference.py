import pytest
import torch
from torch.nn import functional as F

from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.deploy.inference import Inference
from icnet.deploy.runtimes.segmenter import Segmenter
from icnet.errors import UserError


def pointwise(image):
    """Class scores that depend on nothing but a pixel's own colour."""
    x = image.float() / 64
    return torch.cat([x, x.sum(1, keepdim=True) - 4], 1)


def positional(image):
    """Class 0 grows to the right, class 1 to the left: what mirroring has to undo."""
    ramp = torch.linspace(-2, 2, image.shape[3]).expand(len(image), image.shape[2], -1)
    return torch.stack([ramp, -0.5 * ramp], 1)


def noise(height, width, count=2):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


def test_defaults_return_the_logits_untouched():
    image = noise(70, 90)
    assert torch.equal(Inference()(pointwise, image), pointwise(image))


@pytest.mark.parametrize("size", [(64, 64), (100, 190), (201, 97), (65, 400)])
@pytest.mark.parametrize("window", [(64, 64), (64, 100), (150, 150)])
def test_windows_of_a_pointwise_function_equal_the_whole(size, window):
    image = noise(*size)
    scores = Inference(sliding_window=window)(pointwise, image)
    torch.testing.assert_close(scores, pointwise(image).softmax(1))


@pytest.mark.parametrize(("size", "window"), [((5, 7), (1, 1)), ((1, 9), (4, 4)), ((1, 3), (1, 1)), ((4, 5), (2, 3))])
def test_windows_may_be_as_small_as_a_pixel(size, window):
    image = noise(*size)
    scores = Inference(sliding_window=window)(pointwise, image)
    torch.testing.assert_close(scores, pointwise(image).softmax(1))


def test_windows_overlap_by_a_third_and_reach_the_borders():
    starts, sizes = [], []

    def record(tile):
        starts.append((int(tile[0, 0, 0, 0]), int(tile[0, 1, 0, 0])))
        sizes.append(tuple(tile.shape[2:]))
        return tile.float()

    rows, columns = torch.meshgrid(torch.arange(100), torch.arange(250), indexing="ij")
    image = torch.stack([rows, columns, rows])[None].to(torch.uint8)
    Inference(sliding_window=(64, 96))(record, image)

    # 64 of 100 rows: two windows at 0 and 36. 96 of 250 columns: steps of at most 64, so four at 0, 51.3, 102.7, 154.
    assert starts == [(row, column) for row in (0, 36) for column in (0, 51, 103, 154)]
    assert set(sizes) == {(64, 96)}


def test_overlapping_windows_are_averaged():
    calls = iter([0.0, 1.0])

    def constant(tile):
        value = next(calls)
        return torch.tensor([value, 0.0]).view(1, 2, 1, 1).expand(1, 2, *tile.shape[2:])

    scores = Inference(sliding_window=(64, 64))(constant, noise(64, 100, 1))[0, 0, 0]

    first, second = (torch.tensor([value, 0.0]).softmax(0)[0] for value in (0.0, 1.0))
    expected = torch.cat([first.repeat(36), ((first + second) / 2).repeat(28), second.repeat(36)])
    torch.testing.assert_close(scores, expected)


def test_flip_averages_with_the_mirrored_image():
    image = noise(64, 80)
    scores = Inference(flip=True)(positional, image)

    direct = positional(image).softmax(1)
    torch.testing.assert_close(scores, (direct + direct.flip(3)) / 2)  # position is all that positional sees
    torch.testing.assert_close(Inference(flip=True)(pointwise, image), pointwise(image).softmax(1))


def test_scales_average_resized_probabilities():
    image = noise(96, 128)
    scores = Inference(scales=[0.75, 1.0, 1.5])(pointwise, image)

    expected = torch.zeros_like(scores)
    for size in ((72, 96), (96, 128), (144, 192)):
        resized = F.interpolate(image.float(), size, mode="bilinear").round()
        expected += F.interpolate(pointwise(resized).softmax(1), (96, 128), mode="bilinear") / 3
    torch.testing.assert_close(scores, expected)


def test_short_side_is_reached_with_every_pixel_counted_and_scores_come_back():
    seen = []

    def record(image):
        seen.append(image)
        return pointwise(image)

    image = torch.zeros(1, 3, 128, 192, dtype=torch.uint8)
    image[:, :, ::4] = 240  # a quarter of the rows: a mean of 60 wherever one looks
    scores = Inference(short_side=32)(record, image)
    assert seen[0].shape == (1, 3, 32, 48)
    # Triangles of 8 rows cover all rows alike, but for those at the border.
    assert (seen[0][:, :, 1:-1] == 60).all()
    assert scores.shape == (1, 4, 128, 192)
    torch.testing.assert_close(scores, F.interpolate(pointwise(seen[0]), (128, 192), mode="bilinear"))

    image = noise(96, 128)
    Inference(short_side=144, scales=[0.5])(record, image)
    larger = F.interpolate(image.float(), (144, 192), mode="bilinear").round()
    wanted = F.interpolate(larger, (72, 96), mode="bilinear").round().to(torch.uint8)
    assert torch.equal(seen[1], wanted)
    assert torch.equal(Inference(short_side=96)(pointwise, image), pointwise(image))


def test_everything_together_gives_probabilities():
    scores = Inference([0.5, 1.25], flip=True, sliding_window=[64, 80])(pointwise, noise(90, 170))
    assert scores.shape == (2, 4, 90, 170)
    torch.testing.assert_close(scores.sum(1), torch.ones(2, 90, 170))


def test_no_side_falls_below_64_pixels():
    seen = []

    def record(image):
        seen.append(tuple(image.shape[2:]))
        return pointwise(image)

    record.min_side = 64
    assert Inference([0.25, 1.0])(record, noise(80, 200)).shape == (2, 4, 80, 200)
    assert seen == [(64, 160), (80, 200)]
    seen.clear()
    assert Inference()(record, noise(10, 40)).shape == (2, 4, 10, 40)
    assert seen == [(64, 256)]
    seen.clear()
    record.divisor = 48
    assert Inference([0.25, 1.0])(record, noise(80, 200)).shape == (2, 4, 80, 200)
    assert seen == [(96, 192), (96, 240)]


def test_windows_that_the_network_does_not_take_are_refused():
    def segment(image):
        return pointwise(image)

    segment.min_side = 64
    with pytest.raises(UserError, match=r"eval\.sliding_window=\[32, 64\] is no window; .* at least 64 pixels each$"):
        Inference(sliding_window=[32, 64])(segment, noise(100, 100))
    segment.divisor = 32
    with pytest.raises(UserError, match=r"eval\.sliding_window=\[64, 100\] .* each, a multiple of 32"):
        Inference(sliding_window=[64, 100])(segment, noise(200, 200))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": []}, r"eval\.scales=\[\] is out of range"),
        ({"scales": [1.0, -0.5]}, r"eval\.scales=\[1\.0, -0\.5\] is out of range; give factors above 0"),
        ({"scales": 1.5}, r"eval\.scales=1\.5 is out of range"),
        ({"scales": ["a"]}, r"eval\.scales=\['a'\] is out of range"),
        ({"scales": (1.0, float("nan"))}, r"eval\.scales=\[1\.0, nan\] is out of range"),
        ({"scales": [float("inf")]}, r"eval\.scales=\[inf\] is out of range"),
        ({"scales": torch.ones(300)}, r"eval\.scales=tensor\(.*is out of range; give"),
        ({"scales": [1.5], "prefix": "", "sliding_window": 64}, r"^sliding_window=64 is no window; give"),
        ({"sliding_window": [64]}, r"eval\.sliding_window=\[64\] is no window"),
        ({"sliding_window": [64, 64.0]}, r"eval\.sliding_window=\[64, 64\.0\] is no window"),
        ({"short_side": 0}, r"eval\.short_side=0 is out of range; give a number of pixels"),
        ({"short_side": 1.5}, r"eval\.short_side=1\.5 is out of range"),
        ({"sliding_window": [0, 64]}, r"eval\.sliding_window=\[0, 64\] is no window"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message) as refused:
        Inference(**arguments)
    assert "\n" not in str(refused.value)


class LabelsAlone(Segmenter):
    """Knows the labels of a batch without any scores; counts how often it was asked for either."""

    labels_only = True
    min_side = 8

    def __init__(self):
        super().__init__(CITYSCAPES_CLASSES, {}, None)
        self.asked = []

    @classmethod
    def open(cls, path, device):
        raise NotImplementedError

    def labels(self, image):
        self.asked.append("labels")
        return image[:, 0] % 3

    def forward(self, image):
        self.asked.append("scores")
        return F.one_hot((image[:, 0] % 3).long(), 3).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(
    ("options", "size", "asked"),
    [
        ({}, (16, 24), ["labels"]),
        ({}, (4, 24), ["scores"]),  # enlarged for it
        ({"flip": True}, (16, 24), ["scores", "scores"]),
        ({"short_side": 16}, (16, 24), ["scores"]),
    ],
)
def test_labels_are_asked_for_where_nothing_is_done_with_scores(options, size, asked):
    segmenter, image = LabelsAlone(), noise(*size)
    inference = Inference(**options)
    labels = inference.labels(segmenter, image)
    assert segmenter.asked == asked
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, inference(segmenter, image).argmax(1).to(torch.uint8))
