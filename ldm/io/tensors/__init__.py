"""Files of tensors, read and written tensor by tensor: safetensors and PyTorch pickles."""
