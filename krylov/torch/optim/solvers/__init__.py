"""Minimisers of the quadratic model: truncated Krylov runs, steps in a Krylov subspace, exact ones, a series."""
