"""What shape a model has and how it decodes by default, and the Hugging Face files that say so. No torch here."""

from engine.config.hugging_face import SHIPPED, read_config, write_config
from engine.config.shape import FULL, PRESETS, SLIDING, WINDOW_FORMS, GenerationDefaults, ModelConfig

__all__ = [
    "FULL",
    "PRESETS",
    "SHIPPED",
    "SLIDING",
    "WINDOW_FORMS",
    "GenerationDefaults",
    "ModelConfig",
    "read_config",
    "write_config",
]
