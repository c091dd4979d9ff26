import pytest
import torch

from compressor.data import Augmentation, Loader, Preprocessing, TensorSplit, num_batches
from compressor.data.small_images import augment, mean_and_std, normalise

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3, size=(3, 8, 8))


@pytest.fixture
def split() -> TensorSplit:
    """Image i has the value i + 1 everywhere, so that a batch tells which images are in it."""
    images = torch.arange(1, 26, dtype=torch.uint8)[:, None, None, None].expand(25, 3, 8, 8).contiguous()
    return TensorSplit(images, torch.arange(25), Augmentation(crop_padding=2, flip=True))


def labels_of(split: TensorSplit, loader: Loader) -> list[int]:
    return [label for _, labels in split.batches(loader, PLAIN) for label in labels.tolist()]


def test_evaluation_sees_every_image_once_in_order(split: TensorSplit) -> None:
    assert labels_of(split, Loader(4)) == list(range(25))


def test_training_sees_whole_batches_of_different_images_in_another_order_each_epoch(
    split: TensorSplit,
) -> None:
    first, second = (labels_of(split, Loader(4, shuffle=True, epoch=epoch)) for epoch in (0, 1))
    assert len(first) == len(set(first)) == 24
    assert first != second
    assert num_batches(25, Loader(4, shuffle=True)) == 6
    assert num_batches(3, Loader(4, shuffle=True)) == 1, "a split smaller than a batch is one batch"


def test_images_and_labels_stay_together(split: TensorSplit) -> None:
    for images, labels in split.batches(Loader(4, shuffle=True, augment=True), PLAIN):
        assert torch.equal(images.amax((1, 2, 3)).round().long() - 1, labels)


def test_the_same_loader_gives_the_same_batches_and_leaves_the_global_state_alone(split: TensorSplit) -> None:
    loader = Loader(4, shuffle=True, augment=True, seed=3, epoch=5)
    before = torch.get_rng_state()
    first = [images for images, _ in split.batches(loader, PLAIN)]
    again = [images for images, _ in split.batches(loader, PLAIN)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_ranks_share_each_batch_and_treat_images_alike(split: TensorSplit) -> None:
    whole = list(split.batches(Loader(6, shuffle=True, augment=True), PLAIN))
    shares = [
        list(split.batches(Loader(6, shuffle=True, augment=True, rank=rank, num_ranks=2), PLAIN)) for rank in (0, 1)
    ]
    for (images, labels), (images0, labels0), (images1, labels1) in zip(whole, *shares, strict=True):
        assert torch.equal(images[0::2], images0)
        assert torch.equal(images[1::2], images1)
        assert torch.equal(labels, torch.stack([labels0, labels1], 1).flatten())


def test_augmentation_crops_and_mirrors_each_image_by_itself() -> None:
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    crops = [padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    allowed = {tuple(view.flatten().tolist()) for crop in crops for view in (crop, crop.flip(3))}
    augmented = augment(
        image.expand(400, 1, 8, 8),
        Augmentation(crop_padding=2, flip=True),
        places=torch.arange(400),
        of=400,
        generator=torch.Generator().manual_seed(0),
    )
    came = {tuple(view.flatten().tolist()) for view in augmented}
    assert came == allowed, "400 draws give each of the 50 views, and nothing else"


def test_no_augmentation_changes_nothing() -> None:
    images = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    same = augment(images, Augmentation(), places=torch.arange(5), of=5, generator=generator)
    assert torch.equal(same, images)


def test_normalised_images_have_mean_zero_and_deviation_one() -> None:
    images = torch.randint(0, 200, (50, 3, 6, 6), dtype=torch.uint8)
    images[:, 2] = 7
    preprocessing = Preprocessing(*mean_and_std(images), (3, 6, 6))
    values = normalise(images, preprocessing)
    assert values.mean((0, 2, 3)).abs().max() < 1e-5
    assert values[:, :2].std((0, 2, 3), unbiased=False).sub(1).abs().max() < 1e-5
    assert not values[:, 2].isnan().any(), "a constant channel is not divided by zero"


def test_preprocessing_survives_json() -> None:
    assert Preprocessing.from_json(PLAIN.to_json()) == PLAIN
