"""Tests on a real SLURM of one machine: make test-cluster."""
