"""Belief match against a plain loop over one image and one target at a time, in normalised units."""

import csv
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import nets
from pipeline.classifier import Normalise
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError
from pipeline.measure.belief import BeliefMatch, BeliefParams, match_beliefs, write_beliefs

CPU = Compute(device="cpu", precision="bfloat16", channels_last=False, compile="never")  # a precision to be ignored
CLASSES, MEAN, STD = 4, (0.3, 0.6), (0.2, 0.5)
PARAMS = BeliefParams(images=5, steps=6, step_size=2.0, stepped="student", batch=4)


class Classifier(nn.Module):
    """A network behind its normalisation, and what was asked of it."""

    def __init__(self, net: nn.Module, classes: int = CLASSES, mean=MEAN, std=STD) -> None:
        super().__init__()
        self.net, self.normalise = net, Normalise(mean, std)
        self.card = SimpleNamespace(classes=tuple(map(str, range(classes))), std=std)
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        self.calls.append((len(images), self.training, images.requires_grad and torch.is_grad_enabled()))
        return self.net(self.normalise(images))


def tiny(seed: int, classes: int = CLASSES) -> Classifier:
    """A smooth network on 2 x 3 x 3 images that is sure of itself, with layers that know a training mode."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(18, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(), nn.Linear(12, classes)
    )
    generator = torch.Generator().manual_seed(seed)
    for layer in (net[1], net[5]):
        nn.init.normal_(layer.weight, 0, 1, generator=generator)
        nn.init.normal_(layer.bias, 0, 1, generator=generator)
    nn.init.normal_(net[2].running_mean, 0, 1, generator=generator)
    return Classifier(net, classes)


def photographs(count: int, seed: int = 0, channels: int = 2, size: int = 3) -> Tensor:
    shape, generator = (count, channels, size, size), torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def match(student: nn.Module, teacher: nn.Module, images: Tensor, seed: int = 0, /, **changes: object) -> BeliefMatch:
    return match_beliefs(student, teacher, images, PARAMS.model_copy(update=changes), rng(seed), CPU)


def normalised(image: Tensor) -> np.ndarray:
    """A uint8 image [C, H, W] in normalised units."""
    shape = (-1, 1, 1)
    return (image.double().numpy() / 255 - np.array(MEAN).reshape(shape)) / np.array(STD).reshape(shape)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def logits_of(net: nn.Module, image: np.ndarray) -> np.ndarray:
    """The bare network on one normalised image, in float64."""
    return net(torch.tensor(image)[None])[0].detach().numpy()


def gradient_of(net: nn.Module, image: np.ndarray, target: int) -> np.ndarray:
    """Of the cross-entropy with the target by the normalised image: sum_k (p_k - [k = target]) d logit_k / d image."""
    jacobian = torch.autograd.functional.jacobian(lambda each: net(each[None])[0], torch.tensor(image))
    return np.tensordot(softmax(logits_of(net, image)) - np.eye(CLASSES)[target], jacobian.numpy(), 1)


def walked(student: Classifier, teacher: Classifier, images: Tensor, stepped: str = "student") -> np.ndarray:
    """p_j [image, target, step, network] on each image alone, in numpy, with steps in normalised units."""
    both = [each.net.double().eval() for each in (student, teacher)]
    found = []
    for image in images:
        start = normalised(image)
        own = int(logits_of(both[0], start).argmax())
        assert own == logits_of(both[1], start).argmax()
        for target in sorted(set(range(CLASSES)) - {own}):
            place, seen = start.copy(), []
            for _ in range(PARAMS.steps):
                seen.append([softmax(logits_of(net, place))[target] for net in both])
                place = place - PARAMS.step_size * gradient_of(both[stepped == "teacher"], place, target)
            found.append(seen)
    for net in both:
        net.float()
    return np.array(found).reshape(len(images), CLASSES - 1, PARAMS.steps, 2)


def agreeing(student: Classifier, teacher: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        named = [each.eval()(images.float() / 255).argmax(1) for each in (student, teacher)]
    return images[named[0] == named[1]]


@pytest.fixture
def pair() -> tuple[Classifier, Classifier]:
    return tiny(1), tiny(2)


@pytest.mark.parametrize("stepped", ["student", "teacher"])
def test_it_equals_a_plain_loop_over_one_image_and_one_target_at_a_time(pair, stepped):
    images = agreeing(*pair, photographs(30))[:5]
    beliefs = walked(*pair, images, stepped)
    assert len(images) == 5
    assert np.ptp(beliefs.mean((0, 1))[:, int(stepped == "teacher")]) > 0.5  # the walk arrives somewhere
    found = match(*pair, images, stepped=stepped)
    assert found.images == 5
    assert found.mte == pytest.approx(np.abs(beliefs[..., 0] - beliefs[..., 1]).mean(), rel=1e-4)
    flat = beliefs.reshape(-1, PARAMS.steps, 2)
    errors = flat.std(0, ddof=1) / np.sqrt(len(flat))
    curves = ((found.student, found.student_se), (found.teacher, found.teacher_se))
    for network, (mean, error) in enumerate(curves):
        np.testing.assert_allclose(mean, flat.mean(0)[:, network], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(error, errors[:, network], rtol=1e-3, atol=1e-5)


def test_following_the_other_networks_gradient_makes_that_one_arrive_first(pair):
    images = photographs(40)
    mine, theirs = match(*pair, images), match(*pair, images, stepped="teacher")
    assert mine.student[-1] > mine.teacher[-1]
    assert theirs.teacher[-1] > theirs.student[-1]
    swapped = match(*reversed(pair), images, stepped="student")
    torch.testing.assert_close(theirs.teacher, swapped.student)
    assert theirs.mte == pytest.approx(swapped.mte)


def test_the_first_entry_of_the_curves_is_of_the_images_as_they_are(pair):
    images = agreeing(*pair, photographs(30))[:5]
    single = match(*pair, images, steps=1)
    for net, curve in zip(pair, (single.student, single.teacher), strict=True):
        with torch.no_grad():
            beliefs = net(images.float() / 255).softmax(1)
        others = 1 - beliefs.amax(1)  # all targets together
        assert float(curve[0]) == pytest.approx(float(others.mean()) / (CLASSES - 1), rel=1e-4)


@pytest.mark.parametrize("layout", [False, True])
@pytest.mark.parametrize("arch", ["lenet5", "lenet5_bn", "resnet8"])
def test_the_error_of_two_equal_networks_is_exactly_zero(arch, layout):
    one, other = (Classifier(nets.build(arch, 10, 3, 16, rng=rng(3)), 10, (0.5,) * 3, (0.25,) * 3) for _ in range(2))
    params = PARAMS.model_copy(update={"batch": 7, "step_size": 20.0})
    compute = CPU.model_copy(update={"channels_last": layout})
    found = match_beliefs(one, other, photographs(3, channels=3, size=16), params, rng(), compute)
    assert found.images == 3
    assert found.mte == 0.0
    assert torch.equal(found.student, found.teacher)
    assert float(found.student[-1]) > 1.1 * float(found.student[0])
    assert match_beliefs(one, one, photographs(3, channels=3, size=16), params, rng(), compute).mte == 0.0


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_batch_is_a_matter_of_speed_alone(pair, batch):
    expected, found = match(*pair, photographs(40)), match(*pair, photographs(40), batch=batch)
    assert found.mte == pytest.approx(expected.mte, rel=1e-5)
    for name in ("student", "student_se", "teacher", "teacher_se"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-6)


def test_units_are_those_of_the_teachers_normalisation_channel_by_channel(pair):
    """Networks that see (x - mean) / std, and the same networks fed with normalised images, take the same steps."""
    student, teacher = pair
    images = agreeing(student, teacher, photographs(30))[:5]
    neutral = [Classifier(each.net, mean=(0.0, 0.0), std=(1.0, 1.0)) for each in pair]
    shape = (1, -1, 1, 1)
    plain = (images.float() / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    in_pixels, in_units = match(student, teacher, images), match(*neutral, plain)
    assert in_pixels.mte == pytest.approx(in_units.mte, rel=1e-4)
    torch.testing.assert_close(in_pixels.student, in_units.student, rtol=1e-3, atol=1e-5)
    teacher.card.std = (1.0, 1.0)
    assert match(student, teacher, images).mte != pytest.approx(in_units.mte, rel=1e-2)


def test_floats_in_unit_range_are_the_same_images(pair):
    images = photographs(20)
    assert match(*pair, images).mte == match(*pair, images.float() / 255).mte


def test_images_start_where_both_name_the_same_class_and_are_enough_or_all_there_are(pair):
    images = photographs(40)
    agreed = agreeing(*pair, images)
    assert 5 < len(agreed) < 40
    assert match(*pair, images).images == 5
    everything = match(*pair, images, images=1000)
    assert everything.images == len(agreed)
    assert everything.mte == pytest.approx(match(*pair, agreed, images=1000).mte, rel=1e-5)


def test_which_images_is_decided_by_the_generator_among_those_that_agree():
    """An image's first belief tells which it is: every agreeing image is chosen about equally often, and no other."""
    student, teacher = tiny(1), tiny(2)
    agreed, seen = agreeing(student, teacher, photographs(12)), dict[float, int]()
    first = {round(float(match(student, teacher, each[None], steps=1).teacher[0]), 5) for each in agreed}
    for seed in range(120):
        found = match(student, teacher, photographs(12), seed, images=1, steps=1)
        key = round(float(found.teacher[0]), 5)
        seen[key] = seen.get(key, 0) + 1
    assert len(first) == len(agreed) >= 3
    assert set(seen) == first
    assert min(seen.values()) > 120 / len(first) / 3
    assert match(student, teacher, photographs(12), 1).mte == match(student, teacher, photographs(12), 1).mte


def test_looking_for_images_stops_when_there_are_enough():
    student = tiny(1)
    match(student, tiny(1), photographs(400), steps=1, images=4, batch=50)
    # One look at 50 images, then one step of 4 x 3 pairs.
    assert [count for count, _, _ in student.calls] == [50, 12]


def test_where_the_two_never_agree_there_is_no_match(pair):
    student, teacher = pair
    nn.init.zeros_(teacher.net[5].weight), nn.init.zeros_(student.net[5].weight)
    student.net[5].bias.data, teacher.net[5].bias.data = torch.eye(CLASSES)[0], torch.eye(CLASSES)[1]
    assert match(student, teacher, photographs(20)) is None


def test_a_pair_costs_one_pass_and_one_gradient_of_the_stepped_network_and_one_pass_of_the_other(pair):
    match(*pair, agreeing(*pair, photographs(30))[:2], images=2, batch=6)
    (looked, *mine), (_, *theirs) = (each.calls[-7:] for each in pair)
    assert looked == (2, False, False)
    assert mine == [(6, False, True)] * PARAMS.steps
    assert theirs == [(6, False, False)] * PARAMS.steps


def test_networks_images_and_global_generators_are_left_as_they_were(pair):
    for net, training in zip(pair, (True, False), strict=True):
        net.train(training)
        net.net[2].eval()
        net.net[1].weight.requires_grad_(False)

    def state() -> list[object]:
        return [
            [(module.training, len(module._forward_hooks)) for net in pair for module in net.modules()],
            [(value.requires_grad, value.grad is None) for net in pair for value in net.parameters()],
            [value.tolist() for net in pair for value in net.state_dict().values()],
            images.tolist(),
            torch.get_rng_state().tolist(),
            repr(np.random.get_state()),  # noqa: NPY002 - the global state is what must not change
        ]

    images = torch.rand(20, 2, 3, 3, generator=rng())
    before = state()
    assert match(*pair, images).mte > 0
    assert state() == before
    with pytest.raises(ParamsError):
        match(*pair, images * float("nan"))
    assert state() == before


def test_it_works_where_gradients_are_switched_off(pair):
    expected = match(*pair, photographs(20)).mte
    with torch.no_grad():
        assert match(*pair, photographs(20)).mte == expected


def test_steps_that_leave_what_numbers_can_hold_are_an_error_that_names_the_key():
    class Square(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :CLASSES].square()

    with pytest.raises(
        ParamsError, match=r"evaluate\.belief\.step_size: 1e\+30: beliefs are no longer finite; take smaller steps"
    ):
        match(Classifier(Square()), Classifier(Square()), photographs(9), step_size=1e30)


@pytest.mark.parametrize(
    ("key", "value"), [("images", 0), ("steps", 0), ("step_size", 0.0), ("stepped", "both"), ("batch", 0)]
)
def test_settings_that_make_no_sense_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        BeliefParams(**{**PARAMS.model_dump(), key: value})


def test_the_curves_survive_the_disk_and_the_header_is_there_without_any(pair, tmp_path):
    found = match(*pair, photographs(20))
    path = tmp_path / "belief" / "cell.csv"
    write_beliefs(found, path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(PARAMS.steps))
    for row, name in itertools.product(rows, ("student", "student_se", "teacher", "teacher_se")):
        assert float(row[name]) == float(getattr(found, name)[int(row["step"])])
    write_beliefs(None, path)
    assert path.read_bytes() == b"step,student,student_se,teacher,teacher_se\n"
