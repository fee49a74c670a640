"""The stage `train`: the loop over `deepspeed.initialize`, its evaluations, its checkpoints and its result."""
