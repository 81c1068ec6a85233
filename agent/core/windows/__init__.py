"""From blocks of samples to windows and gaps."""
