"""Encoders: the protocols stages rely on, and one backend a file behind them."""
