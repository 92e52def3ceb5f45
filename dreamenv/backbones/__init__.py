"""The worlds: each module is one family of backbones. Asked for by name through :mod:`dreamenv.presets`."""
