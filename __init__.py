"""ComfyUI loads this folder as a node pack through this file; the method itself is ``vfi_core``."""

from importlib.util import find_spec

# A test runner imports this file too, as it does with every __init__.py on its way down to the tests.
if __package__ and find_spec("comfy_api"):
    from .nodes import comfy_entrypoint

    # The help pages. ComfyUI asks for them under the name of this folder; pyproject's `web` would serve them
    # under the name of the project. A page without a language in its name serves every language.
    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
