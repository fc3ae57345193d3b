"""Forecasters: the contract, the deep recurrent family, intervals."""
