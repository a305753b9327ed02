"""Names of backends -> where they live. A module loads when its backend is chosen, and so do its packages."""

from __future__ import annotations

from importlib import import_module

from harness.measuring.backends.base import Backend
from harness.spec.config import ConfigError, SuiteConfig

# name -> (module, class, extra of pyproject.toml that installs what it needs)
BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "reference": ("harness.measuring.backends.reference", "ReferenceBackend", None),
    "transformers": ("harness.measuring.backends.transformers", "TransformersBackend", "hf"),
    "fake": ("harness.measuring.backends.fake", "FakeBackend", None),
}


def create(name: str) -> Backend:
    """A backend by its name.

    Raises:
        ConfigError: a package that it needs is not installed, or too old; the message says what to install.
    """
    module, class_name, extra = BACKENDS[name]
    try:
        backend: Backend = getattr(import_module(module), class_name)()
    except ImportError as error:
        lacks = isinstance(error, ModuleNotFoundError)
        what = f"{error.name or error} is not installed" if lacks else f"{error.name} does not fit: {error.msg}"
        hint = f"in the project's folder: pip install -c constraints.txt -e '.[{extra}]'" if extra else "make demo"
        raise ConfigError(f"backend {name}: {what}\n{hint}") from None
    return backend


def create_all(config: SuiteConfig) -> dict[str, Backend]:
    """All that a suite names, at once: what is not installed is said before anything is measured.

    Raises:
        ConfigError: as `create`.
    """
    return {name: create(name) for name in (config.backend, config.peer) if name}
