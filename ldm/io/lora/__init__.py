"""Adapter files: what kohya, ComfyUI, diffusers and PEFT call the layers, and where each of them keeps the alpha."""
