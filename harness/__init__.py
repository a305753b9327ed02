"""canvasbench: where is block diffusion faster than autoregressive decoding, by how much, and why?"""

__version__ = "0.1.0"
