"""The last step on a few real images of each class."""

import json

import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ParamsError, TrainingError
from pipeline.distill import Student, few_shot_of, finish, train
from pipeline.distill.few_shot import draw
from pipeline.distill.train import learn
from pipeline.training import loop


@pytest.fixture
def real(tmp_path, write, digits, kernel_teacher):
    """200 digits with their true classes in uneven shards, 20 held out."""
    images = digits.images[1000:1220]
    dataset = write(
        tmp_path / "real", images, kernel_teacher(images), digits.labels[1000:1220], (90, 60, 40, 10), (20,)
    )
    dataset.manifest = dataset.manifest.model_copy(update={"data_free": False, "method": "real"})
    return dataset


@pytest.fixture
def start(tmp_path, small_set, params, cpu) -> Student:
    """A student of the small set, saved, so that its card is whole."""
    (tmp_path / "first").mkdir()
    student, _ = train(small_set, "lenet5_half", params(), 5, cpu, tmp_path / "first")
    student.save(tmp_path / "start")
    return Student.load(tmp_path / "start")


def keys(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def weights(student: Student) -> Tensor:
    return torch.cat([value.double().flatten() for value in student.state_dict().values()])


@pytest.mark.parametrize("per_class", [1, 3, 12])
def test_exactly_so_many_different_images_of_each_class_are_drawn_with_their_own_rows(real, per_class):
    drawn = draw(real, per_class, 0)
    assert drawn.cls.tolist() == [index for index in range(10) for _ in range(per_class)]
    stored = real.load("train")
    place = {key: index for index, key in enumerate(keys(stored.images))}
    places = [place[key] for key in keys(drawn.images)]
    assert len(set(places)) == 10 * per_class
    assert torch.equal(stored.cls[places], drawn.cls)
    assert torch.equal(stored.logits[places], drawn.logits)


def test_the_draw_is_the_seed_s_and_leaves_torch_s_generator_alone(real):
    state = torch.get_rng_state()
    first, again, other = (keys(draw(real, 2, seed).images) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first != other


def test_fewer_images_of_a_class_are_the_first_of_more(real):
    few, more = draw(real, 2, 0), draw(real, 5, 0)
    assert keys(few.images) == [key for index, key in enumerate(keys(more.images)) if index % 5 < 2]


def test_every_image_of_a_class_is_equally_likely_wherever_its_shard_is(real):
    stored = real.load("train")
    ours = (stored.cls == 3).nonzero().flatten().tolist()
    place = {key: index for index, key in enumerate(keys(stored.images))}
    draws = 400
    counts = dict.fromkeys(ours, 0)
    for seed in range(draws):
        samples = draw(real, 2, seed)
        for key in keys(samples.images[samples.cls == 3]):
            counts[place[key]] += 1
    expected = 2 * draws / len(ours)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 3 * len(ours), "mean of a chi-square variable: its degrees of freedom"


def test_a_class_with_too_few_images_is_named_with_how_many_it_has(real):
    scarce = min(range(10), key=lambda index: real.manifest.class_histogram[index])
    has = real.manifest.class_histogram[scarce]
    draw(real, has, 0)
    with pytest.raises(
        ParamsError,
        match=rf"few_shot\.per_class: {has + 1}: .*has {has} images of class '{scarce}'.*methods\.real\.count",
    ):
        draw(real, has + 1, 0)


def test_the_student_is_trained_from_its_weights_on_the_drawn_images_alone(
    tmp_path, real, start, params, cpu, monkeypatch
):
    before, seen = weights(start), []

    def watched(student, feed, *rest):
        torch.testing.assert_close(weights(student), before)
        monkeypatch.setattr(feed, "batches", lambda *a, f=feed.batches: (seen.append(x[0]) or x for x in f(*a)))
        return learn(student, feed, *rest)

    monkeypatch.setattr("pipeline.distill.few_shot.learn", watched)
    block = params(labels="target", batch=20, epochs=1, steps_per_epoch=3)
    student, history = finish(start, real, 2, block, cpu, tmp_path)
    drawn = {tuple(image.flatten().tolist()) for image in draw(real, 2, 5).images.float() / 255}
    assert {tuple(image.flatten().tolist()) for image in torch.cat(seen)} == drawn
    assert not torch.equal(weights(student), before)
    assert list(history[0]) == ["epoch", "loss", "agreement", "learning_rate", "holdout_kl", "holdout_agreement"]


def test_a_student_of_noise_learns_digits_from_a_few_of_them(tmp_path, write, digits, kernel_teacher, params, cpu):
    noise = torch.randint(0, 256, (100, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (tmp_path / "work").mkdir()
    first = write(tmp_path / "noise", noise, kernel_teacher(noise), torch.arange(100) % 10, (100,))
    student, _ = train(first, "lenet5_half", params(epochs=1), 0, cpu, tmp_path / "work")

    def accuracy() -> float:
        with torch.no_grad():
            return float((student(digits.images[1000:].float() / 255).argmax(1) == digits.labels[1000:]).float().mean())

    before = accuracy()
    images, labels = digits.images[:1000], digits.labels[:1000]
    real = write(tmp_path / "real", images, kernel_teacher(images), labels, (1000,))
    block = params(labels="target", batch=50, epochs=2, steps_per_epoch=40, learning_rate=0.005)
    student, _ = finish(student, real, 10, block, cpu, tmp_path / "work")
    assert before < 0.4
    assert accuracy() > 0.6


def test_the_card_says_what_happened(tmp_path, real, start, params, cpu):
    before = start.info
    student, _ = finish(start, real, 2, params(labels="target", epochs=1), cpu, tmp_path)
    student.save(tmp_path / "finished")
    info = Student.load(tmp_path / "finished").info
    assert before.data_free
    assert not info.data_free
    assert json.loads((tmp_path / "finished" / "card.json").read_text())["few_shot"] == {
        "start": before.sha256, "dataset": real.sha256, "per_class": 2, "labels": "target",
    }  # fmt: skip
    same = {"data_free", "few_shot", "sha256"}
    assert info.model_dump(exclude=same) == before.model_dump(exclude=same)


class _Pulled(Exception):
    """The plug was pulled."""


def test_killed_and_called_again_it_ends_with_the_same_bits(tmp_path, real, start, params, cpu, monkeypatch):
    block = params(labels="target", mixup=0.3, augment=params().augment.model_dump() | {"rotate": 10.0})
    folders = [tmp_path / name for name in ("calm", "broken")]
    for folder in folders:
        folder.mkdir()
    whole, history = finish(Student.load(tmp_path / "start"), real, 3, block, cpu, folders[0])
    epochs = []

    def pulled(point: str) -> None:
        epochs.append(point)
        if len(epochs) == 2:
            raise _Pulled

    monkeypatch.setattr(loop, "crash_point", pulled)
    with pytest.raises(_Pulled):
        finish(start, real, 3, block, cpu, folders[1])
    resumed, rows = finish(Student.load(tmp_path / "start"), real, 3, block, cpu, folders[1])
    assert epochs == ["training:epoch"] * 3, "one more epoch, not three"
    assert rows == history
    assert torch.equal(weights(resumed), weights(whole))


def test_another_number_of_images_does_not_take_up_a_checkpoint(tmp_path, real, start, params, cpu):
    block = params(labels="target", epochs=1)
    ends = []
    for per_class in (2, 2, 3):
        student, _ = finish(Student.load(tmp_path / "start"), real, per_class, block, cpu, tmp_path)
        ends.append(weights(student))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_teacher_may_label_the_real_images_live_with_every_term(tmp_path, real, start, params, cpu, teacher):
    terms = {
        "attention": {"weight": 1.0, "blocks": "auto"},
        "interpolation": {"weight": 1.0, "alpha": 1.0, "labels": "teacher"},
    }
    _, history = finish(start, real, 2, params(labels="live", epochs=1, **terms), cpu, tmp_path, teacher)
    assert history[0]["attention"] > 0
    assert history[0]["interpolation"] > 0


def test_live_labels_without_the_teacher_are_refused(tmp_path, real, start, params, cpu):
    with pytest.raises(TrainingError, match="labels: live needs the teacher"):
        finish(start, real, 2, params(labels="live"), cpu, tmp_path)


def test_images_of_another_teacher_s_classes_are_refused(tmp_path, real, start, params, cpu):
    start.info = start.info.model_copy(update={"teacher": "cd" * 32})
    with pytest.raises(TrainingError, match=rf"the student learned from {'cd' * 32}; make both with one teacher"):
        finish(start, real, 2, params(labels="target"), cpu, tmp_path)


def test_the_block_is_taken_apart_into_its_own_keys_and_those_of_distill():
    few, rest = few_shot_of({"dataset": "real", "per_class": 7, "epochs": 2, "labels": "target"})
    assert (few.dataset, few.per_class) == ("real", 7)
    assert rest == {"epochs": 2, "labels": "target"}
    with pytest.raises(ParamsError, match=r"(?m)^few_shot\.per_class: missing"):
        few_shot_of({"dataset": "real"})
