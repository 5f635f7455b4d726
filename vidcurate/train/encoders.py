"""The reader's batches to clips as the model sees them, by the frozen models that this takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vidcurate.errors import DamagedSampleError
from vidcurate.shards import Batch
from vidcurate.shards.tar_samples import DERIVED_SUFFIX
from vidcurate.train.codes import PRECACHE, Codes
from vidcurate.train.config import TrainConfig
from vidcurate.train.data import Clips, blank, clips, pixels, seconds_of, slots
from vidcurate.train.model.layout import offsets_of
from vidcurate.train.precache import derived
from vidcurate.train.precache.derived import Encoded

if TYPE_CHECKING:
    from vidcurate.models.text_encoder import TextTower
    from vidcurate.models.vae import Vae


class Encoders:
    """Makes the model's clips of the reader's batches; holds the frozen models that this takes.

    What is precached needs none of these; `decode` loads its VAE at the first call, or with
    `decodes` at once.

    Raises:
        ModelError: weights cannot be had. MissingExtraError: of a package. StoreError: a precached
            set cannot be read.
    """

    def __init__(
        self, config: TrainConfig, codes: Codes, device: torch.device, *, decodes: bool = False
    ) -> None:
        self.codes = codes
        self._device = device
        self._patch = config.model.patch
        self._drop = config.data.rendered(drop=True).drop
        self._vae: Vae | None = None
        self._tower: TextTower | None = None
        self._empty: list[Tensor] = []
        fly = codes.sets is None
        if codes.encode.vae is not None and (fly or decodes):
            self._vae = self._loaded_vae()
        if codes.text_width is not None:
            if codes.sets is not None:
                self._empty = [derived.empty_text(root) for root in codes.sets]
            else:
                self._tower = self._loaded_text()
                self._empty = [self._tower.encode([""])[0]]

    def __call__(self, batch: Batch, *, drop: bool) -> Clips:
        """The clips of a batch that can be learnt from; without one, a blank one.

        drop: of precached text the empty prompt is taken at the recipe's rate; captions are dropped
        by the reader.

        Raises:
            DamagedSampleError: a precached sample is not what was written.
            ModelError: the device's memory ran out.
        """
        if not slots(batch):
            return blank(self._patch, self.codes.channels, self.codes.text_width)
        if self.codes.sets is not None:
            return self._read(batch, drop=drop)
        vae = self._vae
        own = clips(batch, self._patch) if vae is None else self._encoded(batch, vae)
        if self._tower is not None:
            rows, offsets = self._tower.encode(own.captions)
            own = replace(own, texts=list(rows.split(offsets.diff().tolist())))
        return own

    @property
    def empty(self) -> Tensor:
        """Rows (L, width) of the empty prompt, of a frozen encoder."""
        return self._empty[0]

    def decode(self, latent: Tensor) -> Tensor:
        """RGB in -1..1, float32 (T, 3, H, W), of a latent."""
        if self.codes.encode.vae is None:
            return latent
        if self._vae is None:
            self._vae = self._loaded_vae()
        return self._vae.decode(latent)

    def _loaded_vae(self) -> Vae:
        from vidcurate.models.vae import load_vae

        assert self.codes.encode.vae is not None
        return load_vae(self.codes.encode.vae, device=self._device)

    def _loaded_text(self) -> TextTower:
        from vidcurate.models.text_encoder import load_text_encoder

        encode = self.codes.encode
        assert encode.text is not None
        return load_text_encoder(
            encode.text, max_tokens=encode.max_text_tokens, device=self._device
        )

    def _encoded(self, batch: Batch, vae: Vae) -> Clips:
        """Of pixels, one clip after another, as they are four times the reader's bytes."""
        from vidcurate.models.vae import latent_times

        real = slots(batch)
        latents, times, ends = [], [], []
        for i in real:
            video, at = pixels(batch, i)
            latents.append(vae.encode(video))
            times.append(latent_times(at, vae.config))
            ends.append((video[-1:].clone(), at[-1:]))

        def last(i: int) -> tuple[Tensor, Tensor]:
            frame, at = ends[i]
            return vae.encode(frame), at

        return Clips(
            [batch.sample_ids[i] for i in real],
            [batch.captions[i] for i in real],
            latents,
            times,
            torch.ones(len(real)),
            sum(seconds_of(own, self.codes.compression[0]) for own in times),
            last=last if self.codes.chained else None,
        )

    def _read(self, batch: Batch, *, drop: bool) -> Clips:
        """Of a precached set."""
        real = slots(batch)
        found = [_encoded_of(batch, i) for i in real]
        begin = [one.times[0] for one in found]
        times = [one.times - at for one, at in zip(found, begin, strict=True)]

        def last(i: int) -> tuple[Tensor, Tensor]:
            one = found[i]
            assert one.last is not None
            assert one.last_time is not None
            return one.last.float(), one.last_time - begin[i]

        texts = None
        if self.codes.text_width is not None:
            texts = []
            for i, one in zip(real, found, strict=True):
                sample = batch.samples[i]
                assert sample is not None
                dropped, place = np.random.default_rng(sample.seed).random(2)
                rows = one.texts[int(place * len(one.texts))]
                texts.append(self._empty[batch.source] if drop and dropped < self._drop else rows)
        along = self.codes.compression[0]
        return Clips(
            [batch.sample_ids[i] for i in real],
            [batch.captions[i] for i in real],
            [one.latent.float() for one in found],
            times,
            torch.ones(len(real)),
            sum(seconds_of(own, along) for own in times),
            texts,
            last if self.codes.chained else None,
        )


def _encoded_of(batch: Batch, slot: int) -> Encoded:
    """The tensors of a sample of a precached set."""
    sample = batch.samples[slot]
    assert sample is not None
    data = sample.members.get(DERIVED_SUFFIX)
    try:
        if data is None:
            raise DamagedSampleError("it has no file of tensors")
        return derived.read_sample(data)
    except DamagedSampleError as error:
        raise DamagedSampleError(
            f"{sample.row['shard']}: {batch.sample_ids[slot]}: {error}; `{PRECACHE}` makes it anew"
        ) from error


@dataclass
class KnownText:
    """A `TextEncoder` of texts whose rows (L, width) are known, by name."""

    rows: Mapping[str, Tensor]
    width: int
    device: torch.device

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rows and offsets; see `TextEncoder`."""
        found = [self.rows[name].to(self.device).float() for name in captions]
        return torch.cat(found), offsets_of(torch.tensor([len(rows) for rows in found]))
