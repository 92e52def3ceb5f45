"""Architectures that others published weights of, as parts of a denoising world.

Written anew from the papers and from facts about the public code; a world of these parts computes what that code
computes, with the same weights. `dreamenv.importers` reads the weights. `parts` says what a part offers.
"""
