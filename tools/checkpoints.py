"""Tiny checkpoints in the true formats, with random weights: what tests load in place of real ones.

Each function writes one into `folder`, which it makes, and returns the folder. The same call
writes the same weights. Tests take them by the fixture `checkpoint`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yunet import write_yunet  # noqa: F401 (one of the checkpoints)

_TEXT = (
    "The video shows a dog that runs over a green field while the camera pans to the left.",
    "A woman in a red coat walks along a street at night; neon signs shine in the rain.",
    "Two people talk in a kitchen. One of them cuts bread, the other pours coffee.",
    "An aerial shot of a coast: waves break on black rocks, birds fly past, the sun sets.",
    "Describe the video in one sentence. Answer yes or no. user assistant system subject motion",
    '{"subject": "a car", "motion": "it drives", "camera": "static", "style": "documentary"}',
)

_QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_LLAVA_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")

# As the families' own templates lay a conversation out; content is a string or a list of parts.
_CHAT = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- 'IMAGE' -}}"
    "{%- elif part['type'] == 'video' -%}{{- 'VIDEO' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
_SPREAD = 0.3  # of random weights: wide enough that what is generated depends on what is seen


def write_open_clip(folder: Path, embed_dim: int = 32) -> Path:
    """An open_clip ViT (32x32 pixels, patch 16) with a text tower, in the layout of the hub."""
    from vidcurate.models import prepare_torchvision

    prepare_torchvision()  # open_clip imports it
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model_cfg: dict[str, Any] = {
        "embed_dim": embed_dim,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 2,
        },
    }
    preprocess_cfg = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    model = open_clip.CLIP(
        embed_dim,
        vision_cfg=open_clip.CLIPVisionCfg(**model_cfg["vision_cfg"]),
        text_cfg=open_clip.CLIPTextCfg(**model_cfg["text_cfg"]),
    )
    folder.mkdir(parents=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: t.contiguous() for name, t in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def write_open_clip_l14(folder: Path) -> Path:
    """An open_clip model with the 768 dimensions of ViT-L/14, which aesthetic heads ask for."""
    return write_open_clip(folder, embed_dim=768)


def write_siglip(folder: Path) -> Path:
    """A SigLIP (32x32 pixels, squashed) as open_clip lays it out: timm's tower, T5's tokenizer."""
    from vidcurate.models import prepare_torchvision

    prepare_torchvision()  # open_clip imports it
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model_cfg: dict[str, Any] = {
        "embed_dim": 64,  # of timm's test_vit
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 64,
            "vocab_size": 200,
            "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 64,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    }
    preprocess_cfg = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    model = open_clip.CustomTextCLIP(**{k: v for k, v in model_cfg.items() if k != "custom_text"})
    _t5_tokenizer().save_pretrained(folder)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: t.contiguous() for name, t in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def write_image_classifier(folder: Path, labels: Sequence[str] = ("normal", "nsfw")) -> Path:
    """A ViT (32x32 pixels) that classifies images into `labels`, with its processor."""
    import torch

    from vidcurate.models import prepare_torchvision

    prepare_torchvision()  # the processor imports it
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    names = dict(enumerate(labels))
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        initializer_range=_SPREAD,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    ViTForImageClassification(config).eval().save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_videomae(folder: Path, pretrained: bool = False) -> Path:
    """A VideoMAE (4 frames of 32x32 pixels) that classifies clips, or as pre-training left it."""
    import torch

    from vidcurate.models import prepare_torchvision

    prepare_torchvision()  # the processor imports it
    from transformers import (
        VideoMAEConfig,
        VideoMAEForPreTraining,
        VideoMAEForVideoClassification,
        VideoMAEImageProcessor,
    )

    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        decoder_hidden_size=16,
        decoder_intermediate_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        initializer_range=_SPREAD,
        use_mean_pooling=not pretrained,
        num_labels=5,
    )
    kind = VideoMAEForPreTraining if pretrained else VideoMAEForVideoClassification
    kind(config).eval().save_pretrained(folder)
    VideoMAEImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def write_dinov2(folder: Path) -> Path:
    """A DINOv2 (28x28 pixels, cut from 32), which has no labels."""
    import torch

    from vidcurate.models import prepare_torchvision

    prepare_torchvision()  # the processor imports it
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        image_size=28,
        patch_size=14,
        hidden_size=32,
        mlp_ratio=2,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=_SPREAD,
    )
    Dinov2Model(config).eval().save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(folder)
    return folder


def write_text_llm(folder: Path) -> Path:
    """A Qwen2 language model with its tokenizer and chat template."""
    import torch
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = _tokenizer(_QWEN_TOKENS)
    tokenizer.chat_template = _CHAT
    tokenizer.save_pretrained(folder)
    _save(Qwen2ForCausalLM(_text_config(tokenizer)), tokenizer, folder)
    return folder


def write_text_encoder(folder: Path, family: str = "t5", in_pieces: bool = False) -> Path:
    """The encoder of a T5 or UMT5, with its tokenizer (sentence pieces, `</s>` at the end).

    in_pieces: the weights as several files with an index, as large ones come.
    """
    import torch

    from vidcurate.models import prepare_torchvision

    prepare_torchvision()  # the model's file imports it
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    tokenizer = _t5_tokenizer()
    tokenizer.save_pretrained(folder)
    kinds = {"t5": (T5Config, T5EncoderModel), "umt5": (UMT5Config, UMT5EncoderModel)}
    make_config, make_model = kinds[family]
    config = make_config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2
    )
    model = make_model(config).eval()
    model.save_pretrained(folder, **({"max_shard_size": 20_000} if in_pieces else {}))
    return folder


def write_clip_text(folder: Path, whole: bool = False) -> Path:
    """CLIP's text tower with its tokenizer (77 tokens at most); `whole`: with the image tower."""
    import torch

    from vidcurate.models import prepare_torchvision

    prepare_torchvision()  # the model's file imports it
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig

    torch.manual_seed(0)
    tokenizer = _clip_tokenizer()
    tokenizer.save_pretrained(folder)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=5.0,  # random weights: wide enough that the words matter
    )
    if not whole:
        CLIPTextModel(text).eval().save_pretrained(folder)
        return folder
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        image_size=32,
        patch_size=16,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16
    )
    CLIPModel(config).eval().save_pretrained(folder)
    return folder


def write_vae(folder: Path, kind: str = "AutoencoderKLWan", patch_size: int | None = None) -> Path:
    """A VAE of diffusers: AutoencoderKLWan, AutoencoderKL or AutoencoderTiny.

    Wan: 4 frames and 8 x 8 pixels to one latent of 16 channels, as of Wan 2.1; with `patch_size` 2
    it has 16 x 16 pixels and residual sampling, as of Wan 2.2. The others: a frame and 8 x 8
    pixels to one latent of 4 channels.
    """
    import torch

    from vidcurate.models import prepare_torchvision

    prepare_torchvision()  # diffusers may import it
    import diffusers

    torch.manual_seed(0)
    more: dict[str, Any] = {}
    if patch_size is not None:
        pixels = 3 * patch_size**2
        more = {"patch_size": patch_size, "in_channels": pixels, "out_channels": pixels}
        more |= {"is_residual": True, "scale_factor_spatial": 8 * patch_size}
    settings: dict[str, dict[str, Any]] = {
        "AutoencoderKLWan": {"base_dim": 8, "num_res_blocks": 1, **more},
        "AutoencoderKL": {
            "block_out_channels": (8, 8, 16, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "norm_num_groups": 4,
            "scaling_factor": 0.5,
            "shift_factor": 0.1,
        },
        "AutoencoderTiny": {
            "encoder_block_out_channels": (8,) * 4,
            "decoder_block_out_channels": (8,) * 4,
        },
    }
    getattr(diffusers, kind)(**settings[kind]).eval().save_pretrained(folder)
    return folder


def write_trained(folder: Path, vae: str | None = None, text: str | None = None) -> Path:
    """A trainer's output of one checkpoint: random weights, as after training nothing.

    vae, text: folders of `write_vae` and `write_text_encoder`; without them it makes pixels of
    bytes. Patches are (1, 2, 2) of latents, (1, 4, 4) of pixels; it is like clips of 9 frames of
    32x32 at 8 frames a second.
    """
    import torch

    from vidcurate.models import text_encoder_config, vae_config
    from vidcurate.train.checkpoint import Saver
    from vidcurate.train.model.config import ModelConfig
    from vidcurate.train.network import Network
    from vidcurate.train.parallel import placed

    encode: dict[str, Any] = {"vae": vae, "text": text, "max_text_tokens": 32, "facts": {}}
    encode |= {"channels": 3, "compression": [1, 1, 1], "causal": False, "text_width": None}
    if vae is not None:
        code = vae_config(vae)
        encode |= {"channels": code.channels, "compression": list(code.compression)}
        encode["causal"], encode["facts"]["vae"] = code.causal, code.facts
    if text is not None:
        tower = text_encoder_config(text)
        encode["text_width"], encode["facts"]["text"] = tower.width, tower.facts
    model = ModelConfig(
        width=32,
        depth=2,
        heads=2,
        patch=(1, 4, 4) if vae is None else (1, 2, 2),
        channels=encode["channels"],
        text_width=encode["text_width"] or 16,
    )
    torch.manual_seed(0)
    network = Network(model, rows=text is not None)
    with torch.no_grad():  # it begins as zero
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    said = {
        "model": model.model_dump(mode="json", exclude={"preset"}),
        "objective": {"name": "flow", "shift": 1.0},
        "averaged": False,
        "like": {"frames": 9, "height": 32, "width": 32, "fps": 8.0},
        "encode": encode,
    }
    with placed("cpu") as place:
        saver = Saver(folder / "checkpoints", 1, place)
        saver.save({"model": dict(network.state_dict())}, 1, said)
        saver.finish()
    return folder


def write_video_llm(folder: Path, family: str = "qwen2_5_vl") -> Path:
    """A video language model: qwen2_5_vl, qwen3_vl or llava_onevision, of about 0.2 M parameters.

    With tokenizer, processor and chat template; it generates from a few frames in a second.
    """
    import torch

    from vidcurate.models import prepare_torchvision

    prepare_torchvision()  # the processors import it
    torch.manual_seed(0)
    writers = {
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen3_vl": _qwen3_vl,
        "llava_onevision": _llava_onevision,
    }
    model, processor = writers[family]()
    processor.save_pretrained(folder)
    _save(model, processor.tokenizer, folder)
    return folder


def _qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = _tokenizer(_QWEN_TOKENS)
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 8}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=size, patch_size=14),
        tokenizer,
        Qwen2VLVideoProcessor(size=size, patch_size=14),
        chat_template=_qwen_chat(),
    )
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "window_size": 56,
        "initializer_range": _SPREAD,
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=_text_config(tokenizer, rope_parameters=rope).to_dict()
        | {"model_type": "qwen2_5_vl_text"},
        **_vision_ids(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = _tokenizer(_QWEN_TOKENS)
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(
            size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 8}, patch_size=16
        ),
        tokenizer,
        Qwen3VLVideoProcessor(
            size={"shortest_edge": 4 * 32 * 32, "longest_edge": 16 * 32 * 32}, patch_size=16
        ),
        chat_template=_qwen_chat(video="<|video_pad|>"),  # the processor frames it by times
    )
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
        "initializer_range": _SPREAD,
    }
    rope = {
        "rope_type": "default",
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
    }
    config = Qwen3VLConfig(
        vision_config=vision,
        text_config=_text_config(tokenizer, rope_parameters=rope).to_dict()
        | {"model_type": "qwen3_vl_text", "head_dim": 16},
        **_vision_ids(tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        SiglipVisionConfig,
    )

    tokenizer = _tokenizer(_LLAVA_TOKENS)
    side = 56
    pinpoints = [[side, side], [side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    size = {"height": side, "width": side}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_CHAT.replace("IMAGE", "<image>\n").replace("VIDEO", "<video>\n"),
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=_text_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def _t5_tokenizer() -> Any:
    """T5's tokenizer (sentence pieces) over a vocabulary of our own sentences."""
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.trainers import UnigramTrainer
    from transformers import T5Tokenizer

    trained = Tokenizer(Unigram())
    trained.pre_tokenizer = Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(_TEXT, trainer)
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    tokenizer = T5Tokenizer(vocab=[tuple(piece) for piece in pieces], extra_ids=0)
    tokenizer.model_max_length = 512
    return tokenizer


def _clip_tokenizer() -> Any:
    """CLIP's tokenizer (byte pairs of words, in lower case) over our own sentences."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import CLIPTokenizer

    begin, end = "<|startoftext|>", "<|endoftext|>"
    trained = Tokenizer(BPE(unk_token=end, end_of_word_suffix="</w>"))
    trained.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=600,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=[begin, end],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator([text.lower() for text in _TEXT], trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = CLIPTokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]]
    )
    tokenizer.model_max_length = 77
    return tokenizer


def _tokenizer(special: Sequence[str]) -> Any:
    """Qwen2's tokenizer (byte pairs) over a vocabulary of our own sentences."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import Qwen2Tokenizer

    trained = Tokenizer(BPE())
    trained.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=480, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    trained.train_from_iterator(_TEXT, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(special),
    )
    tokenizer.model_max_length = 4096
    return tokenizer


def _text_config(tokenizer: Any, **more: Any) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        initializer_range=_SPREAD,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def _vision_ids(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def _qwen_chat(video: str = "<|vision_start|><|video_pad|><|vision_end|>") -> str:
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    return _CHAT.replace("IMAGE", image).replace("VIDEO", video)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.eval().save_pretrained(folder)
