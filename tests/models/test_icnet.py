import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from icnet.errors import UserError
from icnet.models.backbone import BLOCKS
from icnet.models.icnet import ICNet
from icnet.models.modules import ImageNormalizer
from icnet.models.pooling import PyramidPooling, pooling_factors
from icnet.models.published import from_reference
from tests.models.conftest import stretch


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same_network(reference: nn.Module, depth: str, classes: int = 19) -> ICNet:
    """Our network with the reference's weights."""
    net = ICNet(classes, depth)
    net.load_state_dict(from_reference(reference.state_dict()), strict=True)
    return net


@pytest.fixture
def small_net():
    torch.manual_seed(0)
    return ICNet(5, "resnet18")


# ---------------------------------------------------------------- against the reference network


@pytest.mark.parametrize(
    ("depth", "size"),
    [
        ("resnet18", (128, 256)),
        ("resnet18", (97, 161)),
        ("resnet34", (64, 128)),
        ("resnet50", (128, 256)),
        ("resnet50", (97, 161)),
    ],
)
def test_logits_equal_the_reference(make_reference, depth, size):
    reference = make_reference(depth).eval()
    net = same_network(reference, depth).eval().double()
    image = noise(2, 3, *size)
    with torch.no_grad():
        logits = net(image)
        wanted = reference.double()(image)["full"]
    assert logits.shape == (2, 19, *size)
    assert wanted.std() > 0.05  # logits near zero would prove nothing
    torch.testing.assert_close(logits, wanted, atol=1e-9, rtol=1e-9)


def test_quarter_branch_of_features_begins_with_the_half_branchs_at_half_their_size(make_reference):
    reference = make_reference("resnet18").eval()
    net = ICNet(19, "resnet18", "features")
    net.load_state_dict(from_reference(reference.state_dict()), strict=True)
    net, reference = net.eval().double(), reference.double()
    image = noise(2, 3, 130, 193)
    with torch.no_grad():
        middle, _ = reference.pretrained(stretch(image, (65, 96)))
        assert middle.shape[2:] == (9, 12)
        top = reference.pretrained.layer4(reference.pretrained.layer3(stretch(middle, (4, 6))))
        pooled = [stretch(F.adaptive_avg_pool2d(top, bins), (4, 6)) for bins in (1, 2, 3, 6)]
        quarter, _, _ = reference.head(reference.conv_sub1(image), middle, top + sum(pooled))
        torch.testing.assert_close(net(image), stretch(quarter, (130, 193)), atol=1e-9, rtol=1e-9)
    options = {"backbone": "resnet18", "quarter_branch": "features", "enlarge": 1}
    assert ICNet.title("icnet", options) == "icnet_resnet18_features"


def test_enlarged_images_give_the_logits_of_twice_the_size_at_their_own(make_reference):
    reference = make_reference("resnet18").double()
    net = ICNet(19, "resnet18", enlarge=2)
    net.load_state_dict(from_reference(reference.state_dict()), strict=True)
    net, image = net.double(), noise(2, 3, 64, 97)
    large = stretch(image, (128, 194))
    with torch.no_grad():
        logits, wanted = net.eval()(image), reference.eval()(large)["sub124"]
    torch.testing.assert_close(logits, stretch(wanted, (64, 97)), atol=1e-9, rtol=1e-9)
    training, wanted = net.train()(image), reference.train()(large)
    for name in ("sub124", "sub24", "sub4"):
        torch.testing.assert_close(training[name], wanted[name], atol=1e-9, rtol=1e-9)
    options = {"backbone": "resnet18", "quarter_branch": "image", "enlarge": 2}
    assert ICNet.title("icnet", options) == "icnet_resnet18_x2"


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["resnet101", "resnet152"])
def test_logits_of_deep_networks_equal_the_reference(make_reference, depth):
    # More of resnet50's layers, whose arithmetic is compared above: in float32 and at the smallest size.
    reference = make_reference(depth).eval()
    net = same_network(reference, depth).eval()
    image = noise(1, 3, 64, 64, dtype=torch.float32)
    with torch.inference_mode():
        logits, wanted = net(image), reference(image)["full"]
    assert wanted.std() > 0.05
    torch.testing.assert_close(logits, wanted, atol=1e-4 * wanted.abs().max().item(), rtol=0)


def test_logits_of_a_large_image_equal_the_reference_in_float32(make_reference):
    reference = make_reference("resnet50").eval()
    net = same_network(reference, "resnet50").eval()
    image = noise(1, 3, 256, 512, dtype=torch.float32)
    with torch.inference_mode():
        logits = net(image)
        quarter = reference(image)["sub124"]
        # The base enlarges by a factor; for sides divisible by 8 that is the image's size.
        wanted = F.interpolate(quarter, scale_factor=4.0, mode="bilinear", align_corners=True)
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("depth", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_training_outputs_and_gradients_equal_the_reference(make_reference, depth):
    reference = make_reference(depth).train()
    net = same_network(reference, depth).train().double()
    reference.double()
    image = noise(2, 3, 64, 96)
    ours, theirs = net(image), reference(image)
    assert set(ours) == {"sub124", "sub24", "sub4"}
    assert [tuple(ours[name].shape[2:]) for name in ("sub124", "sub24", "sub4")] == [(16, 24), (8, 12), (4, 6)]
    loss = reference_loss = torch.zeros((), dtype=torch.float64)
    for seed, name in enumerate(ours, start=1):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-8, rtol=1e-8)
        direction = noise(*ours[name].shape, seed=seed)
        loss = loss + (ours[name] * direction).sum()
        reference_loss = reference_loss + (theirs[name] * direction).sum()
    loss.backward()
    reference_loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if not name.startswith("pretrained.fc.")}
    gradients = from_reference(gradients)
    for name, parameter in net.named_parameters():
        scale = gradients[name].abs().max()
        assert scale > 0, name
        torch.testing.assert_close(parameter.grad / scale, gradients[name] / scale, atol=1e-6, rtol=0, msg=name)


def test_running_statistics_count_each_branch_once_where_the_reference_counts_the_discarded_pass(make_reference):
    reference = make_reference("resnet18").train()
    net = same_network(reference, "resnet18").train().double()
    reference.double()
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    last_input = {}
    for name, module in reference.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, args, name=name: last_input.__setitem__(name, args[0].detach()))
    image = noise(2, 3, 96, 128)
    with torch.no_grad():
        net(image)
        reference(image)
    ours, theirs = net.state_dict(), from_reference(reference.state_dict())
    names = from_reference({f"{name}.x": torch.tensor(0) for name in last_input})
    deep = 0
    for reference_name, our_name in zip(last_input, (name.removesuffix(".x") for name in names), strict=True):
        key, counter = f"{our_name}.running_mean", f"{our_name}.num_batches_tracked"
        if reference_name.startswith(("pretrained.layer3", "pretrained.layer4")):
            # The last call was the quarter image's: one exponential step (momentum 0.1) from the statistics before.
            x = last_input[reference_name]
            mean = 0.9 * before[f"{reference_name}.running_mean"] + 0.1 * x.mean((0, 2, 3))
            var = 0.9 * before[f"{reference_name}.running_var"] + 0.1 * x.var((0, 2, 3), unbiased=True)
            torch.testing.assert_close(ours[key], mean)
            torch.testing.assert_close(ours[f"{our_name}.running_var"], var)
            assert not torch.allclose(theirs[key], mean)
            assert (ours[counter], theirs[counter]) == (1, 2)
            deep += 1
        else:
            torch.testing.assert_close(ours[key], theirs[key])
            assert ours[counter] == theirs[counter]
    assert deep == 10  # 2 layers of 2 blocks of 2, and a shortcut in each layer


def test_layers_three_and_four_see_only_the_quarter_image(small_net):
    seen = {"layer2": [], "layer3": [], "layer4": []}
    for name, sizes in seen.items():
        getattr(small_net.backbone, name).register_forward_pre_hook(
            lambda _, args, sizes=sizes: sizes.append(tuple(args[0].shape[2:]))
        )
    with torch.no_grad():
        small_net.eval()(noise(1, 3, 128, 256, dtype=torch.float32))
    # layer2 works on 1/4 of the half and the quarter image, layer3 and layer4 on 1/8 of the quarter image.
    assert seen == {"layer2": [(16, 32), (8, 16)], "layer3": [(4, 8)], "layer4": [(4, 8)]}


def test_convolutions_of_a_full_image_take_228_instead_of_589_billion_operations(make_reference):
    reference = make_reference("resnet50").eval().to("meta")
    with torch.device("meta"):
        net = ICNet(19, "resnet50").eval()
    convolutions, everything = [], []
    for network in (net, reference):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, 1024, 2048, device="meta"))
        convolutions.append(counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 1e9)
        everything.append(counter.get_total_flops() / 1e9)
    # 228.06 is the base without the discarded layers; classifying at 1/8 instead of 1/4 takes 2 * 128 * 19 operations
    # off 3/4 of the 256 * 512 positions there.
    saved = 2 * 128 * 19 * 256 * 512 * 3 / 4 / 1e9
    assert convolutions == pytest.approx([228.06 - saved, 589.04], abs=0.01)
    assert everything[0] < 232  # pooling as matrix products costs little


def test_all_377_tensors_of_the_reference_map_one_to_one(make_reference):
    state_dict = make_reference("resnet50").state_dict()
    assert len(state_dict) == 377
    net = ICNet(19, "resnet50").state_dict()
    translated = from_reference(state_dict)
    assert len(translated) == 375  # all but the two of the unused fc
    assert {name: value.shape for name, value in translated.items()} == {
        name: value.shape for name, value in net.items()
    }
    sources = {value.data_ptr() for value in translated.values()}
    assert len(sources) == 375


def test_the_reference_counts_28_million_parameters(make_reference):
    # Holds the reference network itself to the published figure (with the fc).
    assert sum(p.numel() for p in make_reference("resnet50").parameters()) == pytest.approx(28.3e6, abs=0.05e6)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [(64, 64), (65, 127), (100, 200), (127, 65), (333, 219), (64, 401)])
def test_logits_have_the_size_of_the_image(small_net, size):
    with torch.no_grad():
        assert small_net.eval()(noise(1, 3, *size, dtype=torch.float32)).shape == (1, 5, *size)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(63, 64), (64, 63), (1, 2048)])
def test_images_below_64_pixels_are_refused(small_net, size, training):
    small_net.train(training)
    with pytest.raises(UserError, match=rf"{size[0]}x{size[1]} .*64x64") as caught:
        small_net(torch.zeros(1, 3, *size))
    assert "\n" not in str(caught.value)


def test_training_on_one_smallest_image_gives_finite_outputs(small_net):
    outputs = small_net.train()(noise(1, 3, 64, 64, dtype=torch.float32))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "sub124": (1, 5, 16, 16),
        "sub24": (1, 5, 8, 8),
        "sub4": (1, 5, 4, 4),
    }
    assert all(value.isfinite().all() for value in outputs.values())


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("depth", BLOCKS)
def test_every_parameter_gets_a_gradient_in_training(depth):
    torch.manual_seed(0)
    net = ICNet(5, depth).train()
    outputs = net(noise(1, 3, 64, 64, dtype=torch.float32))
    sum(value.square().mean() for value in outputs.values()).backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None]
    assert unused == []


def test_backbone_and_head_parameters_split_the_network(small_net):
    names = {id(p): name for name, p in small_net.named_parameters()}
    backbone = [names[id(p)] for p in small_net.backbone_parameters()]
    head = [names[id(p)] for p in small_net.head_parameters()]
    assert sorted(backbone + head) == sorted(names.values())
    assert all(name.startswith("backbone.") for name in backbone)
    assert {name.split(".")[0] for name in head} == {"sub1", "cff_24", "cff_12", "classifier"}


# ---------------------------------------------------------------- layouts and modes


def test_channels_last_gives_the_same_logits(make_reference):
    net = same_network(make_reference("resnet18"), "resnet18").eval()
    image = noise(2, 3, 96, 160, dtype=torch.float32)
    with torch.no_grad():
        wanted = net(image)
        for network in (net, copy.deepcopy(net).to(memory_format=torch.channels_last)):
            logits = network(image.contiguous(memory_format=torch.channels_last))
            torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)


def test_training_works_after_repeated_evaluation_in_inference_mode(small_net):
    image = noise(1, 3, 64, 96, dtype=torch.float32)
    with torch.inference_mode():
        first = small_net.eval()(image)
        assert torch.equal(first, small_net(image))
    outputs = small_net.train()(image)
    sum(value.mean() for value in outputs.values()).backward()
    assert small_net.backbone.layer4[0].conv1.weight.grad.abs().sum() > 0


# ---------------------------------------------------------------- pyramid pooling


def pooled_plainly(x: Tensor, bins: tuple[int, ...]) -> Tensor:
    parts = [F.interpolate(F.adaptive_avg_pool2d(x, b), x.shape[2:], mode="bilinear", align_corners=True) for b in bins]
    return x + sum(parts)


@pytest.mark.parametrize(
    "size", [(32, 64), (30, 30), (1, 1), (1, 7), (9, 1), (2, 3), (5, 6), (7, 13), (12, 25), (17, 32), (4, 101)]
)
@pytest.mark.parametrize("bins", [(1, 2, 3, 6), (4, 5)])
def test_pyramid_pooling_equals_adaptive_pooling(size, bins):
    x = noise(2, 3, *size)
    torch.testing.assert_close(PyramidPooling(bins)(x), pooled_plainly(x, bins), atol=1e-12, rtol=0)


def test_pyramid_pooling_has_the_gradient_of_adaptive_pooling():
    x = noise(1, 2, 7, 11).requires_grad_()
    direction = noise(1, 2, 7, 11, seed=1)
    ours, theirs = (
        torch.autograd.grad((out * direction).sum(), x)[0]
        for out in (PyramidPooling()(x), pooled_plainly(x, (1, 2, 3, 6)))
    )
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_pooling_factors_equal_hand_worked_values():
    # 3 values in 2 bins: the bins average values 0-1 and 1-2 and are looked at in positions 0, 1/2 and 1.
    pool, spread = pooling_factors(3, 2)
    assert (spread @ pool).tolist() == [[0.5, 0.5, 0], [0.25, 0.5, 0.25], [0, 0.5, 0.5]]
    # 2 values in 3 bins: the bins hold value 0, the mean of both, value 1; the two outputs look at the outer ones.
    pool, spread = pooling_factors(2, 3)
    assert (spread @ pool).tolist() == [[1, 0], [0, 1]]


def test_pooling_cache_does_not_mix_dtypes_and_sizes():
    pooling = PyramidPooling()
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.2)):
        for size in ((8, 12), (12, 8), (8, 8), (8, 12)):
            x = noise(1, 2, *size)
            out = pooling(x.to(dtype))
            assert out.dtype == dtype
            torch.testing.assert_close(out.double(), pooled_plainly(x, (1, 2, 3, 6)), atol=tolerance, rtol=0)


def test_pooling_cache_stays_small_over_many_sizes():
    pooling = PyramidPooling()
    for side in range(4, 60):
        x = noise(1, 1, side, side + 1)
        torch.testing.assert_close(pooling(x), pooled_plainly(x, (1, 2, 3, 6)), atol=1e-12, rtol=0)
        assert len(pooling._cache) <= 16
    assert not pooling.state_dict()


# ---------------------------------------------------------------- normalisation


def test_normalizer_gives_hand_worked_values():
    image = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    # (0/255 - 0.485) / 0.229, (128/255 - 0.456) / 0.224, (255/255 - 0.406) / 0.225
    wanted = torch.tensor([-2.117904, 0.205182, 2.640000]).view(1, 3, 1, 1)
    out = ImageNormalizer()(image)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=0)
