import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.models import SqueezeNet1_1_Weights, get_model

from pipeline.core.errors import TeacherError
from tests.support import make_teacher as make


def published_block(source, **changes):
    block = {"source": source, "name": "squeezenet1_1", "weights": "DEFAULT"}
    return block | {"classes": None, "size": None, "mean": None, "std": None} | changes


def test_torchvision_weights_are_taken_with_what_is_published_with_them(tmp_path, monkeypatch):
    donor = get_model("squeezenet1_1", weights=None).eval()
    asked = []

    def local(self, *arguments, **options):
        asked.append((self.name, options))
        return donor.state_dict()

    monkeypatch.setattr(SqueezeNet1_1_Weights, "get_state_dict", local)
    teacher = make(published_block("torchvision"), tmp_path)
    assert asked[0][0] == "IMAGENET1K_V1"
    assert asked[0][1]["weights_only"] is True
    assert asked[0][1]["check_hash"] is True
    assert teacher.card.arch == "torchvision:squeezenet1_1"
    assert (teacher.card.size, teacher.card.channels, len(teacher.card.classes)) == (224, 3, 1000)
    assert teacher.card.mean == (0.485, 0.456, 0.406)
    assert len(set(teacher.card.classes)) == 1000, "ImageNet has two cranes"
    images = torch.rand(1, 3, 224, 224)
    normalised = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    assert torch.allclose(teacher(images), donor(normalised), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "resnot18"}, r"teacher.name: 'resnot18'"),
        ({"weights": "V9"}, r"teacher.weights: 'V9': must be one of IMAGENET1K_V1, DEFAULT"),
    ],
)
def test_unknown_published_weights_are_named(tmp_path, changes, named):
    with pytest.raises(TeacherError, match=named):
        make(published_block("torchvision", **changes), tmp_path)


def test_a_failed_download_names_the_address(tmp_path, monkeypatch):
    def offline(self, *arguments, **options):
        raise OSError("no route")

    monkeypatch.setattr(SqueezeNet1_1_Weights, "get_state_dict", offline)
    with pytest.raises(TeacherError, match=r"cannot get the weights from https://.*no route"):
        make(published_block("torchvision"), tmp_path)


def test_timm_without_timm_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(TeacherError, match=r"pip install 'photogram\[timm\]'"):
        make(published_block("timm"), tmp_path)


def test_timm_weights_are_taken_with_what_is_published_with_them(tmp_path, monkeypatch):
    def create_model(name, pretrained, num_classes=4, in_chans=3):
        created.append((name, pretrained))
        net = nn.Sequential(nn.Conv2d(in_chans, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))
        net.pretrained_cfg = {"input_size": (3, 20, 20), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        return net

    created = []
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, is_model=lambda name: True))
    block = published_block("timm", name="tiny", weights="in1k", classes=4)
    teacher = make(block, tmp_path)
    assert created == [("tiny.in1k", True), ("tiny", False)]
    assert (teacher.card.arch, teacher.card.size) == ("timm:tiny", 20)
    assert teacher.card.std == (0.25, 0.25, 0.25)


def test_googlenet_gives_the_answers_that_torchvision_publishes_without_its_training_aids(tmp_path, monkeypatch):
    """Its published form has auxiliary classifiers and rescales its input; ours has neither, and must agree."""
    from torchvision.models import GoogLeNet_Weights, googlenet

    donor = googlenet(weights=None, transform_input=True, aux_logits=True, init_weights=False).eval()
    monkeypatch.setattr(GoogLeNet_Weights, "get_state_dict", lambda self, *arguments, **options: donor.state_dict())
    teacher = make(published_block("torchvision", name="googlenet", size=64), tmp_path)
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        assert torch.allclose(teacher(images), donor((images - mean) / std), atol=1e-4)
