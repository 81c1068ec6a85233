"""From a trained run to a signed bundle: contents, export, engines, validation."""
