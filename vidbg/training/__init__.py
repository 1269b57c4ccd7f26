"""Training of networks on people's own data; never imported by the main job."""

CHECKPOINT = "last.pt"
"""What a training that was stopped goes on from, in its folder."""

BEST = "best.pt"
"""The weights with the best validation IoU so far, in a training's folder."""
