"""Byte text: rows of captions, alone and packed."""

from __future__ import annotations

import pytest
import torch

from vidcurate.train.text import ByteText


@pytest.fixture
def text() -> ByteText:
    torch.manual_seed(0)
    return ByteText(48)


def test_each_caption_has_a_row_that_begins_it_and_one_for_each_byte(text: ByteText) -> None:
    rows, offsets = text.encode(["", "a cat", "été"])
    assert offsets.dtype == torch.int32
    assert offsets.tolist() == [0, 1, 7, 13]  # é is two bytes
    assert rows.shape == (13, 48)


def test_a_packed_caption_is_as_it_is_alone(text: ByteText) -> None:
    captions = ["a long enough caption", "", "another one"]
    rows, offsets = text.encode(captions)
    for i, caption in enumerate(captions):
        own = rows[offsets[i] : offsets[i + 1]]
        assert torch.allclose(own, text.encode([caption])[0], rtol=1e-5, atol=1e-6)


def test_rows_tell_the_order_of_bytes_and_their_place(text: ByteText) -> None:
    one, two = (text.encode([c])[0] for c in ("man bites dog now", "dog bites man now"))
    assert not torch.allclose(one.sum(0), two.sum(0), atol=1e-3), "more than a bag of bytes"
    same = text.encode(["aaaaaaaaaaaaaaaaaaaaaaaa"])[0]
    assert not torch.allclose(same[12], same[20], atol=1e-3)


def test_a_row_sees_its_window_only(text: ByteText) -> None:
    one, two = (text.encode([c])[0] for c in ("x23456789abc", "y23456789abc"))
    assert torch.equal(one[0], two[0])
    assert [bool((a != b).any()) for a, b in zip(one[1:], two[1:], strict=True)] == [True] * 8 + [
        False
    ] * 4


def test_rows_are_trained_and_of_about_unit_size(text: ByteText) -> None:
    rows, _ = text.encode(["A drone flies over a green valley, then over snow."])
    assert 0.5 < rows.std().item() < 2
    rows.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum().item() > 0 for p in text.parameters())


def test_too_long_captions_are_cut_and_counted() -> None:
    text = ByteText(8, max_bytes=10)
    rows, offsets = text.encode(["0123456789", "0123456789x"])
    assert offsets.tolist() == [0, 11, 22]
    assert torch.equal(rows[:11], rows[11:])
    assert text.shortened == 1


def test_a_lone_surrogate_is_no_error(text: ByteText) -> None:
    assert text.encode(["a\ud800b"])[1].tolist() == [0, 4]
