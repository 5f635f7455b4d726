"""Where weights come from, and what loads them. Part of the public API for operators.

Importing this loads no torch: each name is loaded when it is first used.

Code that a repository brings along is never run by what is here. An operator whose model needs it
has a parameter `trust_remote_code` of its own, off by default, and hands it to the library that
loads the model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidcurate.models.captioning import read_prompt as read_prompt
    from vidcurate.models.chat import Answer as Answer
    from vidcurate.models.chat import Ask as Ask
    from vidcurate.models.chat import ChatModel as ChatModel
    from vidcurate.models.chat import Decoding as Decoding
    from vidcurate.models.chat import Video as Video
    from vidcurate.models.chat import check_vllm_options as check_vllm_options
    from vidcurate.models.chat_server import ChatServer as ChatServer
    from vidcurate.models.clip_towers import ClipTowers as ClipTowers
    from vidcurate.models.clip_towers import clip_reference as clip_reference
    from vidcurate.models.clip_towers import is_openai_l14 as is_openai_l14
    from vidcurate.models.clip_towers import load_clip as load_clip
    from vidcurate.models.device import free_memory as free_memory
    from vidcurate.models.device import in_batches as in_batches
    from vidcurate.models.device import is_out_of_memory as is_out_of_memory
    from vidcurate.models.device import torch_device as torch_device
    from vidcurate.models.device import torch_dtype as torch_dtype
    from vidcurate.models.heads import load_head as load_head
    from vidcurate.models.hub import fetch as fetch
    from vidcurate.models.hub import is_cached as is_cached
    from vidcurate.models.hub import licence as licence
    from vidcurate.models.hub import resolve as resolve
    from vidcurate.models.image_classifier import ImageClassifier as ImageClassifier
    from vidcurate.models.image_classifier import classifier_reference as classifier_reference
    from vidcurate.models.image_classifier import load_classifier as load_classifier
    from vidcurate.models.local_chat import load_text_llm as load_text_llm
    from vidcurate.models.local_chat import load_video_llm as load_video_llm
    from vidcurate.models.reference import ModelRef as ModelRef
    from vidcurate.models.text_encoder import TextConfig as TextConfig
    from vidcurate.models.text_encoder import TextTower as TextTower
    from vidcurate.models.text_encoder import load_text_encoder as load_text_encoder
    from vidcurate.models.text_encoder import text_encoder_config as text_encoder_config
    from vidcurate.models.torchvision_ops import prepare as prepare_torchvision
    from vidcurate.models.vae import Vae as Vae
    from vidcurate.models.vae import VaeConfig as VaeConfig
    from vidcurate.models.vae import latent_times as latent_times
    from vidcurate.models.vae import load_vae as load_vae
    from vidcurate.models.vae import vae_config as vae_config
    from vidcurate.models.vllm_engine import load_vllm as load_vllm
    from vidcurate.models.weights import load_state as load_state

_HOME = {
    "TextConfig": ("text_encoder", "TextConfig"),
    "TextTower": ("text_encoder", "TextTower"),
    "load_text_encoder": ("text_encoder", "load_text_encoder"),
    "text_encoder_config": ("text_encoder", "text_encoder_config"),
    "Vae": ("vae", "Vae"),
    "VaeConfig": ("vae", "VaeConfig"),
    "latent_times": ("vae", "latent_times"),
    "load_vae": ("vae", "load_vae"),
    "vae_config": ("vae", "vae_config"),
    "ClipTowers": ("clip_towers", "ClipTowers"),
    "ImageClassifier": ("image_classifier", "ImageClassifier"),
    "classifier_reference": ("image_classifier", "classifier_reference"),
    "clip_reference": ("clip_towers", "clip_reference"),
    "is_openai_l14": ("clip_towers", "is_openai_l14"),
    "load_classifier": ("image_classifier", "load_classifier"),
    "load_clip": ("clip_towers", "load_clip"),
    "load_head": ("heads", "load_head"),
    "Answer": ("chat", "Answer"),
    "Ask": ("chat", "Ask"),
    "ChatModel": ("chat", "ChatModel"),
    "ChatServer": ("chat_server", "ChatServer"),
    "Decoding": ("chat", "Decoding"),
    "Video": ("chat", "Video"),
    "check_vllm_options": ("chat", "check_vllm_options"),
    "load_text_llm": ("local_chat", "load_text_llm"),
    "load_video_llm": ("local_chat", "load_video_llm"),
    "load_vllm": ("vllm_engine", "load_vllm"),
    "read_prompt": ("captioning", "read_prompt"),
    "fetch": ("hub", "fetch"),
    "free_memory": ("device", "free_memory"),
    "in_batches": ("device", "in_batches"),
    "is_cached": ("hub", "is_cached"),
    "is_out_of_memory": ("device", "is_out_of_memory"),
    "licence": ("hub", "licence"),
    "load_state": ("weights", "load_state"),
    "ModelRef": ("reference", "ModelRef"),
    "prepare_torchvision": ("torchvision_ops", "prepare"),
    "resolve": ("hub", "resolve"),
    "torch_device": ("device", "torch_device"),
    "torch_dtype": ("device", "torch_dtype"),
}

__all__ = [
    "Answer",
    "Ask",
    "ChatModel",
    "ChatServer",
    "ClipTowers",
    "Decoding",
    "ImageClassifier",
    "ModelRef",
    "TextConfig",
    "TextTower",
    "Vae",
    "VaeConfig",
    "Video",
    "check_vllm_options",
    "classifier_reference",
    "clip_reference",
    "fetch",
    "free_memory",
    "in_batches",
    "is_cached",
    "is_openai_l14",
    "is_out_of_memory",
    "latent_times",
    "licence",
    "load_classifier",
    "load_clip",
    "load_head",
    "load_state",
    "load_text_encoder",
    "load_text_llm",
    "load_vae",
    "load_video_llm",
    "load_vllm",
    "prepare_torchvision",
    "read_prompt",
    "resolve",
    "text_encoder_config",
    "torch_device",
    "torch_dtype",
    "vae_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vidcurate.models' has no attribute {name!r}")
    module, own_name = _HOME[name]
    return getattr(import_module(f"vidcurate.models.{module}"), own_name)
