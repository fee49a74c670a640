"""The model: loading from safetensors, attention over packed documents, and the loss head."""
