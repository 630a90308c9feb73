"""One torch thread: on matrices this small a second one only waits for the first."""

import torch

torch.set_num_threads(1)
