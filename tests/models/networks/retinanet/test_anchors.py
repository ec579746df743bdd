"""Anchors: nine a position, sizes by level."""

import torch

from aaserve.models.networks.retinanet.anchors import level_sizes, make_anchors

LEVELS = range(3, 8)


def test_the_papers_network_has_nine_anchors_at_each_position_of_p3_to_p7() -> None:
    anchors = make_anchors((640, 640), LEVELS, base=4, scales=3)
    assert anchors.shape == (9 * (80**2 + 40**2 + 20**2 + 10**2 + 5**2), 4)
    size = anchors[:, 2:] - anchors[:, :2]
    areas = size.prod(dim=1)
    torch.testing.assert_close(areas.min().sqrt().item(), 32.0, atol=1e-3, rtol=0)
    torch.testing.assert_close(areas.max().sqrt().item(), 512 * 2 ** (2 / 3), atol=1e-2, rtol=0)
    ratios = (size[:, 1] / size[:, 0]).round(decimals=3).unique()
    assert ratios.tolist() == [0.5, 1.0, 2.0]


def test_anchors_come_row_by_row_centred_on_the_pixels_of_their_map() -> None:
    anchors = make_anchors((24, 40), [3], base=4, scales=1).unflatten(0, (3, 5, 3))  # (rows, columns, shapes, 4)
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    torch.testing.assert_close(centres[1, 3], torch.tensor([[28.0, 12.0]]).expand(3, 2))
    torch.testing.assert_close(anchors[0, 0, 1], torch.tensor([-12.0, -12.0, 20.0, 20.0]))


def test_sizes_that_strides_do_not_divide_round_up() -> None:
    assert level_sizes((100, 257), LEVELS) == [(13, 33), (7, 17), (4, 9), (2, 5), (1, 3)]
