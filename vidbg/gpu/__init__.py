"""The data flow of one clip in a device's memory: siblings of the stages, on tensors.

Each module here does on tensors what one of arrays does, and says where the two may differ. They
run on any device, hence their tests on the CPU; a job takes them where its network is on CUDA
(:mod:`vidbg.gpu.stages`).
"""
