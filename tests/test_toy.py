import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import toy
from benchmarks.toy import SPAN

ROUNDS = 60  # of 300


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return toy.spirals(0)


@pytest.fixture(scope="module")
def teacher(data) -> nn.Module:
    return toy.fit(*data, 0)


def divergence(student: nn.Module, teacher: nn.Module, points: Tensor) -> float:
    """Mean of KL(teacher || student), from the definition."""
    with torch.no_grad():
        p, q = (net(points).double().softmax(1).numpy() for net in (teacher, student))
    return float((p * np.log(p / q)).sum(1).mean())


def linear(weights: list[list[float]]) -> nn.Module:
    net = nn.Linear(2, 3, bias=False)
    net.weight.data = torch.tensor(weights, dtype=torch.float32)
    return net


def test_a_student_of_wandering_points_comes_to_agree_with_its_teacher_and_one_of_resting_points_does_not(
    teacher, data
):
    motions = ("wander", "stay")
    students = {motion: toy.play(teacher, 0, motion, ROUNDS, (0, ROUNDS))[-1].student for motion in motions}
    wandered, stayed = (toy.agreement(students[motion], teacher, toy.grid(60)) for motion in motions)
    assert wandered > 90
    assert wandered > stayed + 10
    wandered, stayed = (toy.agreement(students[motion], teacher, data[0]) for motion in motions)
    assert wandered > stayed + 20


def test_the_teacher_knows_its_data_and_is_frozen(teacher, data):
    points, labels = data
    assert float((teacher(points).argmax(1) == labels).float().mean()) > 0.99
    before = [parameter.clone() for parameter in teacher.parameters()]
    toy.play(teacher, 0, "wander", 3, ())
    for parameter, old in zip(teacher.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


def test_in_a_round_the_points_climb_the_divergence_and_the_student_descends_it(teacher):
    start, end = toy.play(teacher, 0, "wander", 1, (0, 1))
    climbed = divergence(start.student, teacher, end.points)
    assert climbed > divergence(start.student, teacher, start.points)
    assert divergence(end.student, teacher, end.points) < climbed


def test_points_start_outside_the_data_and_stay_within_the_plane(teacher, data):
    start, end = toy.play(teacher, 0, "wander", ROUNDS, (0, ROUNDS))
    assert start.points.norm(dim=1).min() > data[0].norm(dim=1).max()
    assert end.points.abs().max() <= SPAN
    assert not torch.equal(start.points, end.points)


def test_another_seed_is_another_problem_and_another_game(teacher, data):
    assert not torch.equal(toy.spirals(1)[0], data[0])
    (one,), (other,) = (toy.play(teacher, seed, "wander", 1, (1,)) for seed in (0, 1))
    assert not torch.equal(one.points, other.points)
    assert not torch.equal(one.student[0].weight, other.student[0].weight)


def test_the_controls_rest_or_are_strewn_and_begin_like_the_method(teacher):
    starts = {motion: toy.play(teacher, 0, motion, 2, (0, 1, 2)) for motion in ("wander", "stay", "anew")}
    for frames in starts.values():
        assert torch.equal(frames[0].points, starts["wander"][0].points)
        for ours, theirs in zip(frames[0].student.parameters(), starts["wander"][0].student.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(starts["stay"][0].points, starts["stay"][2].points)
    assert not torch.equal(starts["anew"][1].points, starts["anew"][2].points)
    assert starts["anew"][2].points.norm(dim=1).min() < 1  # among the data too


def test_agreement_is_the_share_of_equal_classes():
    ours, theirs = linear([[1, 0], [-1, 0], [0, 0]]), linear([[0, 1], [0, -1], [0, 0]])
    points = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [1.0, -2.0], [2.0, 1.0]])
    assert toy.agreement(ours, theirs, points) == 50
    assert toy.agreement(ours, ours, points) == 100


@pytest.mark.slow
def test_equal_seeds_give_equal_bytes_and_pictures_of_the_promised_size():
    torch.manual_seed(1)
    png, gif = toy.pictures(0, 30)
    torch.manual_seed(2)
    assert toy.pictures(0, 30) == (png, gif)
    sheet, film = Image.open(io.BytesIO(png)), Image.open(io.BytesIO(gif))
    assert sheet.width == 1500
    assert sheet.height < 320
    assert film.n_frames > 10
    assert film.size == (348, 364)
    assert film.info["loop"] == 0
    assert film.convert("RGB").getpixel((0, 0)) == sheet.getpixel((0, 0)) == (255, 255, 255)


def test_the_grid_begins_at_the_top_left_and_lies_in_the_middle_of_the_pixels():
    corners = toy.grid(3)[[0, 2, 4, 6]]
    assert torch.allclose(corners, torch.tensor([[-1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [-1.0, -1.0]]))


def test_regions_have_the_place_of_their_class_and_boundaries_are_lines_between_them():
    above_or_below = linear([[0, 1], [0, -1], [0, 0]])  # the third is never the largest
    picture = toy.regions(above_or_below, 40)
    pixels = np.asarray(picture)
    assert (pixels[:19] == pixels[0, 0]).all()
    assert (pixels[21:] == pixels[-1, 0]).all()
    assert (pixels[0, 0] != pixels[-1, 0]).any()

    lined = np.asarray(toy.boundaries(picture, linear([[3, 0], [-3, 0], [0, 0]])))
    dark = lined.max(2) < 100
    assert dark[:, 19:21].all()
    assert not dark[:, :18].any()
    assert not dark[:, 22:].any()


def test_dots_lie_where_their_points_are_in_the_colour_of_their_class():
    blank = Image.new("RGB", (60, 60), (255, 255, 255))
    points = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    marked = np.asarray(toy.crowd(blank, points, torch.tensor([0, 1]), radius=5))
    assert {tuple(place) for place in np.argwhere((marked[::10, ::10] != 255).any(2))} == {(1, 1), (5, 5)}
    assert (marked[10, 10] != marked[50, 50]).any()
    pseudo = np.asarray(toy.crowd(blank, points, None, radius=5))
    assert (pseudo[10, 10] == pseudo[50, 50]).all()
    assert (np.asarray(blank) == 255).all()
