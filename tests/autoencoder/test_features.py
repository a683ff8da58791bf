"""EfficientNet-lite0 recognises photographs, and the perceptual distance built on it is a differentiable distance."""

import pytest
import torch
import torch.nn.functional as F

from autoencoder.training.efficientnet import EfficientNetLite0, imagenet_weights
from autoencoder.training.perceptual import PerceptualDistance


@pytest.mark.parametrize(
    ("photograph", "classes"),
    [
        ("chelsea", {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
        ("coffee", {504, 967, 968}),  # coffee mug, espresso, cup
    ],
)
def test_network_recognises_photographs(photograph: str, classes: set[int]) -> None:
    import skimage.data

    x = torch.from_numpy(getattr(skimage.data, photograph)()).permute(2, 0, 1)[None] / 127.5 - 1
    x = F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True)
    weights = imagenet_weights()
    with torch.no_grad():
        logits = F.linear(EfficientNetLite0.pretrained().pooled(x), weights["_fc.weight"], weights["_fc.bias"])
    assert int(logits.argmax()) in classes
    assert float(logits.softmax(1).max()) > 0.3


def test_fewer_stages_give_the_same_first_features_and_no_head() -> None:
    x = torch.rand(1, 3, 33, 30) * 2 - 1
    short, whole = EfficientNetLite0.pretrained(3), EfficientNetLite0.pretrained()
    with torch.no_grad():
        first, every = short.features(x), whole.features(x)
    assert [tuple(f.shape[1:]) for f in first] == [(16, 17, 15), (24, 9, 8), (40, 5, 4)]
    for mine, theirs in zip(first, every, strict=False):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(ValueError, match="stages=3 has no head"):
        short.pooled(x)


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance()


def test_distance_is_zero_at_identity_symmetric_and_grows_with_noise(distance: PerceptualDistance) -> None:
    generator = torch.Generator().manual_seed(0)
    x = F.interpolate(torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1, size=(32, 32), mode="bilinear")
    noise = torch.randn(x.shape, generator=generator)
    assert distance(x, x).abs().max() == 0
    near, far = distance(x + 0.05 * noise, x), distance(x + 0.4 * noise, x)
    assert (near > 0).all() and (far > near).all()
    torch.testing.assert_close(far, distance(x, x + 0.4 * noise))


def test_gradient_reaches_the_picture_but_never_the_network(distance: PerceptualDistance) -> None:
    torch.manual_seed(0)
    x, target = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_(), torch.rand(2, 3, 32, 32) * 2 - 1
    value = distance(x, target).sum()
    value.backward()
    assert x.grad is not None and (x.grad.abs().amax((1, 2, 3)) > 0).all()
    with torch.no_grad():
        assert distance(x - 0.05 * x.grad / x.grad.norm(), target).sum() < value
    assert all(p.grad is None and not p.requires_grad for p in distance.parameters())
