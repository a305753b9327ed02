"""Triton kernels of the CUDA path, each beside its oracle in plain torch.

Nothing is imported here, and the engine imports a file of this folder only where it will launch it: everything else
must work without Triton. What these kernels compute is tested in Triton's interpreter on a CPU; how fast they are on a
GPU has not been measured.
"""
