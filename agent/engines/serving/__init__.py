"""From windows to predictions: queue, schedule and the one engine thread, with engines that can be changed under it."""
