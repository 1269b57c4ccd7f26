"""From a picture to an alpha matte."""

import os

# Before torch is first imported: its OpenMP threads otherwise spin while they wait, and with
# one other busy core a frame takes two to ten times as long (measured on two cores).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
