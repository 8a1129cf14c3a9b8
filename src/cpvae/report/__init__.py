"""What a person sees: figures, the page, the explorer, progress."""
