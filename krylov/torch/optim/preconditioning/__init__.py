"""Policies that give each system of an optimizer its preconditioner, and the Kronecker factors of affine layers."""
