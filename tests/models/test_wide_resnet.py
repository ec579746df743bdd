"""The shipped network's kind: counts, checkpoint keys, and batch independence."""

import pytest
import torch

from models import create_model


def parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in create_model(name).parameters())


def test_wide_resnet28_10_has_the_papers_36_3_million_parameters() -> None:
    with torch.device("meta"):
        assert parameters("wide_resnet28_10") == 36_278_324


def test_an_unknown_name_is_refused_with_near_misses() -> None:
    with pytest.raises(ValueError, match="did you mean aa_wide_resnet22_2"):
        create_model("aa_wide_resnet22")


@pytest.mark.parametrize("name", ["wide_resnet10_1", "aa_wide_resnet10_1", "aa_wide_resnet22_2"])
def test_rows_of_a_batch_do_not_see_each_other(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=7, image_size=(16, 24)).eval()
    images = torch.randn(3, 3, 16, 24)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert together.shape == (3, 7)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
