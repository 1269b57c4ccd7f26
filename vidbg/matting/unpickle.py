"""A PyTorch checkpoint from standard input as safetensors on standard output: a brief program.

    python -P -m vidbg.matting.unpickle NAME < CHECKPOINT

PyTorch takes 200 MB of memory and gives none of it back; whoever computes without it has the file
read by this (:func:`vidbg.matting.weights.read_arrays`). It ends when nobody reads its standard
output any more: whoever asked was killed, and a file that means harm may take long to read.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from pathlib import Path

from vidbg.errors import WeightsError
from vidbg.matting.weights import load_checkpoint


def main() -> int:
    """Write what the checkpoint holds; 1 if it cannot be read, whose reasons others tell better."""
    threading.Thread(target=_end_with_the_reader, daemon=True).start()
    from safetensors.torch import save

    try:
        checkpoint = load_checkpoint(Path(sys.argv[1]), sys.stdin.buffer.read())
    except WeightsError:
        return 1
    # Tensors may be views of one another, which the format does not have.
    tensors = {name: tensor.clone().contiguous() for name, tensor in checkpoint.state_dict.items()}
    side_px = checkpoint.input_side_px
    facts = None if side_px is None else {"input_side_px": str(side_px)}
    sys.stdout.buffer.write(save(tensors, facts))
    return 0


def _end_with_the_reader() -> None:
    """Wait until standard output is closed on its other side, and end the process then."""
    if not hasattr(select, "poll"):  # Windows: it ends when it writes
        return
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # of errors it tells unasked
    poll.poll()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
