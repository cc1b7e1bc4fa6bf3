"""What the stochastic interpolant is compared with."""
