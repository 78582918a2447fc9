"""ComfyUI loads this folder as a node pack through this file.

There are no nodes yet: the pack registers none, and the method is used headless through ``vfi_core`` and the
``svd-vfi`` command. Once ``nodes/`` is there, the one line here is ``if __package__: from .nodes import
comfy_entrypoint``; a test runner may import this file as a bare module, where a relative import fails.
"""
