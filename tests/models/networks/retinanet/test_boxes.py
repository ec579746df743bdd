"""Boxes and their offsets from anchors."""

import math

import torch

from aaserve.models.networks.retinanet.boxes import clip, decode, encode, iou


def random_boxes(count: int) -> torch.Tensor:
    torch.manual_seed(0)
    left_top = torch.rand(count, 2) * 200
    return torch.cat([left_top, left_top + 1 + torch.rand(count, 2) * 100], dim=1)


def test_decoding_gives_back_what_was_encoded() -> None:
    boxes, anchors = random_boxes(100).split(50)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, atol=1e-3, rtol=0)


def test_an_offset_is_in_widths_and_heights_of_the_anchor_and_logs_of_ratios() -> None:
    anchor = torch.tensor([10.0, 20.0, 30.0, 60.0])  # 20 wide, 40 high
    box = torch.tensor([25.0, 20.0, 35.0, 100.0])  # its centre 10 right and 20 below, 10 wide, 80 high
    torch.testing.assert_close(encode(box, anchor), torch.tensor([0.5, 0.5, -math.log(2), math.log(2)]))


def test_a_wild_offset_gives_a_finite_box() -> None:
    anchor = torch.tensor([0.0, 0.0, 32.0, 32.0])
    box = decode(torch.tensor([0.0, 0.0, 1e4, -1e4]), anchor)
    torch.testing.assert_close(box, torch.tensor([16 - 1000.0, 16.0, 16 + 1000.0, 16.0]))


def test_intersection_over_union_is_of_each_with_each() -> None:
    a = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 5.0, 5.0]])
    b = torch.tensor([[0.0, 0.0, 10.0, 5.0], [5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 30.0, 30.0], [5.0, 5.0, 5.0, 5.0]])
    torch.testing.assert_close(iou(a, b), torch.tensor([[0.5, 1 / 3, 0, 0], [0, 0, 0, 0]]))


def test_clipping_keeps_the_part_inside_the_picture() -> None:
    boxes = torch.tensor([[-5.0, 3.0, 20.0, 40.0], [2.0, -9.0, 3.0, -1.0]])
    assert clip(boxes, (30, 16)).tolist() == [[0, 3, 16, 30], [2, 0, 3, 0]]
